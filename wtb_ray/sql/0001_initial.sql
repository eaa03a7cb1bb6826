-- The first schema. LangGraph's own tables are made by its own migrations in the same step.

CREATE TABLE projects (
    name        text PRIMARY KEY,
    version     text NOT NULL,                      -- the newest registered version
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE project_versions (
    version     text PRIMARY KEY,                   -- digest of the spec
    project     text NOT NULL REFERENCES projects (name) ON DELETE CASCADE,
    spec        text NOT NULL,                      -- canonical JSON of ProjectSpec
    graph       text NOT NULL,                      -- GraphInfo of the entry
    workflows   text NOT NULL DEFAULT '{}',         -- name -> GraphInfo
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX project_versions_project ON project_versions (project, created_at DESC);

CREATE TABLE batches (
    id          text PRIMARY KEY,
    project     text NOT NULL,
    version     text NOT NULL REFERENCES project_versions (version),
    status      text NOT NULL DEFAULT 'PENDING'
                CHECK (status IN ('PENDING', 'RUNNING', 'PAUSED', 'COMPLETED', 'FAILED', 'CANCELLED')),
    reason      text,
    bindings    text NOT NULL,                      -- JSON list of bindings, in variant order
    variants    text[] NOT NULL,                    -- their names
    scorers     text NOT NULL DEFAULT '[]',
    repetitions integer NOT NULL DEFAULT 1,
    cases       integer NOT NULL,
    cells       integer NOT NULL,
    node_errors text NOT NULL DEFAULT 'zero' CHECK (node_errors IN ('zero', 'exclude')),
    recursion_limit integer NOT NULL,
    priority    integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz,
    ended_at    timestamptz
);
CREATE INDEX batches_open ON batches (priority DESC, created_at) WHERE status IN ('PENDING', 'RUNNING');
CREATE INDEX batches_newest ON batches (created_at DESC, id DESC);

CREATE TABLE cases (
    batch_id    text NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    ordinal     integer NOT NULL,
    case_id     text NOT NULL,
    digest      text NOT NULL,                      -- of input and expected
    input       text NOT NULL,
    expected    text NOT NULL,
    metadata    text NOT NULL DEFAULT '{}',
    PRIMARY KEY (batch_id, ordinal),
    UNIQUE (batch_id, case_id)
);

-- An execution is a chain of branches with one current (thread_id). `head`, `epoch` and the branch
-- are the fence: every group commit of the saver starts by locking and updating this row.
CREATE TABLE executions (
    id          text PRIMARY KEY,
    project     text NOT NULL,
    version     text NOT NULL REFERENCES project_versions (version),
    binding     text NOT NULL DEFAULT '{}',
    input       text,                               -- null: the input of the batch's case
    status      text NOT NULL DEFAULT 'PENDING'
                CHECK (status IN ('PENDING', 'RUNNING', 'PAUSED', 'COMPLETED', 'FAILED', 'CANCELLED')),
    reason      text,
    wanted      text NOT NULL DEFAULT 'run' CHECK (wanted IN ('run', 'pause', 'stop')),
    epoch       bigint NOT NULL DEFAULT 0,
    owner       text,                               -- the runner that holds it
    thread_id   text NOT NULL,
    head        text,                               -- newest root checkpoint of the current branch
    head_step   integer,
    seen        timestamptz,
    recursion_limit integer NOT NULL,
    breakpoints text[] NOT NULL DEFAULT '{}',
    batch_id    text REFERENCES batches (id) ON DELETE CASCADE,
    case_ordinal integer,
    repetition  integer,
    attempt     integer NOT NULL DEFAULT 0,         -- how often it was started
    suspect     integer NOT NULL DEFAULT 0,         -- how many runners died with it in flight
    priority    integer NOT NULL DEFAULT 0,
    not_before  timestamptz NOT NULL DEFAULT now(),
    error       text,
    latency_ms  double precision,
    node_runs   integer NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    started_at  timestamptz,
    ended_at    timestamptz,
    CHECK ((status = 'RUNNING') = (owner IS NOT NULL))
) WITH (fillfactor = 60);                           -- head updates stay on their page
CREATE INDEX executions_pending ON executions (version, priority DESC, created_at) WHERE status = 'PENDING';
CREATE INDEX executions_owned ON executions (owner) WHERE owner IS NOT NULL;
CREATE INDEX executions_newest ON executions (created_at DESC, id DESC);
CREATE INDEX executions_batch ON executions (batch_id) WHERE batch_id IS NOT NULL;

CREATE TABLE branches (
    thread_id   text PRIMARY KEY,                   -- {execution}.{number}
    execution_id text NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    number      integer NOT NULL,
    parent_thread text,
    parent_checkpoint text,
    reason      text NOT NULL,                      -- start, rollback, fork, split
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (execution_id, number)
);
-- What walks back along branches asks for those that have a parent: a few of very many.
CREATE INDEX branches_parent ON branches (thread_id) WHERE parent_thread IS NOT NULL;

-- One row per root checkpoint; it commits with LangGraph's own rows. Each is a restore point with
-- no pending writes of its own; those taken elsewhere are in restore_points.
CREATE TABLE steps (
    thread_id   text NOT NULL,
    checkpoint_id text NOT NULL,
    step        integer NOT NULL,
    source      text NOT NULL,
    nodes       text NOT NULL,                      -- JSON list of NodeRun
    next_nodes  text[] NOT NULL,
    next_tasks  text NOT NULL,                      -- JSON list of [task id, node name]
    duration_ms double precision NOT NULL,
    manifest    text,
    binding_digest text,
    environment_digest text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (thread_id, checkpoint_id)
);

CREATE TABLE restore_points (
    thread_id   text NOT NULL,
    checkpoint_id text NOT NULL,
    seq         integer NOT NULL,
    task_ids    text[] NOT NULL,                    -- whose pending writes belong to it
    manifest    text,
    reason      text NOT NULL,                      -- interrupt, pause, drain
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (thread_id, checkpoint_id, seq)
);

CREATE TABLE answers (
    execution_id text NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
    thread_id   text NOT NULL,
    checkpoint_id text NOT NULL,
    interrupt_id text NOT NULL,
    value       text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (thread_id, checkpoint_id, interrupt_id)
);

CREATE TABLE cells (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id    text NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    ordinal     integer NOT NULL,                   -- the order of work: case, repetition, variant
    variant     integer NOT NULL,                   -- index into batches.bindings
    case_ordinal integer NOT NULL,
    repetition  integer NOT NULL,
    status      text NOT NULL DEFAULT 'PENDING'
                CHECK (status IN ('PENDING', 'RUNNING', 'SCORING', 'DONE', 'FAILED', 'EXCLUDED', 'CANCELLED')),
    execution_id text REFERENCES executions (id),   -- many cells may share one
    error       text,
    latency_ms  double precision,
    ended_at    timestamptz,
    UNIQUE (batch_id, ordinal),
    UNIQUE (batch_id, variant, case_ordinal, repetition)
) WITH (fillfactor = 70);
CREATE INDEX cells_open ON cells (batch_id, status, ordinal)
    WHERE status IN ('PENDING', 'RUNNING', 'SCORING');
CREATE INDEX cells_execution ON cells (execution_id) WHERE execution_id IS NOT NULL;

CREATE TABLE scores (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id    text NOT NULL,
    cell_id     bigint NOT NULL REFERENCES cells (id) ON DELETE CASCADE,
    scorer      text NOT NULL,
    scorer_digest text NOT NULL,
    metric      text NOT NULL,
    value       double precision,
    explanation text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (cell_id, scorer_digest, metric)
);
CREATE INDEX scores_batch ON scores (batch_id, seq);

-- Parquet parts of a batch's results; readers use the listed parts plus the rows after the last.
CREATE TABLE result_parts (
    batch_id    text NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    number      integer NOT NULL,
    digest      text NOT NULL,                      -- SHA-256 of the object
    rows        integer NOT NULL,
    bytes       bigint NOT NULL,
    cell_ids    int8multirange NOT NULL,            -- the cells it holds
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, number)
);

CREATE TABLE leaderboards (
    batch_id    text NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    digest      text NOT NULL,                      -- of the results it was computed from
    body        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (batch_id, digest)
);

-- Runner processes and detached singletons. `epoch` is the fencing number.
CREATE TABLE leases (
    id          text PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('runner', 'singleton')),
    pool        text,
    status      text NOT NULL DEFAULT 'STARTING' CHECK (status IN ('STARTING', 'READY', 'DRAINING', 'DEAD')),
    epoch       bigint NOT NULL DEFAULT 1,
    holder      text NOT NULL,
    until       timestamptz NOT NULL,
    slots       integer NOT NULL DEFAULT 0,
    solo        boolean NOT NULL DEFAULT false,     -- runs one suspect at a time
    host        text NOT NULL DEFAULT '',
    pid         integer,
    actor_id    text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    busy_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX leases_pool ON leases (pool) WHERE status <> 'DEAD';

CREATE TABLE idempotency (
    key         text PRIMARY KEY,
    request     text NOT NULL,                      -- digest of method, path and body
    status      integer,
    response    text,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE events (
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    type        text NOT NULL,
    project     text,
    execution_id text,
    batch_id    text,
    actor       text NOT NULL,
    payload     text NOT NULL,
    PRIMARY KEY (xid, seq)
);
CREATE INDEX events_execution ON events (execution_id, xid, seq) WHERE execution_id IS NOT NULL;
CREATE INDEX events_batch ON events (batch_id, xid, seq) WHERE batch_id IS NOT NULL;
