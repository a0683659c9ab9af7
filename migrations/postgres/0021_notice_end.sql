-- For the notice of an end: that end. The notice is void when it is another by the time it is sent.
ALTER TABLE notice ADD COLUMN ends_at TIMESTAMPTZ;
