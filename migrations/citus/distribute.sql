-- Spreads the tables over the workers of a Citus cluster. Optional, run once, by a person, on an empty or a stopped
-- installation: see docs/scale.md. A test compares the names here with the tables that the migrations make.
--
-- Every table that grows goes by `shard_id`, all of them together: the rows of one shard lie on one worker, so no
-- join and no transaction of one shard leaves it. The few that are small and asked for by everybody are copied to
-- every worker. Partitions go with their parents.

BEGIN;

SELECT create_reference_table('schema_version');
SELECT create_reference_table('engine_meta');
SELECT create_reference_table('workflow_definition');
SELECT create_reference_table('api_token');
SELECT create_reference_table('node');
SELECT create_reference_table('node_lease');

SELECT create_distributed_table('shard', 'shard_id', colocate_with => 'none');
SELECT create_distributed_table('case_head', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_state', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_open', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_closed_count', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_closed_part', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_step', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_pause', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('subject_generation', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_timer', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_history', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('evidence', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('inbox', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('inbox_reply', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('schedule', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('schedule_run', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('schedule_change', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('identity', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('account', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('grant_held', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('credential', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('legal_hold', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('source_snapshot', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('event_subject', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('source_heard', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('planned_start', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('scim_guard', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('scim_held', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('scim_member', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('scim_removal', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('scim_resource', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('source_state', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('guard_tally', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('guard_held_event', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('source_doubt', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('policy_version', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('policy_rollout', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('policy_rollout_change', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('policy_loaded', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('policy_left_out', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('pull_mark', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('pull_hint', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('source_record', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('business_event', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('system_state', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('access_lag', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('notice', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('notice_delivery', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('notice_change', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('contract_link', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('identity_merge', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('correlation_review', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('correlation_block', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('correlation_index', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('account_adopted', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('nhi', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('nhi_credential', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('nhi_change', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('graph_edge', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('graph_coverage', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('nhi_found', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('case_asked', 'shard_id', colocate_with => 'shard');
SELECT create_distributed_table('rotation', 'shard_id', colocate_with => 'shard');

COMMIT;
