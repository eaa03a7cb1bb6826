-- Limits that the whole cluster shares, what waits for them, and deadlines of cells.

CREATE TABLE limits (
    name        text PRIMARY KEY,
    units       text[] NOT NULL,
    per_minute  double precision[] NOT NULL,
    burst       double precision[] NOT NULL,        -- capacities of the buckets
    levels      double precision[] NOT NULL,        -- what was in them at filled_at; below 0: debt
    filled_at   timestamptz NOT NULL DEFAULT now(),
    concurrency integer CHECK (concurrency > 0),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- Slots of a limit's concurrency; they count as long as the lease of their holder holds.
CREATE TABLE limit_slots (
    name        text NOT NULL REFERENCES limits (name) ON DELETE CASCADE,
    holder      text NOT NULL,                      -- id of a runner's lease
    held        integer NOT NULL DEFAULT 0,
    waiting_since timestamptz,                      -- null: it waits for none
    asked_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, holder)
);

ALTER TABLE batches ADD COLUMN deadline_s double precision CHECK (deadline_s > 0);
ALTER TABLE executions ADD COLUMN deadline timestamptz; -- of its cells, from their first start on
