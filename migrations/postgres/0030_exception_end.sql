-- When a right goes that no role gives and somebody confirmed; none for those that were confirmed before ends were kept.
-- `until` says how long a right is kept that is handed over or asked about, and is written anew by every plan.
ALTER TABLE grant_held ADD COLUMN exception_until TIMESTAMPTZ;
