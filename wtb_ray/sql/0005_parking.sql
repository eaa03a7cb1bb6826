-- Parking: what a paused execution keeps of what it had for itself, and what it gave back.

ALTER TABLE executions
    ADD COLUMN strategy text CHECK (strategy IN ('hot', 'warm', 'cold')), -- asked for by its pause
    ADD COLUMN expected_s double precision,         -- how long that pause is expected to last
    ADD COLUMN parked_at timestamptz,               -- since when it is parked as it is
    ADD COLUMN parking text,                        -- JSON of Parking: what was kept and given back
    ADD COLUMN ran_in text,                         -- the runner that held it last
    ADD COLUMN clean_from bigint NOT NULL DEFAULT 0; -- workspaces of epochs below it are not gone on with
UPDATE executions SET parked_at = now() WHERE status = 'PAUSED';
CREATE INDEX executions_parked ON executions (parked_at) WHERE status = 'PAUSED';

ALTER TABLE leases
    ADD COLUMN reserved_for text,                   -- the paused execution whose process it stays
    ADD COLUMN configuration text NOT NULL DEFAULT ''; -- digest of the settings it was made with
CREATE INDEX leases_reserved ON leases (reserved_for) WHERE reserved_for IS NOT NULL;
