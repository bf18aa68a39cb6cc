-- 0001_init: the registry.  Meaning of every table: docs/registry.md.
-- Times are milliseconds since 1970 UTC; digests are 64 lower-case hex digits; JSON is TEXT.
-- No JSON functions here: SQLite 3.40 does not call them innocuous, and the registry is opened with
-- trusted_schema=OFF.
-- A shipped migration is never changed: write the next number instead.

-- Facts about this registry: 'instance' (uuid), 'created', 'active_base' (bases.id).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Which migration was applied when and by which program.
CREATE TABLE migrations (
    version    INTEGER PRIMARY KEY,   -- its number; PRAGMA user_version is the greatest
    name       TEXT NOT NULL,
    sha256     TEXT NOT NULL,         -- of its text
    applied_at INTEGER NOT NULL,
    program    TEXT NOT NULL,         -- version of the program that did it
    backup     TEXT                   -- path of the copy made before it
) STRICT;

-- Files of the blob store that rows may refer to.
CREATE TABLE blobs (
    digest       TEXT PRIMARY KEY CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    raw_bytes    INTEGER NOT NULL CHECK (raw_bytes >= 0),     -- uncompressed size
    stored_bytes INTEGER NOT NULL CHECK (stored_bytes >= 0),  -- size of the file
    stored_sha256 TEXT NOT NULL CHECK (length(stored_sha256) = 64),  -- of the file, compressed
    codec        TEXT NOT NULL DEFAULT 'zstd' CHECK (codec IN ('zstd')),
    media_type   TEXT NOT NULL,
    state        TEXT NOT NULL DEFAULT 'present'
                 CHECK (state IN ('present', 'deleting', 'gone')),  -- gone: swept, but referred to
    created_at   INTEGER NOT NULL,
    verified_at  INTEGER                                      -- last time its content was re-hashed
) STRICT, WITHOUT ROWID;

-- In-flight protection: a leased blob is never swept.
CREATE TABLE blob_leases (
    digest     TEXT NOT NULL,                     -- no foreign key: a lease may come before the row
    job_id     INTEGER NOT NULL DEFAULT 0,        -- owner; 0 = none; released when the job ends
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (digest, job_id)
) STRICT, WITHOUT ROWID;

-- Networks that make the features of FD and KID.
CREATE TABLE feature_nets (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    path       TEXT NOT NULL,                     -- where the file is now
    sha256     TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64),
    created_at INTEGER NOT NULL
) STRICT;

-- Frozen models.
CREATE TABLE bases (
    id             INTEGER PRIMARY KEY,
    name           TEXT NOT NULL,
    path           TEXT NOT NULL,                 -- where the file is now
    sha256         TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64),
    config         TEXT NOT NULL DEFAULT '{}',
    feature_net_id INTEGER REFERENCES feature_nets(id),
    created_at     INTEGER NOT NULL
) STRICT;

-- Folders of images.  INSERT INTO datasets(name, source_path) by any program is enough: the daemon
-- notices it within two seconds.
CREATE TABLE datasets (
    id             INTEGER PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE COLLATE NOCASE
                   CHECK (length(name) BETWEEN 1 AND 64 AND name NOT GLOB '*[^A-Za-z0-9._-]*'
                          AND name NOT GLOB '[-.]*' AND instr(name, char(0)) = 0),
    source_path    TEXT NOT NULL
                   CHECK (substr(source_path, 1, 1) = '/' AND length(source_path) < 4096
                          AND source_path NOT GLOB
                              '*[' || char(1) || '-' || char(31) || char(127) || ']*'
                          AND instr(source_path, char(0)) = 0),
    watch          INTEGER NOT NULL DEFAULT 1 CHECK (watch IN (0, 1)),  -- rescan on change
    state          TEXT NOT NULL DEFAULT 'scanning'
                   CHECK (state IN ('scanning', 'ready', 'failed', 'removed')),
    error_code     TEXT,                          -- of the last scan, when it failed
    error_message  TEXT,
    method         TEXT NOT NULL DEFAULT 'affiner',
    options        TEXT NOT NULL DEFAULT '{}' CHECK (substr(options, 1, 1) = '{'),
    generation     INTEGER NOT NULL DEFAULT 1,  -- grows to train the same content anew
    version_id     INTEGER REFERENCES dataset_versions(id),  -- content at the last good scan
    scan_wanted    INTEGER NOT NULL DEFAULT 1,    -- number of scans asked for
    scan_done      INTEGER NOT NULL DEFAULT 0,    -- newest request that a finished scan answered
    scan_unchanged INTEGER NOT NULL DEFAULT 0 CHECK (scan_unchanged IN (0, 1)),
    created_at     INTEGER NOT NULL
                   DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    deleted_at     INTEGER                        -- set while state = 'removed'
) STRICT;
CREATE INDEX datasets_path ON datasets(source_path);
CREATE INDEX datasets_to_scan ON datasets(id) WHERE scan_done < scan_wanted;

