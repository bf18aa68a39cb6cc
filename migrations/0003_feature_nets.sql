-- 0003_feature_nets: which network measures a dataset's jobs, and how pictures are prepared for it.
--
-- The default is in meta: 'default_feature_net' (an id) and 'default_feature_mode'; without them it
-- is the network of the base.  A mode is 'pytorch-fid', 'torch-fidelity' or 'clean' for the network
-- of FID, and 'bundled' for any other.

-- Both NULL: follows the default.  Id NULL, mode 'bundled': the network of the base.
ALTER TABLE datasets ADD COLUMN feature_net_id INTEGER REFERENCES feature_nets(id);
ALTER TABLE datasets ADD COLUMN feature_mode TEXT
    CHECK (feature_mode IN ('pytorch-fid', 'torch-fidelity', 'clean', 'bundled'));

-- What a training was first started with; a retry keeps it.
ALTER TABLE jobs ADD COLUMN feature_net_id INTEGER REFERENCES feature_nets(id);
ALTER TABLE jobs ADD COLUMN feature_mode TEXT;

-- Which adapters were measured with a network.
CREATE INDEX evaluations_net ON evaluations(feature_net, adapter_version_id);

-- Other numbers are wanted: the content is worked on anew, as after a change of the options.
CREATE TRIGGER datasets_feature_net AFTER UPDATE OF feature_net_id, feature_mode ON datasets
WHEN OLD.feature_net_id IS NOT NEW.feature_net_id OR OLD.feature_mode IS NOT NEW.feature_mode BEGIN
    UPDATE datasets SET generation = generation + 1 WHERE id = NEW.id;
END;
CREATE TRIGGER feature_nets_fixed BEFORE UPDATE OF id, sha256, created_at ON feature_nets BEGIN
    SELECT RAISE(ABORT, 'the identity of a feature network is immutable');
END;
CREATE TRIGGER feature_nets_keep BEFORE DELETE ON feature_nets BEGIN
    SELECT RAISE(ABORT, 'feature networks are not deleted: set removed_at');
END;

-- `feature_net` is the name of the chosen network, NULL where the dataset follows the default.
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
         WHERE a.name = d.name) AS adapter, b.name AS base, f.name AS feature_net, d.feature_mode
  FROM datasets d LEFT JOIN dataset_versions v ON v.id = d.version_id
  LEFT JOIN bases b ON b.id = d.base_id LEFT JOIN feature_nets f ON f.id = d.feature_net_id;

-- Distances are comparable where `feature_net` (sha256) and `preprocess` are the same.
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
       e.feature_net, e.resize AS preprocess
  FROM adapter_versions av
  JOIN adapters a ON a.id = av.adapter_id
  JOIN blobs b ON b.digest = av.digest
  JOIN bases s ON s.id = av.base_id
  LEFT JOIN dataset_versions dv ON dv.id = av.dataset_version_id
  LEFT JOIN datasets d ON d.id = dv.dataset_id
  LEFT JOIN evaluations e ON e.id = (SELECT x.id FROM evaluations x
       WHERE x.adapter_version_id = av.id AND x.metric = 'fd' AND x.subject = 'adapter' LIMIT 1)
 WHERE av.deleted_at IS NULL;

DROP VIEW feature_nets_v1;
CREATE VIEW feature_nets_v1 AS
SELECT f.id, f.name, f.sha256, f.path, f.kind, f.source, f.source_format, f.source_sha256, f.license,
       f.parameters, f.bytes,
       strftime('%Y-%m-%dT%H:%M:%fZ', f.created_at / 1000.0, 'unixepoch') AS created_at,
       f.id = coalesce((SELECT CAST(m.value AS INTEGER) FROM meta m
                         WHERE m.key = 'default_feature_net'),
                       (SELECT b.feature_net_id FROM bases b JOIN meta m ON m.key = 'active_base'
                         WHERE b.id = CAST(m.value AS INTEGER)), 0) AS is_default
  FROM feature_nets f WHERE f.removed_at IS NULL;
