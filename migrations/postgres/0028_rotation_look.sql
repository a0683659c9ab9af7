-- What is looked at every few seconds finds what it wants without walking over what is stored: rotations under way and overdue, and
-- uses that were seen, by what is used.
CREATE INDEX rotation_open ON rotation (phase) WHERE open_case IS NOT NULL;
CREATE INDEX rotation_due ON rotation (due_at) WHERE wanted AND planned AND promoted_at IS NULL;
CREATE INDEX graph_edge_seen ON graph_edge (to_node) WHERE relation = 'uses' AND confidence = 'observed';