-- One content of one folder; the same content again is no new version.
CREATE TABLE dataset_versions (
    id              INTEGER PRIMARY KEY,
    dataset_id      INTEGER NOT NULL REFERENCES datasets(id),
    version         INTEGER NOT NULL CHECK (version > 0),
    tree_digest     TEXT NOT NULL CHECK (length(tree_digest) = 64),
    manifest_digest TEXT NOT NULL REFERENCES blobs(digest),  -- the same digest
    images          INTEGER NOT NULL CHECK (images > 0),
    bytes           INTEGER NOT NULL,
    class_count     INTEGER NOT NULL CHECK (class_count > 0),
    classes         TEXT NOT NULL,  -- [{"name","images"}] in order of class id
    stats           TEXT NOT NULL DEFAULT '{}',  -- {"width":{min,max},"height":...}
    rejected_count  INTEGER NOT NULL DEFAULT 0,   -- files left out at the last scan of this content
    rejected        TEXT NOT NULL DEFAULT '[]',  -- [{path,reason}], 10,000 at most
    created_at      INTEGER NOT NULL,
    UNIQUE (dataset_id, version),
    UNIQUE (dataset_id, tree_digest)
) STRICT;
CREATE INDEX dataset_versions_manifest ON dataset_versions(manifest_digest);

