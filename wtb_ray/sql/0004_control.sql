-- Control: what users ask of executions, and where forks come from.

ALTER TABLE executions
    ADD COLUMN passed text,                         -- the checkpoint whose breakpoints a user has sent it past
    ADD COLUMN forked_from text,                    -- the execution that it was forked from
    ADD COLUMN forked_at text,                      -- and the checkpoint
    DROP CONSTRAINT executions_wanted_check,
    ADD CONSTRAINT executions_wanted_check CHECK (wanted IN ('run', 'pause', 'stop', 'step', 'drain'));
CREATE INDEX executions_forks ON executions (forked_from) WHERE forked_from IS NOT NULL;

-- Commands that run the project's code, which may take longer than their caller waits.
CREATE TABLE operations (
    id          text PRIMARY KEY,
    kind        text NOT NULL,
    execution_id text REFERENCES executions (id) ON DELETE CASCADE,
    status      text NOT NULL DEFAULT 'RUNNING' CHECK (status IN ('RUNNING', 'DONE', 'FAILED')),
    result      text,
    error       text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz
);
