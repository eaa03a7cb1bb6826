-- Files belong to restore points: which executions track them, and what restores displaced.

ALTER TABLE executions ADD COLUMN tracking boolean NOT NULL DEFAULT false;

-- Rows of subgraphs that belong to a restore point: those made after it go with its files.
ALTER TABLE restore_points ADD COLUMN inner_ids text[] NOT NULL DEFAULT '{}';

CREATE TABLE restores (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id text NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    epoch       bigint NOT NULL,
    before      text NOT NULL,                      -- manifest of what was there
    after       text,                               -- manifest restored; null: the empty tree
    reason      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX restores_execution ON restores (execution_id, id);
