-- Tokens of the HTTP API. Few rows and nothing of the hot path: in a distributed database a reference table.

CREATE TABLE api_token (
    name text PRIMARY KEY,
    -- SHA-256 of the token. The token itself is shown once and kept nowhere.
    token_hash bytea NOT NULL UNIQUE,
    -- Names separated by commas: read, operate, approve, admin.
    roles text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- By the day, so that a busy token is written once a day and not once a request.
    last_used_day date,
    revoked_at timestamptz
);
