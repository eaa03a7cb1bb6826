-- Seals make a change of the event log visible: each covers the events after one place of the log
-- up to another, and the seal before it. The key of their MAC is not in the database.

CREATE TABLE seals (
    number      bigint PRIMARY KEY CHECK (number > 0),
    after_xid   xid8 NOT NULL,                      -- exclusive
    after_seq   bigint NOT NULL,
    to_xid      xid8 NOT NULL,                      -- inclusive
    to_seq      bigint NOT NULL,
    events      bigint NOT NULL,
    digest      text NOT NULL,                      -- of the index of these events
    previous    text NOT NULL,                      -- chain of the seal before; empty for the first
    sealed_at   timestamptz NOT NULL,
    key_id      text NOT NULL,
    chain       text NOT NULL,                      -- digest of all of the above
    mac         text NOT NULL                       -- HMAC of the chain
);

-- Events come in the order of time, so a summary per range of pages finds a time span, and an
-- insert has next to nothing to do for it.
CREATE INDEX events_at ON events USING brin (at);
