-- What executions and cells cost, what was really spent, budgets of batches, and their working time.

ALTER TABLE executions ADD COLUMN usage text NOT NULL DEFAULT '{}';    -- JSON: sums by key over its path
ALTER TABLE executions ADD COLUMN spent text;                         -- JSON Cost of the steps on its own branches
ALTER TABLE executions ADD COLUMN spent_tokens double precision NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN cut_off text NOT NULL DEFAULT '{}';  -- JSON: usage of steps that were not stored

ALTER TABLE cells ADD COLUMN node_runs integer;
ALTER TABLE cells ADD COLUMN usage text;
ALTER TABLE cells ADD COLUMN shared_failure boolean NOT NULL DEFAULT false;
CREATE INDEX cells_recent ON cells (batch_id, ended_at DESC) WHERE ended_at IS NOT NULL;

ALTER TABLE batches ADD COLUMN budget text;                           -- JSON Budget
ALTER TABLE batches ADD COLUMN running_since timestamptz;             -- of a batch that is RUNNING
ALTER TABLE batches ADD COLUMN ran_s double precision NOT NULL DEFAULT 0;  -- how long it was RUNNING before
UPDATE batches SET running_since = started_at WHERE status = 'RUNNING';
UPDATE batches SET ran_s = extract(epoch FROM ended_at - started_at)
WHERE ended_at IS NOT NULL AND started_at IS NOT NULL;

-- Sums of what the executions of a batch have spent, in a few rows, so that their writers do not
-- wait for each other.
CREATE TABLE batch_spendings (
    batch_id    text NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    shard       smallint NOT NULL,
    node_runs   bigint NOT NULL,
    duration_ms double precision NOT NULL,
    tokens      double precision NOT NULL,
    usage       text NOT NULL,                      -- JSON: sums by key
    PRIMARY KEY (batch_id, shard)
);
