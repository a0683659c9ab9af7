-- When the authority that issued what is used wishes it to be replaced (RFC 9773), and when it was asked last.
ALTER TABLE rotation ADD COLUMN renewal_from TEXT;
ALTER TABLE rotation ADD COLUMN renewal_until TEXT;
ALTER TABLE rotation ADD COLUMN renewal_asked_at TEXT;
