-- How much of the usage is estimated: attempts and items, and all their tokens.
ALTER TABLE ccproxy.usage_hourly
    ADD COLUMN estimated        bigint NOT NULL DEFAULT 0,
    ADD COLUMN estimated_tokens bigint NOT NULL DEFAULT 0;
ALTER TABLE ccproxy.usage_closed
    ADD COLUMN estimated        bigint NOT NULL DEFAULT 0,
    ADD COLUMN estimated_tokens bigint NOT NULL DEFAULT 0;
