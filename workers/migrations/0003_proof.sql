-- What `ledger verify` and retention need: where an event that was not folded left its number, and closing balances.

-- `dead` and `quarantined` count the stream's rows there. Events with an id below `kept_from` were dropped with their
-- weeks; one that comes later can't be told from one that was counted.
ALTER TABLE ccproxy.checkpoints
    ADD COLUMN dead        bigint NOT NULL DEFAULT 0,
    ADD COLUMN quarantined bigint NOT NULL DEFAULT 0,
    ADD COLUMN kept_from   uuid   NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
UPDATE ccproxy.checkpoints AS c SET
    dead = (SELECT count(*) FROM ccproxy.dead_letters AS d WHERE d.stream = c.stream),
    quarantined = (SELECT count(*) FROM ccproxy.quarantine AS q WHERE q.stream = c.stream);

-- The numbers of events that were read and not folded: dead letters, quarantined ones, facts that were told before.
-- They were heard when the stream stood at `position`, in the order of `number`.
CREATE TABLE ccproxy.asides (
    stream   text   NOT NULL,
    replica  text   NOT NULL,
    seq      bigint NOT NULL,
    number   bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    position bigint NOT NULL,
    at_ms    bigint NOT NULL,
    PRIMARY KEY (stream, replica, seq)
);
CREATE INDEX asides_number ON ccproxy.asides (stream, number);

-- A stream as of the last event that was dropped: `verify` and `rebuild` begin here. `aside` is the last number heard.
CREATE TABLE ccproxy.balances (
    stream    text        PRIMARY KEY,
    position  bigint      NOT NULL,
    hash      bytea       NOT NULL,
    aside     bigint      NOT NULL,
    state     json        NOT NULL,
    closed_at timestamptz NOT NULL DEFAULT now()
);

-- The cells of usage_hourly as of the balances.
CREATE TABLE ccproxy.usage_closed (LIKE ccproxy.usage_hourly INCLUDING ALL);
