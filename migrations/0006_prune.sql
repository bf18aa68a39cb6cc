-- 0006_prune: old jobs and events may go, and a job can go without a search through all adapters.
--
-- meta 'pruning' is there only inside the transaction that removes events; 'events_pruned_before' is
-- the time (ms) before which events may be missing.

CREATE INDEX adapter_versions_job ON adapter_versions(job_id);
CREATE INDEX evaluations_job ON evaluations(job_id);
CREATE INDEX base_tasks_job ON base_tasks(job_id);
CREATE INDEX jobs_finished ON jobs(finished_at) WHERE finished_at IS NOT NULL;

-- What was published, refused, aliased, added and removed is never forgotten.
DROP TRIGGER events_keep;
CREATE TRIGGER events_keep BEFORE DELETE ON events
WHEN NOT EXISTS (SELECT 1 FROM meta WHERE key = 'pruning')
  OR OLD.type GLOB 'adapter.*' OR OLD.type GLOB 'gate.*' OR OLD.type GLOB 'alias.*'
  OR OLD.type GLOB 'base.*' OR OLD.type GLOB 'feature_net.*'
  OR OLD.type IN ('dataset.added', 'dataset.removed') BEGIN
    SELECT RAISE(ABORT, 'events are append only');
END;
