-- That strangers know a credential, from when somebody says so until another is in its place: nothing that ends on the way loses it.
ALTER TABLE rotation ADD COLUMN exposed_at TEXT;
ALTER TABLE rotation ADD COLUMN exposed_by TEXT;
ALTER TABLE rotation ADD COLUMN exposed_reason TEXT;
-- Whether what the case under way puts into use is known too: when it is closed another begins at once.
ALTER TABLE rotation ADD COLUMN exposed_again INTEGER NOT NULL DEFAULT 0;
