-- 0009_classes: the share of a version's samples that show the class they were made for.
--
-- NULL in all of them: not measured, as in versions of an earlier program and in sets of one class.
-- What is known of single classes is in evaluations, with the subjects adapter/NAME and real/NAME.

ALTER TABLE adapter_versions ADD COLUMN class_accuracy REAL;  -- of the samples
ALTER TABLE adapter_versions ADD COLUMN class_real REAL;      -- of the real pictures, each judged by the others
ALTER TABLE adapter_versions ADD COLUMN class_chance REAL;    -- of a vote that is drawn among the real pictures

ALTER TABLE gate_bars ADD COLUMN class_bar REAL;
ALTER TABLE gate_bars ADD COLUMN class_now REAL;
ALTER TABLE gate_bars ADD COLUMN class_error REAL;            -- of the paired difference class_now - class_bar
ALTER TABLE gate_bars ADD COLUMN class_z REAL;                -- the difference in class_error; below 0: worse
ALTER TABLE gate_bars ADD COLUMN class_margin REAL;           -- by which it may be less

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
         WHERE g.job_id = av.job_id) AS self,
       av.class_accuracy, av.class_real, av.class_chance
  FROM adapter_versions av
  JOIN adapters a ON a.id = av.adapter_id
  JOIN blobs b ON b.digest = av.digest
  JOIN bases s ON s.id = av.base_id
  LEFT JOIN dataset_versions dv ON dv.id = av.dataset_version_id
  LEFT JOIN datasets d ON d.id = dv.dataset_id
  LEFT JOIN evaluations e ON e.id = (SELECT x.id FROM evaluations x
       WHERE x.adapter_version_id = av.id AND x.metric = 'fd' AND x.subject = 'adapter' LIMIT 1)
 WHERE av.deleted_at IS NULL;

DROP VIEW gate_bars_v1;
CREATE VIEW gate_bars_v1 AS
SELECT g.job_id AS job, a.name || '@v' || av.version AS adapter, s.verdict AS self, b.role,
       b.ref AS bar, b.verdict, b.fd_bar, b.fd_now, b.delta, b.std_error, b.z, b.margin, b.kid_bar,
       b.kid_now, b.n, b.classes, b.classes_new, b.classes_bar, b.reason,
       strftime('%Y-%m-%dT%H:%M:%fZ', g.at / 1000.0, 'unixepoch') AS at,
       b.class_bar, b.class_now, b.class_error, b.class_z, b.class_margin
  FROM gate_bars b
  JOIN gates g ON g.id = b.gate_id
  JOIN gate_self s ON s.gate_id = b.gate_id
  LEFT JOIN jobs j ON j.id = g.job_id
  LEFT JOIN adapter_versions av ON av.id = j.adapter_version_id
  LEFT JOIN adapters a ON a.id = av.adapter_id;
