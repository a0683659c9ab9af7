-- When the authority that issued what is used wishes it to be replaced (RFC 9773), and when it was asked last.
ALTER TABLE rotation ADD COLUMN renewal_from TIMESTAMPTZ;
ALTER TABLE rotation ADD COLUMN renewal_until TIMESTAMPTZ;
ALTER TABLE rotation ADD COLUMN renewal_asked_at TIMESTAMPTZ;
