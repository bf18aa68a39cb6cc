-- 0002_bases: bases and feature networks that people bring, jobs that import them, a base for each
-- dataset, and how often in a row a job had to wait.
-- (Foreign keys are off while a migration runs and checked before it is committed.)

ALTER TABLE feature_nets ADD COLUMN kind TEXT NOT NULL DEFAULT '';  -- inception-mixed6c, inception-fid
ALTER TABLE feature_nets ADD COLUMN source TEXT;                    -- what was imported: a path
ALTER TABLE feature_nets ADD COLUMN source_format TEXT;
ALTER TABLE feature_nets ADD COLUMN source_sha256 TEXT;
ALTER TABLE feature_nets ADD COLUMN license TEXT;                   -- as the user stated it
ALTER TABLE feature_nets ADD COLUMN parameters INTEGER;
ALTER TABLE feature_nets ADD COLUMN bytes INTEGER;                  -- of the file
ALTER TABLE feature_nets ADD COLUMN removed_at INTEGER;

ALTER TABLE bases ADD COLUMN vae_path TEXT;                         -- decoder of a latent base
ALTER TABLE bases ADD COLUMN vae_sha256 TEXT;
ALTER TABLE bases ADD COLUMN source TEXT;                           -- what was imported: a path
ALTER TABLE bases ADD COLUMN source_format TEXT;
ALTER TABLE bases ADD COLUMN source_sha256 TEXT;
ALTER TABLE bases ADD COLUMN license TEXT;                          -- as the user stated it
ALTER TABLE bases ADD COLUMN parameters INTEGER;
ALTER TABLE bases ADD COLUMN bytes INTEGER;                         -- of the file, without the VAE
ALTER TABLE bases ADD COLUMN removed_at INTEGER;                    -- rows stay: adapters name them
CREATE INDEX bases_name ON bases(name);
CREATE INDEX adapter_versions_base ON adapter_versions(base_id)
    WHERE deleted_at IS NULL AND status = 'published';

-- The base a dataset is trained on; NULL follows the default (meta 'active_base').
ALTER TABLE datasets ADD COLUMN base_id INTEGER REFERENCES bases(id);

-- A CHECK cannot be altered: the table is made anew, with its rows, its sequence, its indexes, its
-- trigger and the view on it.  Legacy renaming leaves what other tables and other people's views
-- say about "jobs" as it is.
PRAGMA legacy_alter_table = ON;
DROP VIEW jobs_v1;
CREATE TABLE jobs_new (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,   -- also the name of the job directory
    kind               TEXT NOT NULL
                       CHECK (kind IN ('scan', 'train', 'sample', 'verify', 'import')),
    state              TEXT NOT NULL DEFAULT 'queued'
                       CHECK (state IN ('queued', 'running', 'done', 'rejected', 'failed',
                                        'cancelled')),
    priority           INTEGER NOT NULL DEFAULT 0,   -- greater first
    dedupe_key         TEXT,                         -- at most one live job has it
    name               TEXT NOT NULL DEFAULT '',     -- dataset, adapter or model it is about
    dataset_id         INTEGER REFERENCES datasets(id),
    dataset_version_id INTEGER REFERENCES dataset_versions(id),
    base_id            INTEGER REFERENCES bases(id),
    generation         INTEGER NOT NULL DEFAULT 0,   -- datasets.generation that it works for
    scan_seq           INTEGER NOT NULL DEFAULT 0,   -- datasets.scan_wanted when a scan was claimed
    payload            TEXT NOT NULL DEFAULT '{}',   -- the request: sample, verify, import
    cancel             INTEGER NOT NULL DEFAULT 0 CHECK (cancel IN (0, 1)),  -- asked for
    attempts           INTEGER NOT NULL DEFAULT 0,   -- starts that count against max_attempts
    starts             INTEGER NOT NULL DEFAULT 0,   -- all starts; numbers job_attempts
    max_attempts       INTEGER NOT NULL DEFAULT 3,
    run_after          INTEGER NOT NULL DEFAULT 0,   -- not before this time
    boot_id            TEXT,                         -- of the running worker ...
    pid                INTEGER,
    pid_start          INTEGER,                      -- ... and its start time, ticks since boot
    stage              TEXT,
    progress           TEXT,                         -- object of docs/api.md
    done               REAL,                         -- of it, for queries
    total              REAL,
    error_code         TEXT,                         -- of the last failed attempt
    error_message      TEXT,
    result             TEXT,                         -- result.json
    adapter_version_id INTEGER REFERENCES adapter_versions(id),  -- what it published
    created_at         INTEGER NOT NULL,
    started_at         INTEGER,                      -- first start
    finished_at        INTEGER,
    postponed          INTEGER NOT NULL DEFAULT 0    -- times in a row that it had to wait
) STRICT;
INSERT INTO jobs_new(id, kind, state, priority, dedupe_key, name, dataset_id, dataset_version_id,
    base_id, generation, scan_seq, payload, cancel, attempts, starts, max_attempts, run_after,
    boot_id, pid, pid_start, stage, progress, done, total, error_code, error_message, result,
    adapter_version_id, created_at, started_at, finished_at)
