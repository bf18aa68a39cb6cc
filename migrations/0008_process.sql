-- 0008_process: what runs a job is named by one text, which whoever started it made and understands
-- (daemon/jobs/executor.h); pid stays, as the number that people see.
-- boot_id and pid_start are of no use from here on.  They stay, since a view that somebody made may
-- name them, and would keep the registry from being upgraded.

ALTER TABLE jobs ADD COLUMN process TEXT;         -- of the running worker: "local:BOOT:PID:START", ...
ALTER TABLE job_attempts ADD COLUMN process TEXT;

UPDATE jobs SET process = 'local:' || coalesce(boot_id, '') || ':' || pid || ':' || coalesce(pid_start, 0)
 WHERE pid IS NOT NULL;
UPDATE job_attempts SET process = 'local:' || coalesce(boot_id, '') || ':' || pid || ':' || coalesce(pid_start, 0)
 WHERE pid IS NOT NULL;

-- The versions of one dataset, newest first, without reading all that came since; and the jobs that only
-- wait, without reading all that are queued (/v1/status, /metrics).
CREATE INDEX adapter_versions_adapter ON adapter_versions(adapter_id) WHERE deleted_at IS NULL;
CREATE INDEX jobs_postponed ON jobs(postponed) WHERE postponed > 0;
