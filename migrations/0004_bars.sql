-- 0004_bars: what a new version was measured against before it became @latest (bars), what the base
-- itself can do (task 0), and the wish, good for one training, to publish even a worse version.
--
-- All rows are written once, in the transaction of the job's end, and stay.

-- The verdict of a version about itself; gates.verdict is 'refused' when this is.  A gate of an
-- earlier program, and a gate that only verifies, has none.
CREATE TABLE gate_self (
    gate_id INTEGER PRIMARY KEY REFERENCES gates(id),
    verdict TEXT NOT NULL CHECK (verdict IN ('passed', 'refused', 'forced')),
    fd      REAL,                                 -- of the new version
    n       INTEGER                               -- samples behind it
) STRICT;

-- What it was compared with.  'none' is no bar, and the reason says why.
CREATE TABLE gate_bars (
    gate_id            INTEGER NOT NULL REFERENCES gates(id),
    position           INTEGER NOT NULL,
    role               TEXT NOT NULL CHECK (role IN ('latest', 'best', 'base')),
    ref                TEXT NOT NULL,             -- name@vN, base:NAME
    adapter_version_id INTEGER REFERENCES adapter_versions(id),  -- NULL: a base
    verdict            TEXT NOT NULL CHECK (verdict IN ('passed', 'refused', 'none')),
    fd_bar             REAL,
    fd_now             REAL,
    delta              REAL,                      -- fd_now / fd_bar - 1
    std_error          REAL,                      -- of the paired difference fd_now - fd_bar
    z                  REAL,                      -- difference beyond the margin, in std_error
    margin             REAL,                      -- share by which it may be worse
    kid_bar            REAL,
    kid_now            REAL,
    n                  INTEGER,                   -- samples of each side
    classes            INTEGER,                   -- compared: those that both have
    classes_new        INTEGER,
    classes_bar        INTEGER,
    reason             TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (gate_id, position)
) STRICT, WITHOUT ROWID;

-- Task 0: the samples of a base without any adapter, as they were first recorded.
CREATE TABLE base_tasks (
    base_id          INTEGER PRIMARY KEY REFERENCES bases(id),
    reference_digest TEXT REFERENCES blobs(digest),  -- features of its own samples; NULL: none
    fd               REAL,
    kid              REAL,
    n                INTEGER,
    classes          INTEGER,                     -- 0: it has none
    sample           TEXT NOT NULL DEFAULT '{}' CHECK (substr(sample, 1, 1) = '{'),
    evaluate         TEXT NOT NULL DEFAULT '{}' CHECK (substr(evaluate, 1, 1) = '{'),
    feature_net      TEXT,                        -- sha256
    feature_net_name TEXT,
    feature_mode     TEXT,                        -- how pictures are prepared for it
    vae_sha256       TEXT,                        -- decoder behind fd and kid
    note             TEXT NOT NULL DEFAULT '',
    job_id           INTEGER REFERENCES jobs(id), -- the one that recorded it
    created_at       INTEGER NOT NULL
) STRICT;
CREATE INDEX base_tasks_reference ON base_tasks(reference_digest);

-- As probes, of a base.
CREATE TABLE base_probes (
    base_id      INTEGER NOT NULL REFERENCES base_tasks(base_id),
    device_class TEXT NOT NULL,
    sha256       TEXT NOT NULL CHECK (length(sha256) = 64),
    n            INTEGER NOT NULL,
    seed         INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (base_id, device_class)
) STRICT, WITHOUT ROWID;

-- 1: the next training of this dataset is published even if it is worse than its bars.  The version
-- that it was used for sets it back, and so does the daemon when there is nothing to force.
ALTER TABLE datasets ADD COLUMN publish_worse INTEGER NOT NULL DEFAULT 0
    CHECK (publish_worse IN (0, 1));

CREATE TRIGGER gate_self_fixed BEFORE UPDATE ON gate_self BEGIN
    SELECT RAISE(ABORT, 'verdicts are immutable');
END;
CREATE TRIGGER gate_self_keep BEFORE DELETE ON gate_self BEGIN
    SELECT RAISE(ABORT, 'verdicts are immutable');
END;
-- INSERT OR REPLACE would delete without firing the triggers above.
CREATE TRIGGER gate_self_once BEFORE INSERT ON gate_self
WHEN EXISTS (SELECT 1 FROM gate_self WHERE gate_id = NEW.gate_id) BEGIN
    SELECT RAISE(ABORT, 'verdicts are immutable');
END;
CREATE TRIGGER gate_bars_fixed BEFORE UPDATE ON gate_bars BEGIN
    SELECT RAISE(ABORT, 'verdicts are immutable');
END;
CREATE TRIGGER gate_bars_keep BEFORE DELETE ON gate_bars BEGIN
    SELECT RAISE(ABORT, 'verdicts are immutable');
END;
CREATE TRIGGER gate_bars_once BEFORE INSERT ON gate_bars
WHEN EXISTS (SELECT 1 FROM gate_bars WHERE gate_id = NEW.gate_id AND position = NEW.position) BEGIN
    SELECT RAISE(ABORT, 'verdicts are immutable');
