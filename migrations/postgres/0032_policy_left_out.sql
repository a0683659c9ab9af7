-- Whom a rollout of a policy left out, and why. All of them come under the policy in force when the reason is gone. Rows lie in the
-- shard of the person.
CREATE TABLE policy_left_out (
    shard_id INTEGER NOT NULL,
    identity_key TEXT NOT NULL,
    -- The rollout that sees to it that they come: a later one takes the place of an earlier one.
    rollout_id TEXT NOT NULL,
    -- question | rule
    reason TEXT NOT NULL,
    -- The questions that are open, or the rule that has no answer.
    about TEXT NOT NULL,
    -- What the rule asks for; NULL when that is not why it has no answer.
    attribute TEXT,
    why TEXT NOT NULL,
    -- Since when, and since which rollout, they are left out.
    since TIMESTAMPTZ NOT NULL,
    since_rollout_id TEXT NOT NULL,
    PRIMARY KEY (shard_id, identity_key)
);

-- When everybody was looked at; NULL before.
ALTER TABLE policy_rollout ADD COLUMN finished_at TIMESTAMPTZ;
-- When those who were left out were looked at last.
ALTER TABLE policy_rollout ADD COLUMN left_out_looked_at TIMESTAMPTZ;
-- What it gave and took so far, by slice: with it the guard measures those who come later.
ALTER TABLE policy_rollout ADD COLUMN counted JSONB;
