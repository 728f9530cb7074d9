-- The ledger: events as they came, the checkpoint of each stream, and the projections folded from them.

-- One row per event of a route. Partitioned by week on the id itself, whose first 48 bits are its time in milliseconds:
-- the primary key then covers the whole table, so that an event is one row however late it comes again.
-- `body` is json, not jsonb: it keeps the exact bytes, which the hash chain is made of.
CREATE TABLE ccproxy.events (
    event_id   uuid    NOT NULL,
    stream     text    NOT NULL,
    position   bigint  NOT NULL,
    type       text    NOT NULL,
    at_ms      bigint  NOT NULL,
    stream_id  text    NOT NULL,
    epoch      integer NOT NULL,
    request_id text    NOT NULL,
    body       json    NOT NULL,
    hash       bytea   NOT NULL,
    PRIMARY KEY (event_id)
) PARTITION BY RANGE (event_id);
CREATE INDEX events_position ON ccproxy.events (stream, position);

-- Operators' events: few, and never dropped.
CREATE TABLE ccproxy.control_events (
    event_id   uuid    NOT NULL,
    stream     text    NOT NULL,
    position   bigint  NOT NULL,
    type       text    NOT NULL,
    at_ms      bigint  NOT NULL,
    stream_id  text    NOT NULL,
    epoch      integer NOT NULL,
    request_id text    NOT NULL,
    body       json    NOT NULL,
    hash       bytea   NOT NULL,
    PRIMARY KEY (event_id)
);
CREATE INDEX control_events_position ON ccproxy.control_events (stream, position);

-- How far a stream is folded. Its row lock is what makes one worker at a time the owner of the stream.
-- `state` is the folded ledger without its usage, which stands in usage_hourly.
CREATE TABLE ccproxy.checkpoints (
    stream     text        PRIMARY KEY,
    epoch      integer     NOT NULL,
    run_id     text        NOT NULL,
    stream_id  text        NOT NULL,
    position   bigint      NOT NULL,
    hash       bytea       NOT NULL,
    state      json        NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- `position` is the stream's position when the cell was last added to: a worker that holds an older ledger in memory
-- loads the cells above its own position and no others.
CREATE TABLE ccproxy.usage_hourly (
    route          text        NOT NULL,
    hour           timestamptz NOT NULL,
    model          text        NOT NULL,
    client_key     text        NOT NULL,
    position       bigint      NOT NULL,
    attempts       bigint      NOT NULL,
    failed         bigint      NOT NULL,
    aborted        bigint      NOT NULL,
    lost           bigint      NOT NULL,
    input          bigint      NOT NULL,
    output         bigint      NOT NULL,
    cache_read     bigint      NOT NULL,
    cache_write_5m bigint      NOT NULL,
    cache_write_1h bigint      NOT NULL,
    cost_nusd      bigint      NOT NULL,
    unpriced       bigint      NOT NULL,
    PRIMARY KEY (route, hour, model, client_key)
) WITH (fillfactor = 70);

CREATE TABLE ccproxy.route_health (
    route             text    NOT NULL,
    replica           text    NOT NULL,
    failures_in_row   bigint  NOT NULL,
    last_failure_ms   bigint  NOT NULL,
    last_failure_id   text    NOT NULL,
    last_failure_kind text    NOT NULL,
    last_success_ms   bigint  NOT NULL,
    retry_at_ms       bigint  NOT NULL,
    buckets           json    NOT NULL,
    PRIMARY KEY (route, replica)
) WITH (fillfactor = 50);

-- What no event could be made of. The same bytes are one row: a stream that is read again brings them again.
CREATE TABLE ccproxy.dead_letters (
    stream    text        NOT NULL,
    digest    bytea       NOT NULL,
    stream_id text        NOT NULL,
    epoch     integer     NOT NULL,
    raw       bytea       NOT NULL,
    reason    text        NOT NULL,
    seen_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, digest)
);

-- Events that came under an id which stands for something else.
CREATE TABLE ccproxy.quarantine (
    stream    text        NOT NULL,
    digest    bytea       NOT NULL,
    event_id  uuid        NOT NULL,
    stream_id text        NOT NULL,
    epoch     integer     NOT NULL,
    raw       bytea       NOT NULL,
    reason    text        NOT NULL,
    seen_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, digest)
);
