-- The file tracker: who relies on stored objects, what is being deleted, what was found damaged.

-- One row. A generation begins when a collection has chosen what it deletes.
CREATE TABLE collecting (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    generation  bigint NOT NULL DEFAULT 1,
    sweeping    boolean NOT NULL DEFAULT false      -- objects of this generation's choice are being deleted
);
INSERT INTO collecting DEFAULT VALUES;

-- Leases of writers, who have a generation, and of readers, who name what they read.
CREATE TABLE object_holds (
    id          text PRIMARY KEY,
    holder      text NOT NULL,
    generation  bigint,
    manifests   text[] NOT NULL DEFAULT '{}',       -- trees that stay
    digests     text[] NOT NULL DEFAULT '{}',       -- single objects that stay
    runner      text,                               -- stands as long as this runner's lease does
    runner_epoch bigint,
    until       timestamptz NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX object_holds_writers ON object_holds (generation) WHERE generation IS NOT NULL;

-- Objects that nobody could reach when they were looked for. `doomed` is the fencing number of the
-- collector that may be deleting the object at this moment: then nobody can take it back any more.
CREATE TABLE condemned (
    digest      bytea PRIMARY KEY,
    size        bigint NOT NULL,
    doomed      bigint,
    doomed_at   timestamptz
);
CREATE INDEX condemned_doomed ON condemned (doomed) WHERE doomed IS NOT NULL;

CREATE TABLE collections (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    status      text NOT NULL DEFAULT 'MARKING'
                CHECK (status IN ('MARKING', 'SWEEPING', 'DONE', 'FAILED', 'ABANDONED')),
    grace_s     double precision NOT NULL,
    done        double precision NOT NULL DEFAULT 0, -- the share of the present stage
    counts      text NOT NULL DEFAULT '{}',         -- JSON of what was found
    swept       bigint NOT NULL DEFAULT 0,
    swept_bytes bigint NOT NULL DEFAULT 0,
    error       text,
    owners      text NOT NULL DEFAULT '{}',         -- JSON: fencing number -> process
    actor       text NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz
);

CREATE TABLE damaged_objects (
    digest      text PRIMARY KEY,
    reason      text NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT now(),
    source      text,                               -- what it was repaired from
    repaired_at timestamptz
);

-- The weight of trees, which does not change.
CREATE TABLE commits (
    manifest    text PRIMARY KEY,
    files       bigint NOT NULL,
    bytes       bigint NOT NULL
);