END;
CREATE TRIGGER base_tasks_fixed BEFORE UPDATE ON base_tasks BEGIN
    SELECT RAISE(ABORT, 'the record of a base is immutable');
END;
CREATE TRIGGER base_tasks_keep BEFORE DELETE ON base_tasks BEGIN
    SELECT RAISE(ABORT, 'the record of a base is immutable');
END;
CREATE TRIGGER base_tasks_once BEFORE INSERT ON base_tasks
WHEN EXISTS (SELECT 1 FROM base_tasks WHERE base_id = NEW.base_id) BEGIN
    SELECT RAISE(ABORT, 'the record of a base is immutable');
END;
CREATE TRIGGER base_probes_fixed BEFORE UPDATE ON base_probes BEGIN
    SELECT RAISE(ABORT, 'the record of a base is immutable');
END;
CREATE TRIGGER base_probes_keep BEFORE DELETE ON base_probes BEGIN
    SELECT RAISE(ABORT, 'the record of a base is immutable');
END;
CREATE TRIGGER base_probes_once BEFORE INSERT ON base_probes
WHEN EXISTS (SELECT 1 FROM base_probes WHERE base_id = NEW.base_id
                AND device_class = NEW.device_class) BEGIN
    SELECT RAISE(ABORT, 'the record of a base is immutable');
END;

-- Why a version was, or was not, published: one row for each bar.
CREATE VIEW gate_bars_v1 AS
SELECT g.job_id AS job, a.name || '@v' || av.version AS adapter, s.verdict AS self, b.role,
       b.ref AS bar, b.verdict, b.fd_bar, b.fd_now, b.delta, b.std_error, b.z, b.margin, b.kid_bar,
       b.kid_now, b.n, b.classes, b.classes_new, b.classes_bar, b.reason,
       strftime('%Y-%m-%dT%H:%M:%fZ', g.at / 1000.0, 'unixepoch') AS at
  FROM gate_bars b
  JOIN gates g ON g.id = b.gate_id
  JOIN gate_self s ON s.gate_id = b.gate_id
  LEFT JOIN jobs j ON j.id = g.job_id
  LEFT JOIN adapter_versions av ON av.id = j.adapter_version_id
  LEFT JOIN adapters a ON a.id = av.adapter_id;

CREATE VIEW base_tasks_v1 AS
SELECT b.name AS base, b.sha256 AS base_sha256, t.fd, t.kid, t.n, t.classes, t.feature_net,
       t.feature_mode, t.reference_digest, t.note,
       (SELECT group_concat(p.device_class, ',') FROM base_probes p WHERE p.base_id = t.base_id)
       AS device_classes, t.job_id AS job,
       strftime('%Y-%m-%dT%H:%M:%fZ', t.created_at / 1000.0, 'unixepoch') AS created_at
  FROM base_tasks t JOIN bases b ON b.id = t.base_id;

-- `self` is the verdict of the version's own bars: passed, refused, forced; NULL: it had none.
DROP VIEW adapters_v1;
CREATE VIEW adapters_v1 AS
SELECT av.id, a.name || '@v' || av.version AS ref, a.name, av.version, d.name AS dataset,
       dv.version AS dataset_version, av.status, av.digest, b.stored_bytes, b.raw_bytes,
       av.parameters, av.method, av.rank, av.steps, av.seed, s.name AS base,
       s.sha256 AS base_sha256,
       av.fd, av.fd_base, av.kid, av.n, av.images, av.class_count AS classes, av.train_seconds,
       av.images_per_second, av.device_class,
       strftime('%Y-%m-%dT%H:%M:%fZ', av.created_at / 1000.0, 'unixepoch') AS created_at,
       av.job_id AS job,
       (SELECT group_concat(l.alias, ',') FROM aliases l WHERE l.version_id = av.id) AS aliases,
       e.feature_net, e.resize AS preprocess,
       (SELECT x.verdict FROM gates g JOIN gate_self x ON x.gate_id = g.id
         WHERE g.job_id = av.job_id) AS self
  FROM adapter_versions av
  JOIN adapters a ON a.id = av.adapter_id
  JOIN blobs b ON b.digest = av.digest
  JOIN bases s ON s.id = av.base_id
  LEFT JOIN dataset_versions dv ON dv.id = av.dataset_version_id
  LEFT JOIN datasets d ON d.id = dv.dataset_id
  LEFT JOIN evaluations e ON e.id = (SELECT x.id FROM evaluations x
       WHERE x.adapter_version_id = av.id AND x.metric = 'fd' AND x.subject = 'adapter' LIMIT 1)
 WHERE av.deleted_at IS NULL;

-- `publish_worse` is 1 while the wish waits for its training.
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
         WHERE a.name = d.name) AS adapter, b.name AS base, f.name AS feature_net, d.feature_mode,
       d.publish_worse
  FROM datasets d LEFT JOIN dataset_versions v ON v.id = d.version_id
  LEFT JOIN bases b ON b.id = d.base_id LEFT JOIN feature_nets f ON f.id = d.feature_net_id;
