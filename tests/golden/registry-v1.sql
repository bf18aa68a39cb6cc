-- A registry as migration 1 left it: two trainings, one of them rejected, and one scan to come.
PRAGMA application_id=1146307410;
PRAGMA user_version=1;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES('active_base','1');
INSERT INTO meta VALUES('created','1795442309496');
INSERT INTO meta VALUES('instance','dc1f23fb23aa5e74ceb08f9913376644');
CREATE TABLE migrations (
    version    INTEGER PRIMARY KEY,   -- its number; PRAGMA user_version is the greatest
    name       TEXT NOT NULL,
    sha256     TEXT NOT NULL,         -- of its text
    applied_at INTEGER NOT NULL,
    program    TEXT NOT NULL,         -- version of the program that did it
    backup     TEXT                   -- path of the copy made before it
) STRICT;
INSERT INTO migrations VALUES(1,'init','8244b3ebc546653523e0436fee5f3531e7e058a0047e3fcfa503cacbf1a5fbc5',1795442309415,'0.1.0',NULL);
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
INSERT INTO blobs VALUES('48829426a9358da4dd388fa1dfdb476a9b85ef0a56a1ff2f48f0f699c17aafba',118,77,'7f1a98f4e54cc57bdee975088b434fd707854482b186b22397e4a977fcbe4187','zstd','application/x-ndjson','present',1795442309572,NULL);
INSERT INTO blobs VALUES('4933757b64325793f67c34fd2aa435dc6c24a181ce0534be3aeb83814189cb91',13,26,'bd0eeeaaba531e643ba9dc96cb45cac72e1227d0ab1462dc2a855ea9f49f3d3c','zstd','application/vnd.safetensors','present',1795442309772,NULL);
INSERT INTO blobs VALUES('56cf2d7eb3ad521674d6d418d822ecf30d7bc1ae5485ff2764bf8fd6f88e386e',118,77,'f94ab3b05e01a9300bd1aa6555d2a914bfc6fc58ba314b6d9877cca55f8bcd1a','zstd','application/x-ndjson','present',1795442309700,NULL);
INSERT INTO blobs VALUES('5744a56bb6c0d2b9eb30bbc76a99e301c9c03c57f351959d07b767bbc1d93a68',13,26,'8754fbcc91d2d96b5d1a885bf32de9c36daa56808f7eb4682c70bd4d21b67f66','zstd','application/vnd.safetensors','present',1795442309644,NULL);
INSERT INTO blobs VALUES('c1278867464abe9eebf05b21fe03477d064544ec4a94b74377ae50464e018697',11,24,'8fcaf6db8a3030fd337afa0a0f759519b8820a2738999c65f3e8247a7d41c2e4','zstd','application/vnd.safetensors','present',1795442309772,NULL);
INSERT INTO blobs VALUES('fda17da44541ad261130ec89451f67bd1049466af037c688689faea0a710d981',11,24,'c1ba2447eb6b9cf3201d4f54f8715377cc3ef1aff0981e4e63654681a71c3d8a','zstd','application/vnd.safetensors','present',1795442309644,NULL);
CREATE TABLE blob_leases (
    digest     TEXT NOT NULL,                     -- no foreign key: a lease may come before the row
    job_id     INTEGER NOT NULL DEFAULT 0,        -- owner; 0 = none; released when the job ends
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (digest, job_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE feature_nets (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    path       TEXT NOT NULL,                     -- where the file is now
    sha256     TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64),
    created_at INTEGER NOT NULL
) STRICT;
INSERT INTO feature_nets VALUES(1,'inception','/nets/inception','fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe',1795442309520);
CREATE TABLE bases (
    id             INTEGER PRIMARY KEY,
    name           TEXT NOT NULL,
    path           TEXT NOT NULL,                 -- where the file is now
    sha256         TEXT NOT NULL UNIQUE CHECK (length(sha256) = 64),
    config         TEXT NOT NULL DEFAULT '{}',
    feature_net_id INTEGER REFERENCES feature_nets(id),
    created_at     INTEGER NOT NULL
) STRICT;
INSERT INTO bases VALUES(1,'emoji-dit','/bases/emoji','b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0','{}',1,1795442309528);
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
INSERT INTO datasets VALUES(1,'digits','/data/digits',1,'ready',NULL,NULL,'affiner','{}',1,1,1,1,0,1795442309536,NULL);
INSERT INTO datasets VALUES(2,'flags','/data/flags',1,'ready',NULL,NULL,'affiner','{}',1,2,1,1,0,1795442309648,NULL);
INSERT INTO datasets VALUES(3,'late','/data/late',1,'scanning',NULL,NULL,'affiner','{}',1,NULL,1,0,0,1795442309784,NULL);
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
INSERT INTO dataset_versions VALUES(1,1,1,'48829426a9358da4dd388fa1dfdb476a9b85ef0a56a1ff2f48f0f699c17aafba','48829426a9358da4dd388fa1dfdb476a9b85ef0a56a1ff2f48f0f699c17aafba',3,30,1,'[{"images":3,"name":"0"}]','{"height":null,"width":{"max":9,"min":8}}',1,'[{"path":"x.png","reason":"truncated"}]',1795442309572);
INSERT INTO dataset_versions VALUES(2,2,1,'56cf2d7eb3ad521674d6d418d822ecf30d7bc1ae5485ff2764bf8fd6f88e386e','56cf2d7eb3ad521674d6d418d822ecf30d7bc1ae5485ff2764bf8fd6f88e386e',3,30,1,'[{"images":3,"name":"0"}]','{"height":null,"width":{"max":9,"min":8}}',1,'[{"path":"x.png","reason":"truncated"}]',1795442309700);
CREATE TABLE adapters (
    id           INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE COLLATE NOCASE,
    dataset_id   INTEGER REFERENCES datasets(id),
    last_version INTEGER NOT NULL DEFAULT 0,      -- greatest number given out; never reused
    created_at   INTEGER NOT NULL
) STRICT;
INSERT INTO adapters VALUES(1,'digits',1,1,1795442309644);
INSERT INTO adapters VALUES(2,'flags',2,1,1795442309772);
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
INSERT INTO jobs VALUES(1,'scan','done',20,'scan:1','digits',1,1,NULL,1,1,'{}',0,1,1,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"bytes":30,"changed":true,"images":3,"rejected_count":1,"schema":"diffscaler.scan/1","tree_digest":"48829426a9358da4dd388fa1dfdb476a9b85ef0a56a1ff2f48f0f699c17aafba","width":{"max":9,"min":8}}',NULL,1795442309544,1795442309552,1795442309572);
INSERT INTO jobs VALUES(2,'train','done',0,'train:1','digits',1,1,1,1,0,'{}',0,1,1,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"adapter":{"parameters":1234,"sha256":"fda17da44541ad261130ec89451f67bd1049466af037c688689faea0a710d981"},"classes":1,"device_class":"cpu-test","evaluations":[{"metric":"fd","n_fake":64,"subject":"base","value":90.5},{"feature_net":"fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe","metric":"fd","n_fake":64,"n_real":60,"resize":"pil-bicubic-1","seed":7,"subject":"adapter","value":12.25},{"ci_high":0.02,"ci_low":0.0,"metric":"kid","subject":"adapter","value":0.01}],"gate":{"delta":0.0,"reason":"","tasks":[{"fd_now":12.300000000000001,"fd_recorded":12.300000000000001,"level":1,"name":"old","probe_recorded":"p","ref":"old@v1","unchanged":true,"verdict":"passed"}],"verdict":"passed","worst_task":null},"images":3,"images_per_second":800.0,"probe":{"device_class":"cpu-test","n":4,"seed":11,"sha256":"fda17da44541ad261130ec89451f67bd1049466af037c688689faea0a710d981"},"reference":{"n":64,"sha256":"5744a56bb6c0d2b9eb30bbc76a99e301c9c03c57f351959d07b767bbc1d93a68"},"schema":"diffscaler.train/1","status":"ok","steps":80,"train_seconds":6.5}',1,1795442309588,1795442309596,1795442309645);
INSERT INTO jobs VALUES(3,'scan','done',20,'scan:2','flags',2,2,NULL,1,1,'{}',0,1,1,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'{"bytes":30,"changed":true,"images":3,"rejected_count":1,"schema":"diffscaler.scan/1","tree_digest":"56cf2d7eb3ad521674d6d418d822ecf30d7bc1ae5485ff2764bf8fd6f88e386e","width":{"max":9,"min":8}}',NULL,1795442309660,1795442309664,1795442309700);
INSERT INTO jobs VALUES(4,'train','rejected',0,'train:2','flags',2,2,1,1,0,'{}',0,1,1,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'DS_EREFUSED','old fell by 3.0','{"adapter":{"parameters":1234,"sha256":"c1278867464abe9eebf05b21fe03477d064544ec4a94b74377ae50464e018697"},"classes":1,"device_class":"cpu-test","evaluations":[{"metric":"fd","n_fake":64,"subject":"base","value":90.5},{"feature_net":"fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe","metric":"fd","n_fake":64,"n_real":60,"resize":"pil-bicubic-1","seed":7,"subject":"adapter","value":12.25},{"ci_high":0.02,"ci_low":0.0,"metric":"kid","subject":"adapter","value":0.01}],"gate":{"delta":3.0,"reason":"old fell by 3.0","tasks":[{"fd_now":12.300000000000001,"fd_recorded":12.300000000000001,"level":1,"name":"old","probe_recorded":"p","ref":"old@v1","unchanged":false,"verdict":"refused"}],"verdict":"refused","worst_task":"old"},"images":3,"images_per_second":800.0,"probe":{"device_class":"cpu-test","n":4,"seed":11,"sha256":"c1278867464abe9eebf05b21fe03477d064544ec4a94b74377ae50464e018697"},"reference":{"n":64,"sha256":"4933757b64325793f67c34fd2aa435dc6c24a181ce0534be3aeb83814189cb91"},"schema":"diffscaler.train/1","status":"rejected","steps":80,"train_seconds":6.5}',2,1795442309716,1795442309721,1795442309772);
INSERT INTO jobs VALUES(5,'scan','queued',20,'scan:3','late',3,NULL,NULL,1,0,'{}',0,0,0,3,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1795442309792,NULL,NULL);
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
INSERT INTO job_attempts VALUES(1,1,NULL,NULL,NULL,1795442309552,1795442309572,0,NULL,'done',NULL,NULL);
INSERT INTO job_attempts VALUES(2,1,NULL,NULL,NULL,1795442309596,1795442309645,0,NULL,'done',NULL,NULL);
INSERT INTO job_attempts VALUES(3,1,NULL,NULL,NULL,1795442309664,1795442309700,0,NULL,'done',NULL,NULL);
INSERT INTO job_attempts VALUES(4,1,NULL,NULL,NULL,1795442309721,1795442309772,8,NULL,'rejected','DS_EREFUSED','old fell by 3.0');
CREATE TABLE job_metrics (
    job_id INTEGER NOT NULL REFERENCES jobs(id),
    key    TEXT NOT NULL,
    step   INTEGER NOT NULL,
    value  REAL,                                  -- NULL = not a number
    at     INTEGER NOT NULL,
    PRIMARY KEY (job_id, key, step)               -- a resumed step replaces itself
) STRICT, WITHOUT ROWID;
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
INSERT INTO adapter_versions VALUES(1,1,1,'published','fda17da44541ad261130ec89451f67bd1049466af037c688689faea0a710d981','5744a56bb6c0d2b9eb30bbc76a99e301c9c03c57f351959d07b767bbc1d93a68',1,1,2,1,'affiner',8,80,1,1234,3,1,6.5,800.0,'cpu-test',12.25,90.500000000000000001,0.010000000000000000208,64,'{"base":{"name":"emoji-dit","sha256":"b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"},"dataset":{"tree_digest":"48829426a9358da4dd388fa1dfdb476a9b85ef0a56a1ff2f48f0f699c17aafba"},"evaluate":{"n":64},"feature_net":{"sha256":"fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe"},"gate":{"fd_tolerance":0.02,"verify":"auto"},"kind":"train","method":{"name":"affiner","rank":8},"name":"digits","sample":{"steps":20},"schema":"diffscaler.job/1","train":{"seed":1,"steps":80},"version":1}',1795442309644,NULL);
INSERT INTO adapter_versions VALUES(2,2,1,'rejected','c1278867464abe9eebf05b21fe03477d064544ec4a94b74377ae50464e018697','4933757b64325793f67c34fd2aa435dc6c24a181ce0534be3aeb83814189cb91',2,1,4,1,'affiner',8,80,1,1234,3,1,6.5,800.0,'cpu-test',12.25,90.500000000000000001,0.010000000000000000208,64,'{"base":{"name":"emoji-dit","sha256":"b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"},"dataset":{"tree_digest":"56cf2d7eb3ad521674d6d418d822ecf30d7bc1ae5485ff2764bf8fd6f88e386e"},"evaluate":{"n":64},"feature_net":{"sha256":"fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe"},"gate":{"fd_tolerance":0.02,"verify":"auto"},"kind":"train","method":{"name":"affiner","rank":8},"name":"flags","sample":{"steps":20},"schema":"diffscaler.job/1","train":{"seed":1,"steps":80},"version":1}',1795442309772,NULL);
CREATE TABLE probes (
    adapter_version_id INTEGER NOT NULL REFERENCES adapter_versions(id),
    device_class       TEXT NOT NULL,
    sha256             TEXT NOT NULL CHECK (length(sha256) = 64),
    n                  INTEGER NOT NULL,
    seed               INTEGER NOT NULL,
    created_at         INTEGER NOT NULL,
    PRIMARY KEY (adapter_version_id, device_class)
) STRICT, WITHOUT ROWID;
INSERT INTO probes VALUES(1,'cpu-test','fda17da44541ad261130ec89451f67bd1049466af037c688689faea0a710d981',4,11,1795442309644);
INSERT INTO probes VALUES(2,'cpu-test','c1278867464abe9eebf05b21fe03477d064544ec4a94b74377ae50464e018697',4,11,1795442309772);
CREATE TABLE aliases (
    adapter_id INTEGER NOT NULL REFERENCES adapters(id),
    alias      TEXT NOT NULL COLLATE NOCASE,
    version_id INTEGER NOT NULL REFERENCES adapter_versions(id),
    generation INTEGER NOT NULL DEFAULT 1,        -- counts its moves
    reason     TEXT NOT NULL DEFAULT '',          -- of the last move
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (adapter_id, alias)
) STRICT, WITHOUT ROWID;
INSERT INTO aliases VALUES(1,'latest',1,1,'passed the gate',1795442309645);
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
INSERT INTO alias_history VALUES(1,1,'latest',1,NULL,1,'passed the gate',1795442309645);
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
INSERT INTO evaluations VALUES(1,1795442309644,2,1,1,1,'base','fd',90.500000000000000001,NULL,NULL,NULL,64,0,NULL,NULL,NULL);
INSERT INTO evaluations VALUES(2,1795442309644,2,1,1,1,'adapter','fd',12.25,NULL,NULL,60,64,7,'fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe','pil-bicubic-1',NULL);
INSERT INTO evaluations VALUES(3,1795442309644,2,1,1,1,'adapter','kid',0.010000000000000000208,0.0,0.020000000000000000416,NULL,NULL,0,NULL,NULL,NULL);
INSERT INTO evaluations VALUES(4,1795442309772,4,2,2,1,'base','fd',90.500000000000000001,NULL,NULL,NULL,64,0,NULL,NULL,NULL);
INSERT INTO evaluations VALUES(5,1795442309772,4,2,2,1,'adapter','fd',12.25,NULL,NULL,60,64,7,'fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe','pil-bicubic-1',NULL);
INSERT INTO evaluations VALUES(6,1795442309772,4,2,2,1,'adapter','kid',0.010000000000000000208,0.0,0.020000000000000000416,NULL,NULL,0,NULL,NULL,NULL);
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
INSERT INTO gates VALUES(1,2,'passed','',NULL,0.0,'{"fd_tolerance":0.02,"verify":"auto"}',1795442309644);
INSERT INTO gates VALUES(2,4,'refused','old fell by 3.0','old',3.0,'{"fd_tolerance":0.02,"verify":"auto"}',1795442309772);
CREATE TABLE gate_tasks (
    gate_id        INTEGER NOT NULL REFERENCES gates(id),
    position       INTEGER NOT NULL,
    name           TEXT NOT NULL,                 -- the old task
    ref            TEXT NOT NULL,                 -- its adapter, name@vN
    level          INTEGER NOT NULL CHECK (level IN (1, 2)),  -- 1: probe digest, 2: FD and KID
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
INSERT INTO gate_tasks VALUES(1,0,'old','old@v1',1,1,'passed','',12.30000000000000071,12.30000000000000071,NULL,NULL,NULL,'p',NULL);
INSERT INTO gate_tasks VALUES(2,0,'old','old@v1',1,0,'refused','',12.30000000000000071,12.30000000000000071,NULL,NULL,NULL,'p',NULL);
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,    -- cursor of readers
    at      INTEGER NOT NULL,
    type    TEXT NOT NULL,
    subject TEXT NOT NULL,
    payload TEXT NOT NULL DEFAULT '{}'
) STRICT;
INSERT INTO events VALUES(1,1795442309536,'dataset.added','dataset:digits','{"id":1}');
INSERT INTO events VALUES(2,1795442309544,'job.queued','job:1','{"id":1,"kind":"scan","name":"digits"}');
INSERT INTO events VALUES(3,1795442309552,'job.started','job:1','{"id":1,"kind":"scan","name":"digits"}');
INSERT INTO events VALUES(4,1795442309572,'dataset.scanned','dataset:digits','{"classes":1,"images":3,"rejected":1,"tree_digest":"48829426a9358da4dd388fa1dfdb476a9b85ef0a56a1ff2f48f0f699c17aafba","version":1}');
INSERT INTO events VALUES(5,1795442309572,'job.done','job:1','{"id":1,"kind":"scan","name":"digits"}');
INSERT INTO events VALUES(6,1795442309588,'job.queued','job:2','{"id":2,"kind":"train","name":"digits"}');
INSERT INTO events VALUES(7,1795442309596,'job.started','job:2','{"id":2,"kind":"train","name":"digits"}');
INSERT INTO events VALUES(8,1795442309644,'gate.passed','adapter:digits@v1','{"delta":0.0,"job":2,"reason":"","tasks":1,"worst_task":null}');
INSERT INTO events VALUES(9,1795442309644,'adapter.published','adapter:digits@v1','{"digest":"fda17da44541ad261130ec89451f67bd1049466af037c688689faea0a710d981","fd":12.25,"fd_base":90.5,"job":2,"ref":"digits@v1"}');
INSERT INTO events VALUES(10,1795442309645,'alias.set','alias:digits@latest','{"alias":"latest","generation":1,"name":"digits","version":1}');
INSERT INTO events VALUES(11,1795442309645,'job.done','job:2','{"id":2,"kind":"train","name":"digits"}');
INSERT INTO events VALUES(12,1795442309648,'dataset.added','dataset:flags','{"id":2}');
INSERT INTO events VALUES(13,1795442309660,'job.queued','job:3','{"id":3,"kind":"scan","name":"flags"}');
INSERT INTO events VALUES(14,1795442309664,'job.started','job:3','{"id":3,"kind":"scan","name":"flags"}');
INSERT INTO events VALUES(15,1795442309700,'dataset.scanned','dataset:flags','{"classes":1,"images":3,"rejected":1,"tree_digest":"56cf2d7eb3ad521674d6d418d822ecf30d7bc1ae5485ff2764bf8fd6f88e386e","version":1}');
INSERT INTO events VALUES(16,1795442309700,'job.done','job:3','{"id":3,"kind":"scan","name":"flags"}');
INSERT INTO events VALUES(17,1795442309716,'job.queued','job:4','{"id":4,"kind":"train","name":"flags"}');
INSERT INTO events VALUES(18,1795442309721,'job.started','job:4','{"id":4,"kind":"train","name":"flags"}');
INSERT INTO events VALUES(19,1795442309772,'gate.refused','adapter:flags@v1','{"delta":3.0,"job":4,"reason":"old fell by 3.0","tasks":1,"worst_task":"old"}');
INSERT INTO events VALUES(20,1795442309772,'adapter.rejected','adapter:flags@v1','{"digest":"c1278867464abe9eebf05b21fe03477d064544ec4a94b74377ae50464e018697","fd":12.25,"fd_base":90.5,"job":4,"ref":"flags@v1"}');
INSERT INTO events VALUES(21,1795442309772,'job.rejected','job:4','{"code":"DS_EREFUSED","id":4,"kind":"train","message":"old fell by 3.0","name":"flags"}');
INSERT INTO events VALUES(22,1795442309784,'dataset.added','dataset:late','{"id":3}');
INSERT INTO events VALUES(23,1795442309792,'job.queued','job:5','{"id":5,"kind":"scan","name":"late"}');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('events',23);
INSERT INTO sqlite_sequence VALUES('jobs',5);
INSERT INTO sqlite_sequence VALUES('adapter_versions',2);
INSERT INTO sqlite_sequence VALUES('alias_history',1);
CREATE INDEX datasets_path ON datasets(source_path);
CREATE INDEX datasets_to_scan ON datasets(id) WHERE scan_done < scan_wanted;
CREATE INDEX dataset_versions_manifest ON dataset_versions(manifest_digest);
CREATE INDEX adapters_dataset ON adapters(dataset_id);
CREATE UNIQUE INDEX jobs_dedupe ON jobs(dedupe_key) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_live ON jobs(state, kind, priority, id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_state ON jobs(state, id);
CREATE INDEX jobs_dataset ON jobs(dataset_id, kind, id);
CREATE INDEX jobs_version ON jobs(dataset_version_id, base_id) WHERE dataset_version_id IS NOT NULL;
CREATE INDEX adapter_versions_digest ON adapter_versions(digest);
CREATE INDEX adapter_versions_reference ON adapter_versions(reference_digest);
CREATE INDEX adapter_versions_dataset ON adapter_versions(dataset_version_id, base_id);
CREATE INDEX adapter_versions_listing
    ON adapter_versions(id, adapter_id, status, fd, created_at, deleted_at);
CREATE INDEX aliases_version ON aliases(version_id);
CREATE INDEX alias_history_alias ON alias_history(adapter_id, alias, seq);
CREATE INDEX evaluations_adapter ON evaluations(adapter_version_id, id);
CREATE INDEX evaluations_dataset ON evaluations(dataset_version_id, id);
CREATE INDEX evaluations_metric ON evaluations(metric, id);
CREATE INDEX events_type ON events(type, seq);
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
COMMIT;