-- A name under which versions are published: the dataset's.
CREATE TABLE adapters (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE COLLATE NOCASE,
    dataset_id   INTEGER REFERENCES datasets(id),
    last_version INTEGER NOT NULL DEFAULT 0,      -- greatest number given out; never reused
    created_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX adapters_dataset ON adapters(dataset_id);

-- Work.  States and transitions: registry/jobs/jobs.c.
CREATE TABLE jobs (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,   -- also the name of the job directory
    kind               TEXT NOT NULL CHECK (kind IN ('scan', 'train', 'sample', 'verify')),
    state              TEXT NOT NULL DEFAULT 'queued'
                       CHECK (state IN ('queued', 'running', 'done', 'rejected', 'failed',
                                        'cancelled')),
    priority           INTEGER NOT NULL DEFAULT 0,   -- greater first
    dedupe_key         TEXT,                         -- at most one live job has it
    name               TEXT NOT NULL DEFAULT '',     -- dataset or adapter it is about
    dataset_id         INTEGER REFERENCES datasets(id),
    dataset_version_id INTEGER REFERENCES dataset_versions(id),
    base_id            INTEGER REFERENCES bases(id),
    generation         INTEGER NOT NULL DEFAULT 0,   -- datasets.generation that it works for
    scan_seq           INTEGER NOT NULL DEFAULT 0,   -- datasets.scan_wanted when a scan was claimed
    payload            TEXT NOT NULL DEFAULT '{}',  -- the request, sample and verify
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
    result             TEXT,       -- result.json
    adapter_version_id INTEGER REFERENCES adapter_versions(id),                 -- what it published
    created_at         INTEGER NOT NULL,
    started_at         INTEGER,                      -- first start
    finished_at        INTEGER
) STRICT;
CREATE UNIQUE INDEX jobs_dedupe ON jobs(dedupe_key) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_live ON jobs(state, kind, priority, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_state ON jobs(state, id);
CREATE INDEX jobs_dataset ON jobs(dataset_id, kind, id);
CREATE INDEX jobs_version ON jobs(dataset_version_id, base_id) WHERE dataset_version_id IS NOT NULL;

-- Every start of a worker and how it ended.
CREATE TABLE job_attempts (
    job_id        INTEGER NOT NULL REFERENCES jobs(id),
    attempt       INTEGER NOT NULL,               -- jobs.starts
    boot_id       TEXT,
    pid           INTEGER,
    pid_start     INTEGER,
    started_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    exit_code     INTEGER,
    exit_signal   INTEGER,
    outcome       TEXT,                           -- as the state; retry, requeued
    error_code    TEXT,
    error_message TEXT,
    PRIMARY KEY (job_id, attempt)
) STRICT, WITHOUT ROWID;

-- Curves: held-out loss and the like.
CREATE TABLE job_metrics (
    job_id INTEGER NOT NULL REFERENCES jobs(id),
    key    TEXT NOT NULL,
    step   INTEGER NOT NULL,
    value  REAL,                                  -- NULL = not a number
    at     INTEGER NOT NULL,
    PRIMARY KEY (job_id, key, step)               -- a resumed step replaces itself
) STRICT, WITHOUT ROWID;

-- What was published (or kept as rejected).  Immutable but for status and deleted_at.
CREATE TABLE adapter_versions (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    adapter_id         INTEGER NOT NULL REFERENCES adapters(id),
    version            INTEGER NOT NULL CHECK (version > 0),
    status             TEXT NOT NULL CHECK (status IN ('published', 'rejected')),
    digest             TEXT NOT NULL REFERENCES blobs(digest),    -- sha256 of the uncompressed file
    reference_digest   TEXT REFERENCES blobs(digest),             -- statistics of the real images
    dataset_version_id INTEGER REFERENCES dataset_versions(id),
    base_id            INTEGER NOT NULL REFERENCES bases(id),
    job_id             INTEGER REFERENCES jobs(id),
    generation         INTEGER NOT NULL DEFAULT 0,
    method             TEXT NOT NULL,
    rank               INTEGER,
    steps              INTEGER,
    seed               INTEGER,
    parameters         INTEGER NOT NULL,
    images             INTEGER,
    class_count        INTEGER,
    train_seconds      REAL,
    images_per_second  REAL,
    device_class       TEXT,
    fd                 REAL,                      -- as evaluated before publication
    fd_base            REAL,                      -- of the base on the same images
    kid                REAL,
    n                  INTEGER,                   -- samples behind fd and kid
    config             TEXT NOT NULL,  -- the spec that made it, less old_tasks
    created_at         INTEGER NOT NULL,
    deleted_at         INTEGER,
    UNIQUE (adapter_id, version)
) STRICT;
CREATE INDEX adapter_versions_digest ON adapter_versions(digest);
CREATE INDEX adapter_versions_reference ON adapter_versions(reference_digest);
CREATE INDEX adapter_versions_dataset ON adapter_versions(dataset_version_id, base_id);
-- Narrow and covering: every filter of a listing is answered from it, newest first.
CREATE INDEX adapter_versions_listing
    ON adapter_versions(id, adapter_id, status, fd, created_at, deleted_at);

-- Digest of the fixed-seed samples, per device class: level 1 of the gate.
CREATE TABLE probes (
    adapter_version_id INTEGER NOT NULL REFERENCES adapter_versions(id),
    device_class       TEXT NOT NULL,
    sha256             TEXT NOT NULL CHECK (length(sha256) = 64),
    n                  INTEGER NOT NULL,
    seed               INTEGER NOT NULL,
    created_at         INTEGER NOT NULL,
    PRIMARY KEY (adapter_version_id, device_class)
) STRICT, WITHOUT ROWID;

-- Movable names of versions; every move is in alias_history by trigger.
CREATE TABLE aliases (
    adapter_id INTEGER NOT NULL REFERENCES adapters(id),
    alias      TEXT NOT NULL COLLATE NOCASE,
    version_id INTEGER NOT NULL REFERENCES adapter_versions(id),
    generation INTEGER NOT NULL DEFAULT 1,        -- counts its moves
    reason     TEXT NOT NULL DEFAULT '',          -- of the last move
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (adapter_id, alias)
) STRICT, WITHOUT ROWID;
CREATE INDEX aliases_version ON aliases(version_id);

CREATE TABLE alias_history (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    adapter_id     INTEGER NOT NULL REFERENCES adapters(id),
    alias          TEXT NOT NULL COLLATE NOCASE,
    generation     INTEGER NOT NULL,
    old_version_id INTEGER REFERENCES adapter_versions(id),
    new_version_id INTEGER NOT NULL REFERENCES adapter_versions(id),
    reason         TEXT NOT NULL,
    at             INTEGER NOT NULL
) STRICT;
CREATE INDEX alias_history_alias ON alias_history(adapter_id, alias, seq);

-- Measured numbers, with all that is needed to measure them again.
CREATE TABLE evaluations (
    id                 INTEGER PRIMARY KEY,
    at                 INTEGER NOT NULL,
    job_id             INTEGER NOT NULL REFERENCES jobs(id),
    adapter_version_id INTEGER REFERENCES adapter_versions(id),  -- the one it was measured for
    dataset_version_id INTEGER REFERENCES dataset_versions(id),
    base_id            INTEGER REFERENCES bases(id),
    subject            TEXT NOT NULL,             -- what made the samples: base, adapter
    metric             TEXT NOT NULL,             -- fd, kid, heldout_loss, heldout_loss_start
    value              REAL,
    ci_low             REAL,
    ci_high            REAL,
    n_real             INTEGER,
    n_fake             INTEGER,
    seed               INTEGER,
    feature_net        TEXT,                      -- sha256
    resize             TEXT,                      -- id of the resampling
    sample_digest      TEXT                       -- of the samples measured
) STRICT;
CREATE INDEX evaluations_adapter ON evaluations(adapter_version_id, id);
CREATE INDEX evaluations_dataset ON evaluations(dataset_version_id, id);
CREATE INDEX evaluations_metric ON evaluations(metric, id);

-- Verdicts about old tasks.
CREATE TABLE gates (
    id         INTEGER PRIMARY KEY,
    job_id     INTEGER NOT NULL UNIQUE REFERENCES jobs(id),
    verdict    TEXT NOT NULL CHECK (verdict IN ('passed', 'refused')),
    reason     TEXT NOT NULL DEFAULT '',
    worst_task TEXT,
    delta      REAL,
    rule       TEXT NOT NULL DEFAULT '{}',  -- tolerances it was judged by
    at         INTEGER NOT NULL
) STRICT;
CREATE TABLE gate_tasks (
    gate_id        INTEGER NOT NULL REFERENCES gates(id),
    position       INTEGER NOT NULL,
    name           TEXT NOT NULL,                 -- the old task
    ref            TEXT NOT NULL,                 -- its adapter, name@vN
    level          INTEGER NOT NULL CHECK (level IN (0, 1, 2)),  -- 1: probe digest, 2: FD and KID; 0: neither could be had
    unchanged      INTEGER NOT NULL CHECK (unchanged IN (0, 1)),
    verdict        TEXT NOT NULL CHECK (verdict IN ('passed', 'refused')),
    reason         TEXT NOT NULL DEFAULT '',
    fd_recorded    REAL,
    fd_now         REAL,
    fd_ci_low      REAL,
    fd_ci_high     REAL,
    kid_now        REAL,
    probe_recorded TEXT,
    probe_now      TEXT,
    PRIMARY KEY (gate_id, position)
) STRICT, WITHOUT ROWID;

-- What happened, in order.
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,    -- cursor of readers
    at      INTEGER NOT NULL,
    type    TEXT NOT NULL,
    subject TEXT NOT NULL,
    payload TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX events_type ON events(type, seq);

-- Rules that hold for every program that opens this file -----------------------------------------

CREATE TRIGGER datasets_added AFTER INSERT ON datasets BEGIN
    INSERT INTO events(at, type, subject, payload)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), 'dataset.added',
            'dataset:' || NEW.name, '{"id":' || NEW.id || '}');
