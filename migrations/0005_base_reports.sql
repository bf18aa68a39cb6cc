-- 0005_base_reports: what an import understood of a file (docs/jobs.md, "import", key "report"), kept
-- with the base or feature network.  NULL: it came with the program, or before reports were kept.

ALTER TABLE bases ADD COLUMN report TEXT CHECK (report IS NULL OR substr(report, 1, 1) = '{');
ALTER TABLE feature_nets ADD COLUMN report TEXT CHECK (report IS NULL OR substr(report, 1, 1) = '{');
