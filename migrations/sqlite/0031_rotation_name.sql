-- When the authority that issued what is used is asked next when it wishes it to be replaced; at once where nothing stands here.
ALTER TABLE rotation ADD COLUMN renewal_next_at TEXT;

-- Rotations are listed by name, a page at a time: all, those of an identity, in a phase, and under way.
CREATE INDEX rotation_name ON rotation (name);
CREATE INDEX rotation_nhi_name ON rotation (nhi_key, name);
CREATE INDEX rotation_phase_name ON rotation (phase, name);
CREATE INDEX rotation_open_name ON rotation (name) WHERE open_case IS NOT NULL;