END;
CREATE TRIGGER datasets_config AFTER UPDATE OF method, options ON datasets
WHEN OLD.method IS NOT NEW.method OR OLD.options IS NOT NEW.options BEGIN
    UPDATE datasets SET generation = generation + 1 WHERE id = NEW.id;
END;
CREATE TRIGGER datasets_keep BEFORE DELETE ON datasets BEGIN
    SELECT RAISE(ABORT, 'datasets are not deleted: set their state to removed');
END;

CREATE TRIGGER dataset_versions_fixed BEFORE UPDATE OF id, dataset_id, version, tree_digest,
    manifest_digest, images, bytes, class_count, classes, stats, created_at ON dataset_versions
BEGIN
    SELECT RAISE(ABORT, 'dataset versions are immutable');
END;
CREATE TRIGGER dataset_versions_keep BEFORE DELETE ON dataset_versions BEGIN
    SELECT RAISE(ABORT, 'dataset versions are immutable');
END;

CREATE TRIGGER adapters_numbers BEFORE UPDATE OF last_version ON adapters
WHEN NEW.last_version < OLD.last_version BEGIN
    SELECT RAISE(ABORT, 'version numbers are never reused');
END;
CREATE TRIGGER adapters_keep BEFORE DELETE ON adapters BEGIN
    SELECT RAISE(ABORT, 'adapters are not deleted');