SELECT id, kind, state, priority, dedupe_key, name, dataset_id, dataset_version_id,
    base_id, generation, scan_seq, payload, cancel, attempts, starts, max_attempts, run_after,
    boot_id, pid, pid_start, stage, progress, done, total, error_code, error_message, result,
    adapter_version_id, created_at, started_at, finished_at
  FROM jobs ORDER BY id;
-- Numbers of jobs name folders and are never given out twice, whatever rows there are.
DELETE FROM sqlite_sequence WHERE name = 'jobs_new';
INSERT INTO sqlite_sequence(name, seq) SELECT 'jobs_new', seq FROM sqlite_sequence
 WHERE name = 'jobs';
DROP TABLE jobs;
ALTER TABLE jobs_new RENAME TO jobs;
PRAGMA legacy_alter_table = OFF;

CREATE UNIQUE INDEX jobs_dedupe ON jobs(dedupe_key) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_live ON jobs(state, kind, priority, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_state ON jobs(state, id);
CREATE INDEX jobs_dataset ON jobs(dataset_id, kind, id);
CREATE INDEX jobs_version ON jobs(dataset_version_id, base_id) WHERE dataset_version_id IS NOT NULL;

CREATE TRIGGER jobs_transition BEFORE UPDATE OF state ON jobs
WHEN NOT (OLD.state = NEW.state
          OR (OLD.state = 'queued' AND NEW.state IN ('running', 'cancelled'))
          OR (OLD.state = 'running'
              AND NEW.state IN ('queued', 'done', 'rejected', 'failed', 'cancelled'))) BEGIN
    SELECT RAISE(ABORT, 'no such transition of a job');
END;

-- The file of a row may move, what it is may not.
CREATE TRIGGER bases_fixed BEFORE UPDATE OF id, sha256, created_at ON bases BEGIN
    SELECT RAISE(ABORT, 'the identity of a base is immutable');
END;
CREATE TRIGGER bases_keep BEFORE DELETE ON bases BEGIN
    SELECT RAISE(ABORT, 'bases are not deleted: set removed_at');
END;

CREATE VIEW jobs_v1 AS
SELECT j.id, j.kind, j.state, d.name AS dataset, dv.version AS dataset_version, j.name, j.attempts,
       j.max_attempts,
       strftime('%Y-%m-%dT%H:%M:%fZ', j.created_at / 1000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', j.started_at / 1000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', j.finished_at / 1000.0, 'unixepoch') AS finished_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', j.run_after / 1000.0, 'unixepoch') AS run_after,
       j.stage, j.done, j.total,
       j.error_code, j.error_message, a.name || '@v' || av.version AS adapter,
       CASE j.state WHEN 'running' THEN j.pid END AS pid, j.postponed, b.name AS base
  FROM jobs j
  LEFT JOIN datasets d ON d.id = j.dataset_id
  LEFT JOIN dataset_versions dv ON dv.id = j.dataset_version_id
  LEFT JOIN adapter_versions av ON av.id = j.adapter_version_id
  LEFT JOIN adapters a ON a.id = av.adapter_id
  LEFT JOIN bases b ON b.id = j.base_id;

-- `base` is the name of the chosen base, NULL where the dataset follows the default.
DROP VIEW datasets_v1;
CREATE VIEW datasets_v1 AS
SELECT d.id, d.name, d.source_path AS path, d.state, d.error_message AS error, d.method, d.options,
       d.watch, strftime('%Y-%m-%dT%H:%M:%fZ', d.created_at / 1000.0, 'unixepoch') AS created_at,
       v.version, v.tree_digest, v.images, v.class_count AS classes, v.bytes,
       v.rejected_count AS rejected,
       (SELECT count(*) FROM dataset_versions x WHERE x.dataset_id = d.id) AS versions,
       (SELECT a.name || '@v' || av.version FROM adapters a
          JOIN aliases l ON l.adapter_id = a.id AND l.alias = 'latest'
          JOIN adapter_versions av ON av.id = l.version_id
         WHERE a.name = d.name) AS adapter, b.name AS base
  FROM datasets d LEFT JOIN dataset_versions v ON v.id = d.version_id
  LEFT JOIN bases b ON b.id = d.base_id;

CREATE VIEW bases_v1 AS
SELECT b.id, b.name, b.sha256, b.path, b.config, b.vae_sha256, b.vae_path, b.source,
       b.source_format, b.source_sha256, b.license, b.parameters, b.bytes, f.name AS feature_net,
       (SELECT m.value FROM meta m WHERE m.key = 'active_base') = CAST(b.id AS TEXT) AS is_default,
       strftime('%Y-%m-%dT%H:%M:%fZ', b.created_at / 1000.0, 'unixepoch') AS created_at
  FROM bases b LEFT JOIN feature_nets f ON f.id = b.feature_net_id WHERE b.removed_at IS NULL;

CREATE VIEW feature_nets_v1 AS
SELECT f.id, f.name, f.sha256, f.path, f.kind, f.source, f.source_format, f.source_sha256, f.license,
       f.parameters, f.bytes,
       strftime('%Y-%m-%dT%H:%M:%fZ', f.created_at / 1000.0, 'unixepoch') AS created_at
  FROM feature_nets f WHERE f.removed_at IS NULL;
