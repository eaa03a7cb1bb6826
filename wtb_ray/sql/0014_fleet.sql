-- Why work waits that no runner can be started for, and runners that are short of memory.

CREATE TABLE shortages (
    version     text PRIMARY KEY REFERENCES project_versions (version) ON DELETE CASCADE,
    reason      text NOT NULL,
    since       timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE leases ADD COLUMN short text CHECK (short IN ('process', 'host')); -- whose memory; null: enough