END;

CREATE TRIGGER adapter_versions_fixed BEFORE UPDATE OF id, adapter_id, version, digest,
    reference_digest, dataset_version_id, base_id, job_id, generation, method, rank, steps, seed,
    parameters, images, class_count, train_seconds, images_per_second, device_class, fd, fd_base,
    kid, n, config, created_at ON adapter_versions BEGIN
    SELECT RAISE(ABORT, 'adapter versions are immutable');
END;
CREATE TRIGGER adapter_versions_keep BEFORE DELETE ON adapter_versions BEGIN
    SELECT RAISE(ABORT, 'adapter versions are immutable');
END;
-- INSERT OR REPLACE would delete without firing the trigger above.
CREATE TRIGGER adapter_versions_once BEFORE INSERT ON adapter_versions
WHEN EXISTS (SELECT 1 FROM adapter_versions
              WHERE adapter_id = NEW.adapter_id AND version = NEW.version)
  OR EXISTS (SELECT 1 FROM adapter_versions WHERE id = NEW.id) BEGIN
    SELECT RAISE(ABORT, 'adapter versions are immutable');
END;

CREATE TRIGGER jobs_transition BEFORE UPDATE OF state ON jobs
WHEN NOT (OLD.state = NEW.state
          OR (OLD.state = 'queued' AND NEW.state IN ('running', 'cancelled'))
          OR (OLD.state = 'running'
              AND NEW.state IN ('queued', 'done', 'rejected', 'failed', 'cancelled'))) BEGIN
    SELECT RAISE(ABORT, 'no such transition of a job');
END;

CREATE TRIGGER aliases_first AFTER INSERT ON aliases BEGIN
    INSERT INTO alias_history(adapter_id, alias, generation, old_version_id, new_version_id,
                              reason, at)
    VALUES (NEW.adapter_id, NEW.alias, NEW.generation, NULL, NEW.version_id, NEW.reason,
            NEW.updated_at);
END;
CREATE TRIGGER aliases_moved AFTER UPDATE ON aliases BEGIN
    INSERT INTO alias_history(adapter_id, alias, generation, old_version_id, new_version_id,
                              reason, at)
    VALUES (NEW.adapter_id, NEW.alias, NEW.generation, OLD.version_id, NEW.version_id, NEW.reason,
            NEW.updated_at);
END;

CREATE TRIGGER events_fixed BEFORE UPDATE ON events BEGIN
    SELECT RAISE(ABORT, 'events are append only');
END;
CREATE TRIGGER events_keep BEFORE DELETE ON events BEGIN
    SELECT RAISE(ABORT, 'events are append only');
END;
CREATE TRIGGER events_once BEFORE INSERT ON events
WHEN EXISTS (SELECT 1 FROM events WHERE seq = NEW.seq) BEGIN
    SELECT RAISE(ABORT, 'events are append only');
