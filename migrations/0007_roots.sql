-- 0007_roots: links on the way to a dataset's folder are resolved once; and numbers that are asked for
-- often are kept, not counted.

-- 1: source_path is as it was found when links were resolved.  A row of another program has 0 until its
-- folder was seen; a link that is there later is not followed.
ALTER TABLE datasets ADD COLUMN root_resolved INTEGER NOT NULL DEFAULT 0 CHECK (root_resolved IN (0, 1));

CREATE TRIGGER datasets_root_read AFTER UPDATE OF scan_done ON datasets
WHEN NEW.root_resolved = 0 AND NEW.state = 'ready' BEGIN
    UPDATE datasets SET root_resolved = 1 WHERE id = NEW.id;
END;

-- Kept by triggers.  'roots': changes of the list of folders; 'datasets': rows that are not removed;
-- 'adapters': published versions that are not deleted; 'blobs', 'blob_bytes': blobs that are present;
-- 'jobs.STATE': jobs; 'base.ID': published versions on that base; 'net.SHA256': published versions that
-- were measured with that network.
CREATE TABLE counters (
    key   TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO counters(key, value)
SELECT 'roots', 1
UNION ALL SELECT 'datasets', count(*) FROM datasets WHERE state <> 'removed'
UNION ALL SELECT 'adapters', count(*) FROM adapter_versions WHERE status = 'published' AND deleted_at IS NULL
UNION ALL SELECT 'blobs', count(*) FROM blobs WHERE state = 'present'
UNION ALL SELECT 'blob_bytes', coalesce(sum(stored_bytes), 0) FROM blobs WHERE state = 'present'
UNION ALL SELECT 'jobs.' || s.state, (SELECT count(*) FROM jobs j WHERE j.state = s.state)
  FROM (SELECT 'queued' AS state UNION ALL SELECT 'running' UNION ALL SELECT 'done'
        UNION ALL SELECT 'rejected' UNION ALL SELECT 'failed' UNION ALL SELECT 'cancelled') s
UNION ALL SELECT 'base.' || b.id, (SELECT count(*) FROM adapter_versions av WHERE av.base_id = b.id
                                     AND av.status = 'published' AND av.deleted_at IS NULL) FROM bases b
UNION ALL SELECT 'net.' || e.feature_net, count(DISTINCT e.adapter_version_id) FROM evaluations e
  JOIN adapter_versions av ON av.id = e.adapter_version_id
 WHERE e.feature_net IS NOT NULL AND av.status = 'published' AND av.deleted_at IS NULL GROUP BY e.feature_net;

CREATE TRIGGER counters_datasets_added AFTER INSERT ON datasets BEGIN
    UPDATE counters SET value = value + 1 WHERE key = 'roots';
    UPDATE counters SET value = value + (NEW.state <> 'removed') WHERE key = 'datasets';
END;
CREATE TRIGGER counters_datasets AFTER UPDATE OF source_path, watch, state ON datasets
WHEN OLD.source_path IS NOT NEW.source_path OR OLD.watch IS NOT NEW.watch
  OR (OLD.state = 'removed') <> (NEW.state = 'removed') BEGIN
    UPDATE counters SET value = value + 1 WHERE key = 'roots';
    UPDATE counters SET value = value + (NEW.state <> 'removed') - (OLD.state <> 'removed')
     WHERE key = 'datasets';
END;

CREATE TRIGGER counters_adapters_added AFTER INSERT ON adapter_versions
WHEN NEW.status = 'published' AND NEW.deleted_at IS NULL BEGIN
    UPDATE counters SET value = value + 1 WHERE key = 'adapters';
    INSERT INTO counters(key, value) VALUES ('base.' || NEW.base_id, 1)
        ON CONFLICT (key) DO UPDATE SET value = value + 1;
END;
CREATE TRIGGER counters_adapters AFTER UPDATE OF status, deleted_at ON adapter_versions
WHEN (NEW.status = 'published' AND NEW.deleted_at IS NULL)
  <> (OLD.status = 'published' AND OLD.deleted_at IS NULL) BEGIN
    UPDATE counters SET value = value + CASE WHEN NEW.status = 'published' AND NEW.deleted_at IS NULL
                                             THEN 1 ELSE -1 END
     WHERE key IN ('adapters', 'base.' || NEW.base_id)
        OR key IN (SELECT 'net.' || e.feature_net FROM evaluations e WHERE e.adapter_version_id = NEW.id);
END;
-- The first number of a published version that this network made.
CREATE TRIGGER counters_evaluations_added AFTER INSERT ON evaluations
WHEN NEW.feature_net IS NOT NULL
 AND EXISTS (SELECT 1 FROM adapter_versions av WHERE av.id = NEW.adapter_version_id
                AND av.status = 'published' AND av.deleted_at IS NULL)
 AND NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.feature_net = NEW.feature_net
                    AND e.adapter_version_id = NEW.adapter_version_id AND e.id <> NEW.id) BEGIN
    INSERT INTO counters(key, value) VALUES ('net.' || NEW.feature_net, 1)
        ON CONFLICT (key) DO UPDATE SET value = value + 1;
