-- Tokens of the HTTP API. Times are microseconds since 1970 UTC.

CREATE TABLE api_token (
    name TEXT PRIMARY KEY,
    -- SHA-256 of the token. The token itself is shown once and kept nowhere.
    token_hash BLOB NOT NULL UNIQUE,
    -- Names separated by commas: read, operate, approve, admin.
    roles TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- By the day, so that a busy token is written once a day and not once a request.
    last_used_day TEXT,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;