END;

-- The query interface for other programs: columns are added at the end, never removed

CREATE VIEW datasets_v1 AS
SELECT d.id, d.name, d.source_path AS path, d.state, d.error_message AS error, d.method, d.options,
       d.watch, strftime('%Y-%m-%dT%H:%M:%fZ', d.created_at / 1000.0, 'unixepoch') AS created_at,
       v.version, v.tree_digest, v.images, v.class_count AS classes, v.bytes,
       v.rejected_count AS rejected,
       (SELECT count(*) FROM dataset_versions x WHERE x.dataset_id = d.id) AS versions,
       (SELECT a.name || '@v' || av.version FROM adapters a
          JOIN aliases l ON l.adapter_id = a.id AND l.alias = 'latest'
          JOIN adapter_versions av ON av.id = l.version_id
         WHERE a.name = d.name) AS adapter
  FROM datasets d LEFT JOIN dataset_versions v ON v.id = d.version_id;

CREATE VIEW adapters_v1 AS
SELECT av.id, a.name || '@v' || av.version AS ref, a.name, av.version, d.name AS dataset,
       dv.version AS dataset_version, av.status, av.digest, b.stored_bytes, b.raw_bytes,
       av.parameters, av.method, av.rank, av.steps, av.seed, s.name AS base,
       s.sha256 AS base_sha256,
       av.fd, av.fd_base, av.kid, av.n, av.images, av.class_count AS classes, av.train_seconds,
       av.images_per_second, av.device_class,
       strftime('%Y-%m-%dT%H:%M:%fZ', av.created_at / 1000.0, 'unixepoch') AS created_at,
       av.job_id AS job,
       (SELECT group_concat(l.alias, ',') FROM aliases l WHERE l.version_id = av.id) AS aliases
  FROM adapter_versions av
  JOIN adapters a ON a.id = av.adapter_id
  JOIN blobs b ON b.digest = av.digest
  JOIN bases s ON s.id = av.base_id
  LEFT JOIN dataset_versions dv ON dv.id = av.dataset_version_id
  LEFT JOIN datasets d ON d.id = dv.dataset_id
 WHERE av.deleted_at IS NULL;

CREATE VIEW evaluations_v1 AS
SELECT e.id, strftime('%Y-%m-%dT%H:%M:%fZ', e.at / 1000.0, 'unixepoch') AS at,
       a.name || '@v' || av.version AS adapter, d.name AS dataset, e.subject, e.metric, e.value,
       e.ci_low, e.ci_high, e.n_real, e.n_fake, e.seed, e.feature_net, e.resize, e.sample_digest,
       e.job_id AS job
  FROM evaluations e
  LEFT JOIN adapter_versions av ON av.id = e.adapter_version_id
  LEFT JOIN adapters a ON a.id = av.adapter_id
  LEFT JOIN dataset_versions dv ON dv.id = e.dataset_version_id
  LEFT JOIN datasets d ON d.id = dv.dataset_id;

CREATE VIEW jobs_v1 AS
SELECT j.id, j.kind, j.state, d.name AS dataset, dv.version AS dataset_version, j.name, j.attempts,
       j.max_attempts,
       strftime('%Y-%m-%dT%H:%M:%fZ', j.created_at / 1000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', j.started_at / 1000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', j.finished_at / 1000.0, 'unixepoch') AS finished_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', j.run_after / 1000.0, 'unixepoch') AS run_after,
       j.stage, j.done, j.total,
       j.error_code, j.error_message, a.name || '@v' || av.version AS adapter,
       CASE j.state WHEN 'running' THEN j.pid END AS pid
  FROM jobs j
  LEFT JOIN datasets d ON d.id = j.dataset_id
  LEFT JOIN dataset_versions dv ON dv.id = j.dataset_version_id
  LEFT JOIN adapter_versions av ON av.id = j.adapter_version_id
  LEFT JOIN adapters a ON a.id = av.adapter_id;

CREATE VIEW events_v1 AS
SELECT seq, strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch') AS at, type, subject, payload
  FROM events;
