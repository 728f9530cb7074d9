-- Every statement of the workers, by name. `store.py` and `migrate.py` say when each is used.

-- name: lock_migrations
SELECT pg_advisory_xact_lock(hashtext('ccproxy.migrations'));

-- name: has_schema
SELECT to_regnamespace('ccproxy') IS NOT NULL, to_regclass('ccproxy.migrations') IS NOT NULL;

-- name: create_schema
CREATE SCHEMA ccproxy;

-- name: create_migrations
CREATE TABLE ccproxy.migrations (
    number     integer     PRIMARY KEY,
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: applied_migrations
SELECT number, name, sha256 FROM ccproxy.migrations ORDER BY number;

-- name: add_migration
INSERT INTO ccproxy.migrations (number, name, sha256) VALUES (%s, %s, %s);

-- name: session
SELECT set_config('statement_timeout', '30s', false),
       set_config('lock_timeout', '5s', false),
       set_config('idle_in_transaction_session_timeout', '10s', false),
       set_config('timezone', 'UTC', false);

-- name: streams
SELECT stream FROM ccproxy.checkpoints ORDER BY stream;

-- name: open_checkpoint
INSERT INTO ccproxy.checkpoints (stream, epoch, run_id, stream_id, position, hash, state, kept_from)
SELECT %s::text, 0, '', '0-0', 0, %s::bytea, '{}',
    coalesce(max(kept_from::text), '00000000-0000-0000-0000-000000000000')::uuid
FROM ccproxy.checkpoints
ON CONFLICT DO NOTHING;

-- name: lock_checkpoint
SELECT stream, epoch, run_id, stream_id, position, hash, dead, quarantined, kept_from::text, state::text
FROM ccproxy.checkpoints WHERE stream = %s FOR UPDATE SKIP LOCKED;

-- name: await_checkpoint
SELECT stream, epoch, run_id, stream_id, position, hash, dead, quarantined, kept_from::text, state::text
FROM ccproxy.checkpoints WHERE stream = %s FOR UPDATE;

-- name: checkpoint
SELECT stream, epoch, run_id, stream_id, position, hash, dead, quarantined, kept_from::text, state::text
FROM ccproxy.checkpoints WHERE stream = %s;

-- name: save_checkpoint
UPDATE ccproxy.checkpoints
SET epoch = %(epoch)s, run_id = %(run_id)s, stream_id = %(stream_id)s, position = %(position)s, hash = %(hash)s,
    dead = %(dead)s, quarantined = %(quarantined)s, state = %(state)s, updated_at = now()
WHERE stream = %(stream)s;

-- The bounds let the planner leave out the weeks that no id falls into.
-- name: known_events
SELECT event_id::text, stream, body::text FROM ccproxy.events
WHERE event_id = ANY(%(ids)s::uuid[]) AND event_id BETWEEN %(first)s::uuid AND %(last)s::uuid;

-- name: known_control_events
SELECT event_id::text, stream, body::text FROM ccproxy.control_events
WHERE event_id = ANY(%(ids)s::uuid[]) AND event_id BETWEEN %(first)s::uuid AND %(last)s::uuid;

-- name: copy_events
COPY ccproxy.events (event_id, stream, position, type, at_ms, stream_id, epoch, request_id, body, hash) FROM STDIN;

-- name: copy_control_events
COPY ccproxy.control_events (event_id, stream, position, type, at_ms, stream_id, epoch, request_id, body, hash)
FROM STDIN;

-- name: lock_partitions
SELECT pg_advisory_xact_lock(hashtext('ccproxy.partitions'));

-- name: has_table
SELECT to_regclass(%s) IS NOT NULL;

-- Made apart and then attached: CREATE TABLE .. PARTITION OF would lock out every reader and writer of `events`.
-- name: create_partition
CREATE TABLE ccproxy.{name} (LIKE ccproxy.events INCLUDING ALL);

-- name: attach_partition
ALTER TABLE ccproxy.events ATTACH PARTITION ccproxy.{name} FOR VALUES FROM ({first}) TO ({end});

-- name: add_usage
INSERT INTO {table} AS u (route, hour, model, client_key, position, attempts, failed, aborted, lost,
    input, output, cache_read, cache_write_5m, cache_write_1h, cost_nusd, unpriced, batch_items)
SELECT %(route)s, to_timestamp(d.hour * 3600), d.model, d.client_key, %(position)s, d.attempts, d.failed, d.aborted,
    d.lost, d.input, d.output, d.cache_read, d.cache_write_5m, d.cache_write_1h, d.cost_nusd, d.unpriced,
    d.batch_items
FROM unnest(%(hour)s::bigint[], %(model)s::text[], %(client_key)s::text[], %(attempts)s::bigint[], %(failed)s::bigint[],
    %(aborted)s::bigint[], %(lost)s::bigint[], %(input)s::bigint[], %(output)s::bigint[], %(cache_read)s::bigint[],
    %(cache_write_5m)s::bigint[], %(cache_write_1h)s::bigint[], %(cost_nusd)s::bigint[], %(unpriced)s::bigint[],
    %(batch_items)s::bigint[])
    AS d (hour, model, client_key, attempts, failed, aborted, lost, input, output, cache_read, cache_write_5m,
    cache_write_1h, cost_nusd, unpriced, batch_items)
ON CONFLICT (route, hour, model, client_key) DO UPDATE SET
    position = excluded.position,
    attempts = u.attempts + excluded.attempts,
    failed = u.failed + excluded.failed,
    aborted = u.aborted + excluded.aborted,
    lost = u.lost + excluded.lost,
    input = u.input + excluded.input,
    output = u.output + excluded.output,
    cache_read = u.cache_read + excluded.cache_read,
    cache_write_5m = u.cache_write_5m + excluded.cache_write_5m,
    cache_write_1h = u.cache_write_1h + excluded.cache_write_1h,
    cost_nusd = u.cost_nusd + excluded.cost_nusd,
    unpriced = u.unpriced + excluded.unpriced,
    batch_items = u.batch_items + excluded.batch_items;

-- name: usage_since
SELECT (extract(epoch FROM hour) / 3600)::bigint, model, client_key, attempts, failed, aborted, lost, input, output,
    cache_read, cache_write_5m, cache_write_1h, cost_nusd, unpriced, batch_items
FROM ccproxy.usage_hourly
WHERE route = %(route)s AND hour >= to_timestamp(%(oldest_hour)s * 3600) AND position > %(position)s;

-- name: save_health
INSERT INTO ccproxy.route_health (route, replica, failures_in_row, last_failure_ms, last_failure_id, last_failure_kind,
    last_success_ms, retry_at_ms, buckets)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (route, replica) DO UPDATE SET
    failures_in_row = excluded.failures_in_row,
    last_failure_ms = excluded.last_failure_ms,
    last_failure_id = excluded.last_failure_id,
    last_failure_kind = excluded.last_failure_kind,
    last_success_ms = excluded.last_success_ms,
    retry_at_ms = excluded.retry_at_ms,
    buckets = excluded.buckets;

-- name: drop_health
DELETE FROM ccproxy.route_health WHERE route = %s AND replica = ANY(%s);

-- name: add_dead_letters
INSERT INTO ccproxy.dead_letters (stream, digest, stream_id, epoch, raw, reason)
SELECT %(stream)s, d.digest, d.stream_id, %(epoch)s, d.raw, d.reason
FROM unnest(%(digest)s::bytea[], %(stream_id)s::text[], %(raw)s::bytea[], %(reason)s::text[])
    AS d (digest, stream_id, raw, reason)
ON CONFLICT DO NOTHING;

-- name: add_quarantined
INSERT INTO ccproxy.quarantine (stream, digest, event_id, stream_id, epoch, raw, reason)
SELECT %(stream)s, d.digest, d.event_id, d.stream_id, %(epoch)s, d.raw, d.reason
FROM unnest(%(digest)s::bytea[], %(event_id)s::uuid[], %(stream_id)s::text[], %(raw)s::bytea[], %(reason)s::text[])
    AS d (digest, event_id, stream_id, raw, reason)
ON CONFLICT DO NOTHING;

-- name: add_asides
INSERT INTO ccproxy.asides (stream, replica, seq, position, at_ms)
SELECT %(stream)s, d.replica, d.seq, %(position)s, d.at_ms
FROM unnest(%(replica)s::text[], %(seq)s::bigint[], %(at_ms)s::bigint[]) WITH ORDINALITY AS d (replica, seq, at_ms, place)
ORDER BY d.place
ON CONFLICT DO NOTHING
RETURNING replica, seq, at_ms;

-- name: dead_letters
SELECT seen_at, digest, stream_id, raw FROM ccproxy.dead_letters
WHERE stream = %(stream)s AND (seen_at, digest) > (%(seen_at)s, %(digest)s)
ORDER BY seen_at, digest LIMIT %(limit)s;

-- name: drop_dead_letters
DELETE FROM ccproxy.dead_letters WHERE stream = %s AND digest = ANY(%s);
