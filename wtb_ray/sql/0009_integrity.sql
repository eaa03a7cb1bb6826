-- Reports of what was held against each other, and what was found.

CREATE TABLE integrity_reports (
    id          text PRIMARY KEY,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz NOT NULL DEFAULT now(),
    deep        boolean NOT NULL,
    only_of     text[] NOT NULL,                    -- kinds or problems; empty: all
    healthy     boolean NOT NULL,                   -- nothing critical
    kinds       text NOT NULL,                      -- JSON: findings by kind
    severities  text NOT NULL,                      -- JSON: findings by severity
    truncated   text[] NOT NULL,                    -- problems of which there may be more
    findings    integer NOT NULL
);
CREATE INDEX integrity_reports_newest ON integrity_reports (ended_at DESC, id DESC);

CREATE TABLE integrity_findings (
    report_id   text NOT NULL REFERENCES integrity_reports (id) ON DELETE CASCADE,
    number      integer NOT NULL,                   -- the worst first
    id          text NOT NULL,                      -- digest of problem and ids
    problem     text NOT NULL,
    place       text NOT NULL,                      -- JSON: where its check finds it again
    body        text NOT NULL,                      -- JSON of Finding
    outcome     text,                               -- what became of its repair
    PRIMARY KEY (report_id, number)
);
CREATE INDEX integrity_findings_id ON integrity_findings (report_id, id);
