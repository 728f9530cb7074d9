-- Items of message batches, whose usage is told when their results pass through.
ALTER TABLE ccproxy.usage_hourly ADD COLUMN batch_items bigint NOT NULL DEFAULT 0;
