-- Environments: what was asked for and what it came down to, and where that is built.

CREATE TABLE environments (
    digest      text PRIMARY KEY,                   -- of what is installed, variables, names of secrets
    venv        text NOT NULL,                      -- digest of what is installed
    spec        text NOT NULL,                      -- canonical JSON of EnvSpec
    pins        text,                               -- JSON of Pins; null: not resolved yet
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX environments_newest ON environments (created_at DESC, digest DESC);
CREATE INDEX environments_venv ON environments (venv, created_at);

CREATE TABLE venvs (
    host        text NOT NULL,
    venv        text NOT NULL,
    status      text NOT NULL CHECK (status IN ('BUILDING', 'READY', 'FAILED', 'INVALID')),
    path        text,                               -- directory on that host, once it is built
    bytes       bigint NOT NULL DEFAULT 0,
    build_s     double precision,
    hits        bigint NOT NULL DEFAULT 0,
    error       text,                               -- JSON of the error of a FAILED one
    permanent   boolean NOT NULL DEFAULT false,     -- that error is the answer until somebody retries
    built_at    timestamptz,
    used_at     timestamptz,
    PRIMARY KEY (host, venv)
);
CREATE INDEX venvs_venv ON venvs (venv);

ALTER TABLE executions ADD COLUMN environment text; -- digest of the one that it runs in
CREATE INDEX executions_environment ON executions (environment) WHERE environment IS NOT NULL;