END;

CREATE TRIGGER counters_blobs_added AFTER INSERT ON blobs WHEN NEW.state = 'present' BEGIN
    UPDATE counters SET value = value + 1 WHERE key = 'blobs';
    UPDATE counters SET value = value + NEW.stored_bytes WHERE key = 'blob_bytes';
END;
CREATE TRIGGER counters_blobs AFTER UPDATE OF state, stored_bytes ON blobs BEGIN
    UPDATE counters SET value = value + (NEW.state = 'present') - (OLD.state = 'present')
     WHERE key = 'blobs';
    UPDATE counters SET value = value + (NEW.state = 'present') * NEW.stored_bytes
                                      - (OLD.state = 'present') * OLD.stored_bytes
     WHERE key = 'blob_bytes';
END;
CREATE TRIGGER counters_blobs_gone AFTER DELETE ON blobs WHEN OLD.state = 'present' BEGIN
    UPDATE counters SET value = value - 1 WHERE key = 'blobs';
    UPDATE counters SET value = value - OLD.stored_bytes WHERE key = 'blob_bytes';
END;

CREATE TRIGGER counters_jobs_added AFTER INSERT ON jobs BEGIN
    UPDATE counters SET value = value + 1 WHERE key = 'jobs.' || NEW.state;
END;
CREATE TRIGGER counters_jobs AFTER UPDATE OF state ON jobs WHEN OLD.state <> NEW.state BEGIN
    UPDATE counters SET value = value - 1 WHERE key = 'jobs.' || OLD.state;
    UPDATE counters SET value = value + 1 WHERE key = 'jobs.' || NEW.state;
END;
CREATE TRIGGER counters_jobs_gone AFTER DELETE ON jobs BEGIN
    UPDATE counters SET value = value - 1 WHERE key = 'jobs.' || OLD.state;
END;

-- The next job of a kind, and when one becomes due, without reading all that are queued.
CREATE INDEX jobs_next ON jobs(kind, priority DESC, id) WHERE state = 'queued';
CREATE INDEX jobs_due ON jobs(kind, run_after) WHERE state = 'queued';

-- Lists by what few rows have; and which datasets use a base or a network, without their rows.
CREATE INDEX adapter_versions_status ON adapter_versions(status, id) WHERE deleted_at IS NULL;
CREATE INDEX adapter_versions_fd ON adapter_versions(fd) WHERE deleted_at IS NULL;
CREATE INDEX adapter_versions_created ON adapter_versions(created_at) WHERE deleted_at IS NULL;
CREATE INDEX datasets_uses ON datasets(base_id, feature_net_id, feature_mode) WHERE state <> 'removed';
