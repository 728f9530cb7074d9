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

-- Versions before these columns have made the table without them. `compatible_from` NULL: no older version may go on
-- over the step; `version` NULL: nobody noted which version applied it.
-- name: add_origin
ALTER TABLE ccproxy.migrations
    ADD COLUMN IF NOT EXISTS compatible_from integer,
    ADD COLUMN IF NOT EXISTS version text;

-- name: applied_migrations
SELECT number, name, sha256 FROM ccproxy.migrations ORDER BY number;

-- Also where the columns are not there yet.
-- name: origins_of_migrations
SELECT number, coalesce(to_jsonb(m) ->> 'version', ''), (to_jsonb(m) ->> 'compatible_from')::integer
FROM ccproxy.migrations AS m;

-- name: add_migration
INSERT INTO ccproxy.migrations (number, name, sha256, compatible_from, version) VALUES (%s, %s, %s, %s, %s);

-- name: unbounded_statements
SET LOCAL statement_timeout = 0;

-- name: only_read
SET TRANSACTION READ ONLY;

-- A table's partitions count as one; indexes and what lies out of line count too.
-- name: table_sizes
SELECT root.relname, sum(pg_total_relation_size(c.oid))::bigint
FROM pg_class AS c JOIN pg_class AS root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
WHERE c.relnamespace = to_regnamespace('ccproxy') AND c.relkind IN ('r', 'p')
GROUP BY root.relname;

-- name: session
SELECT set_config('statement_timeout', '30s', false),
       set_config('lock_timeout', '5s', false),
       set_config('idle_in_transaction_session_timeout', '10s', false),
       set_config('timezone', 'UTC', false);

-- Behind a transaction pooler nothing of a session lasts until the next transaction.
-- name: bounds
SELECT set_config('statement_timeout', '30s', true),
       set_config('lock_timeout', '5s', true),
       set_config('idle_in_transaction_session_timeout', '10s', true),
       set_config('timezone', 'UTC', true);

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

-- Usage and its later prices, of ids of some time.
-- name: priced_events
SELECT body::text FROM ccproxy.events
WHERE event_id >= %(first)s::uuid AND event_id < %(last)s::uuid AND stream = %(stream)s
    AND type IN ('attempt_ended', 'attempt_lost', 'batch_item_used', 'resource_used', 'usage_repriced')
ORDER BY position;

-- All that is kept of the readings of running totals.
-- name: resource_readings
SELECT body::text FROM ccproxy.events WHERE stream = %s AND type = 'resource_used' ORDER BY position;

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
    input, output, cache_read, cache_write_5m, cache_write_1h, cost_nusd, unpriced, batch_items,
    estimated, estimated_tokens)
SELECT %(route)s, to_timestamp(d.hour * 3600), d.model, d.client_key, %(position)s, d.attempts, d.failed, d.aborted,
    d.lost, d.input, d.output, d.cache_read, d.cache_write_5m, d.cache_write_1h, d.cost_nusd, d.unpriced,
    d.batch_items, d.estimated, d.estimated_tokens
FROM unnest(%(hour)s::bigint[], %(model)s::text[], %(client_key)s::text[], %(attempts)s::bigint[], %(failed)s::bigint[],
    %(aborted)s::bigint[], %(lost)s::bigint[], %(input)s::bigint[], %(output)s::bigint[], %(cache_read)s::bigint[],
    %(cache_write_5m)s::bigint[], %(cache_write_1h)s::bigint[], %(cost_nusd)s::bigint[], %(unpriced)s::bigint[],
    %(batch_items)s::bigint[], %(estimated)s::bigint[], %(estimated_tokens)s::bigint[])
    AS d (hour, model, client_key, attempts, failed, aborted, lost, input, output, cache_read, cache_write_5m,
    cache_write_1h, cost_nusd, unpriced, batch_items,
    estimated, estimated_tokens)
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
    batch_items = u.batch_items + excluded.batch_items,
    estimated = u.estimated + excluded.estimated,
    estimated_tokens = u.estimated_tokens + excluded.estimated_tokens;

-- name: cells_since
SELECT (extract(epoch FROM hour) / 3600)::bigint, model, client_key, attempts, failed, aborted, lost, input, output,
    cache_read, cache_write_5m, cache_write_1h, cost_nusd, unpriced, batch_items, estimated, estimated_tokens
FROM {table}
WHERE route = %(route)s AND hour >= to_timestamp(%(oldest_hour)s::bigint * 3600) AND position > %(position)s;

-- name: save_health
INSERT INTO ccproxy.route_health (route, replica, account) VALUES (%s, %s, %s)
ON CONFLICT (route, replica) DO UPDATE SET account = excluded.account;

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

-- name: drop_quarantined
DELETE FROM ccproxy.quarantine WHERE stream = %s AND digest = ANY(%s);

-- Rows lie in the order of their positions, and are read in it. Without statistics the planner would sort them anew.
-- name: reader_session
SELECT set_config('statement_timeout', '10min', false),
       set_config('lock_timeout', '5s', false),
       set_config('idle_in_transaction_session_timeout', '60s', false),
       set_config('enable_bitmapscan', 'off', false),
       set_config('jit', 'off', false),
       set_config('timezone', 'UTC', false);

-- name: one_snapshot
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

-- name: known_streams
SELECT stream FROM ccproxy.checkpoints
UNION SELECT DISTINCT route FROM ccproxy.usage_hourly
UNION SELECT DISTINCT route FROM ccproxy.route_health
ORDER BY 1;

-- name: balance
SELECT position, hash, aside, state::text FROM ccproxy.balances WHERE stream = %s;

-- name: last_position
SELECT coalesce(max(position), 0) FROM {table} WHERE stream = %s;

-- A range, and no LIMIT: positions have no gaps, and a planner without statistics makes nothing worse of it.
-- name: rows_between
SELECT position, body::text FROM {table}
WHERE stream = %(stream)s AND position > %(after)s AND position <= %(upto)s
ORDER BY position;

-- A range, and no LIMIT: positions have no gaps, and a planner without statistics makes nothing worse of it. The row
-- before the range is in it, for its hash.
-- What a page's rows are, as bytes for `page_reader` to compare: events, positions, how each event has to begin, request
-- ids, hashes and the hash before the first of them. A window function and LIKE would cost more than all the rest.
-- name: page
SELECT coalesce(string_agg(json_send(body), '\x0a'), ''), coalesce(string_agg(int8send(position), ''), ''),
    coalesce(convert_to(string_agg(
        concat('{"type":"', type, '","event_id":"', event_id, '","at_ms":', at_ms, ','), chr(10)), 'UTF8'), ''),
    coalesce(convert_to(string_agg(concat('"request_id":"', request_id, '"'), chr(10)), 'UTF8'), ''),
    coalesce(string_agg(hash, ''), ''),
    (SELECT hash FROM {table} WHERE stream = %(stream)s AND position = %(after)s LIMIT 1)
FROM (
    SELECT position, event_id, type, at_ms, request_id, body, hash FROM {table}
    WHERE stream = %(stream)s AND position > %(after)s AND position <= %(upto)s ORDER BY position OFFSET 0
) AS r;

-- Rows that do not follow the one before, whose hash is not theirs, or whose columns may not be those of their body. LIKE
-- is six times as fast as looking into the JSON, but not enough for ids with its wildcards.
-- name: suspect_rows
SELECT position, event_id, type, at_ms, request_id, body, hash, prior, before FROM (
    SELECT position, event_id::text, type, at_ms, request_id, body::text AS body, hash,
        lag(position) OVER w AS prior, lag(hash) OVER w AS before
    FROM {table} WHERE stream = %(stream)s AND position >= %(after)s AND position <= %(upto)s
    WINDOW w AS (ORDER BY position) ORDER BY position
) AS r
WHERE position > %(after)s AND (
    prior IS NULL
    OR position <> prior + 1
    OR body NOT LIKE concat('{"type":"', type, '","event_id":"', event_id, '","at_ms":', at_ms, ',%%"request_id":"',
        request_id, '"%%')
    OR (translate(request_id, '%%_\', '') <> request_id AND strpos(body, concat('"request_id":"', request_id, '"')) = 0)
    OR sha256(before || convert_to(body, 'UTF8')) <> hash
);

-- name: last_place
SELECT position, hash FROM {table} WHERE stream = %(stream)s AND position <= %(upto)s ORDER BY position DESC LIMIT 1;

-- name: asides_after
SELECT number, position, replica, seq, at_ms FROM ccproxy.asides
WHERE stream = %(stream)s AND number > %(after)s AND position <= %(upto)s
ORDER BY number;

-- The projections made anew stand beside the live ones, in a table of this session.
-- name: create_recount
CREATE TEMPORARY TABLE IF NOT EXISTS recount (LIKE ccproxy.usage_hourly INCLUDING ALL);

-- name: empty_recount
DELETE FROM pg_temp.recount WHERE route = %s;

-- name: begin_recount
INSERT INTO pg_temp.recount SELECT * FROM ccproxy.usage_closed WHERE route = %s;

-- name: usage_differences
SELECT to_char(coalesce(s.hour, r.hour), 'YYYY-MM-DD"T"HH24:MI"Z"'), coalesce(s.model, r.model),
    coalesce(s.client_key, r.client_key),
    s.attempts, s.failed, s.aborted, s.lost, s.input, s.output, s.cache_read, s.cache_write_5m, s.cache_write_1h,
    s.cost_nusd, s.unpriced, s.batch_items, s.estimated, s.estimated_tokens,
    r.attempts, r.failed, r.aborted, r.lost, r.input, r.output, r.cache_read, r.cache_write_5m, r.cache_write_1h,
    r.cost_nusd, r.unpriced, r.batch_items, r.estimated, r.estimated_tokens
FROM (SELECT * FROM ccproxy.usage_hourly WHERE route = %(route)s) AS s
FULL JOIN (SELECT * FROM pg_temp.recount WHERE route = %(route)s) AS r USING (hour, model, client_key)
WHERE (s.attempts, s.failed, s.aborted, s.lost, s.input, s.output, s.cache_read, s.cache_write_5m, s.cache_write_1h,
    s.cost_nusd, s.unpriced, s.batch_items, s.estimated, s.estimated_tokens)
    IS DISTINCT FROM
    (r.attempts, r.failed, r.aborted, r.lost, r.input, r.output, r.cache_read, r.cache_write_5m, r.cache_write_1h,
    r.cost_nusd, r.unpriced, r.batch_items, r.estimated, r.estimated_tokens)
ORDER BY hour, model, client_key LIMIT %(limit)s;

-- name: health
SELECT replica, account::text FROM ccproxy.route_health WHERE route = %s ORDER BY replica;

-- name: put_aside_counts
SELECT (SELECT count(*) FROM ccproxy.dead_letters WHERE stream = %(stream)s),
    (SELECT count(*) FROM ccproxy.quarantine WHERE stream = %(stream)s);

-- name: drop_other_cells
DELETE FROM ccproxy.usage_hourly AS u WHERE u.route = %(route)s AND NOT EXISTS (
    SELECT FROM pg_temp.recount AS r
    WHERE (r.route, r.hour, r.model, r.client_key) = (u.route, u.hour, u.model, u.client_key)
);

-- name: swap_cells
INSERT INTO ccproxy.usage_hourly AS u (route, hour, model, client_key, position, attempts, failed, aborted, lost,
    input, output, cache_read, cache_write_5m, cache_write_1h, cost_nusd, unpriced, batch_items,
    estimated, estimated_tokens)
SELECT route, hour, model, client_key, position, attempts, failed, aborted, lost,
    input, output, cache_read, cache_write_5m, cache_write_1h, cost_nusd, unpriced, batch_items, estimated,
    estimated_tokens
FROM pg_temp.recount WHERE route = %(route)s
ON CONFLICT (route, hour, model, client_key) DO UPDATE SET
    position = excluded.position,
    attempts = excluded.attempts,
    failed = excluded.failed,
    aborted = excluded.aborted,
    lost = excluded.lost,
    input = excluded.input,
    output = excluded.output,
    cache_read = excluded.cache_read,
    cache_write_5m = excluded.cache_write_5m,
    cache_write_1h = excluded.cache_write_1h,
    cost_nusd = excluded.cost_nusd,
    unpriced = excluded.unpriced,
    batch_items = excluded.batch_items,
    estimated = excluded.estimated,
    estimated_tokens = excluded.estimated_tokens
WHERE (u.attempts, u.failed, u.aborted, u.lost, u.input, u.output, u.cache_read, u.cache_write_5m, u.cache_write_1h,
    u.cost_nusd, u.unpriced, u.batch_items, u.estimated, u.estimated_tokens)
    IS DISTINCT FROM
    (excluded.attempts, excluded.failed, excluded.aborted, excluded.lost, excluded.input, excluded.output,
    excluded.cache_read, excluded.cache_write_5m, excluded.cache_write_1h, excluded.cost_nusd, excluded.unpriced,
    excluded.batch_items, excluded.estimated, excluded.estimated_tokens);

-- name: drop_all_health
DELETE FROM ccproxy.route_health WHERE route = %s;

-- name: partitions
SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'ccproxy.events'::regclass ORDER BY relname;

-- name: lock_retention
SELECT pg_try_advisory_xact_lock(hashtext('ccproxy.retention'));

-- Briefly: who waits for this lock keeps all others waiting. It is tried again later.
-- name: haste
SELECT set_config('lock_timeout', '2s', true);

-- name: await_all_checkpoints
SELECT stream FROM ccproxy.checkpoints ORDER BY stream FOR UPDATE;

-- name: save_balance
INSERT INTO ccproxy.balances (stream, position, hash, aside, state) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (stream) DO UPDATE SET position = excluded.position, hash = excluded.hash, aside = excluded.aside,
    state = excluded.state, closed_at = now();

-- name: empty_closed_usage
DELETE FROM ccproxy.usage_closed WHERE route = %s;

-- name: close_usage
INSERT INTO ccproxy.usage_closed SELECT * FROM pg_temp.recount WHERE route = %s;

-- name: keep_from
UPDATE ccproxy.checkpoints SET kept_from = greatest(kept_from, %s::uuid);

-- name: drop_partition
DROP TABLE ccproxy.{name};

-- Usage by what is asked for; what is not asked for is blank.
-- name: usage_report
SELECT CASE WHEN %(day)s THEN to_char(hour, 'YYYY-MM-DD') ELSE '' END,
    CASE WHEN %(week)s THEN to_char(date_trunc('week', hour), 'YYYY-MM-DD') ELSE '' END,
    CASE WHEN %(route)s THEN route ELSE '' END,
    CASE WHEN %(model)s THEN model ELSE '' END,
    CASE WHEN %(key)s THEN client_key ELSE '' END,
    CASE WHEN %(hour)s THEN to_char(hour, 'YYYY-MM-DD"T"HH24:MI"Z"') ELSE '' END,
    sum(attempts)::bigint, sum(failed)::bigint, sum(aborted)::bigint, sum(lost)::bigint, sum(input)::bigint,
    sum(output)::bigint, sum(cache_read)::bigint, sum(cache_write_5m)::bigint, sum(cache_write_1h)::bigint,
    sum(cost_nusd)::bigint, sum(unpriced)::bigint, sum(batch_items)::bigint,
    sum(estimated)::bigint, sum(estimated_tokens)::bigint
FROM ccproxy.usage_hourly
WHERE hour >= to_timestamp(%(since)s) AND hour < to_timestamp(%(until)s)
    AND %(only_route)s IN ('', route) AND %(only_model)s IN ('', model) AND %(only_key)s IN ('', client_key)
GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6;

-- An attempt that has ended and says nothing else was the last of its request. The ids of events that ended in the time
-- asked for begin at most a week before it; the bound leaves out older partitions.
-- name: requests_report
SELECT CASE WHEN %(day)s THEN to_char(to_timestamp(at_ms / 1000), 'YYYY-MM-DD') ELSE '' END,
    CASE WHEN %(week)s THEN to_char(date_trunc('week', to_timestamp(at_ms / 1000)), 'YYYY-MM-DD') ELSE '' END,
    CASE WHEN %(route)s THEN stream ELSE '' END,
    CASE WHEN %(model)s THEN coalesce(nullif(body->>'model_served', ''), body->>'model_sent', '') ELSE '' END,
    CASE WHEN %(key)s THEN coalesce(body->>'client_key', '') ELSE '' END,
    CASE WHEN %(hour)s THEN to_char(to_timestamp(at_ms / 1000), 'YYYY-MM-DD"T"HH24:00"Z"') ELSE '' END,
    count(*)
FROM ccproxy.events
WHERE event_id >= %(first)s::uuid AND type = 'attempt_ended' AND at_ms >= %(since)s::bigint * 1000 AND at_ms < %(until)s::bigint * 1000
    AND body->>'final' IS DISTINCT FROM 'false' AND %(only_route)s IN ('', stream)
    AND %(only_model)s IN ('', coalesce(nullif(body->>'model_served', ''), body->>'model_sent', ''))
    AND %(only_key)s IN ('', coalesce(body->>'client_key', ''))
GROUP BY 1, 2, 3, 4, 5, 6;

-- Answers of sessions that left a cache behind, as `requests_report` has them: how many, the tokens that were read anew,
-- their price, and how many have none.
-- name: moves_report
SELECT CASE WHEN %(day)s THEN to_char(to_timestamp(at_ms / 1000), 'YYYY-MM-DD') ELSE '' END,
    CASE WHEN %(week)s THEN to_char(date_trunc('week', to_timestamp(at_ms / 1000)), 'YYYY-MM-DD') ELSE '' END,
    CASE WHEN %(route)s THEN stream ELSE '' END,
    CASE WHEN %(model)s THEN coalesce(nullif(body->>'model_served', ''), body->>'model_sent', '') ELSE '' END,
    CASE WHEN %(key)s THEN coalesce(body->>'client_key', '') ELSE '' END,
    CASE WHEN %(hour)s THEN to_char(to_timestamp(at_ms / 1000), 'YYYY-MM-DD"T"HH24:00"Z"') ELSE '' END,
    count(*),
    sum(coalesce((body->'tokens'->>'input')::bigint, 0) + coalesce((body->'tokens'->>'cache_write_5m')::bigint, 0)
        + coalesce((body->'tokens'->>'cache_write_1h')::bigint, 0))::bigint,
    sum(coalesce((body->>'move_cost_nusd')::bigint, 0))::bigint,
    count(*) FILTER (WHERE body->>'cost_nusd' IS NULL)
FROM ccproxy.events
WHERE event_id >= %(first)s::uuid AND type = 'attempt_ended' AND at_ms >= %(since)s::bigint * 1000 AND at_ms < %(until)s::bigint * 1000
    AND body->>'lost' <> '' AND %(only_route)s IN ('', stream)
    AND %(only_model)s IN ('', coalesce(nullif(body->>'model_served', ''), body->>'model_sent', ''))
    AND %(only_key)s IN ('', coalesce(body->>'client_key', ''))
GROUP BY 1, 2, 3, 4, 5, 6;

-- name: kept_from
SELECT coalesce(max(kept_from::text), '00000000-0000-0000-0000-000000000000') FROM ccproxy.checkpoints;

-- name: put_aside_page
SELECT 'dead' AS kind, stream, seen_at, stream_id, reason, raw, digest FROM ccproxy.dead_letters
WHERE %(stream)s::text IS NULL OR stream = %(stream)s
UNION ALL SELECT 'quarantined', stream, seen_at, stream_id, reason, raw, digest FROM ccproxy.quarantine
WHERE %(stream)s::text IS NULL OR stream = %(stream)s
ORDER BY seen_at DESC, stream LIMIT %(limit)s;

-- name: put_aside
SELECT 'dead' AS kind, stream, seen_at, stream_id, reason, raw FROM ccproxy.dead_letters
WHERE %(stream)s::text IS NULL OR stream = %(stream)s
UNION ALL SELECT 'quarantined', stream, seen_at, stream_id, reason, raw FROM ccproxy.quarantine
WHERE %(stream)s::text IS NULL OR stream = %(stream)s
ORDER BY seen_at DESC, stream LIMIT %(limit)s;

-- A backup or a restore takes as long as it takes; what others hold is waited for only briefly.
-- name: copying_session
SELECT set_config('statement_timeout', '6h', false),
       set_config('lock_timeout', '30s', false),
       set_config('idle_in_transaction_session_timeout', '5min', false);

-- With the lock first, no week that the snapshot shows can be dropped before it is copied.
-- name: hold_ledger
LOCK TABLE ccproxy.events, ccproxy.checkpoints IN ACCESS SHARE MODE;

-- name: tables
SELECT relname, array_agg(attname::text ORDER BY attnum)
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relnamespace = 'ccproxy'::regnamespace AND relkind = 'r' AND relname <> 'migrations'
    AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
GROUP BY relname ORDER BY relname;

-- Event rows are most of a ledger: those folded, without those that were dropped.
-- name: expected_rows
SELECT coalesce((SELECT sum(position) FROM ccproxy.checkpoints), 0)
    - coalesce((SELECT sum(position) FROM ccproxy.balances), 0);

-- name: stream_places
SELECT stream, epoch, position, stream_id, encode(hash, 'hex') FROM ccproxy.checkpoints ORDER BY stream;

-- name: copy_out
COPY {table} ({columns}) TO STDOUT;

-- name: copy_in
COPY {table} ({columns}) FROM STDIN;

-- name: has_rows
SELECT EXISTS (SELECT FROM {table});

-- name: has_positions
SELECT EXISTS (SELECT FROM ccproxy.checkpoints WHERE position > 0);

-- name: highest_epoch
SELECT coalesce(max(epoch), 0) FROM ccproxy.checkpoints;

-- name: set_ledger_aside
ALTER SCHEMA ccproxy RENAME TO ccproxy_replaced;

-- Workers take a checkpoint before all else; in their order, nobody waits for each other.
-- name: await_replaced
LOCK TABLE ccproxy_replaced.checkpoints IN ACCESS EXCLUSIVE MODE;

-- name: drop_replaced
DROP SCHEMA IF EXISTS ccproxy_replaced CASCADE;

-- name: numbered_columns
SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relnamespace = 'ccproxy'::regnamespace AND relkind = 'r' AND attidentity <> '' ORDER BY 1, 2;

-- name: go_on_numbering
SELECT setval(pg_get_serial_sequence({name}, {column}), coalesce(max({identifier}), 0) + 1, false) FROM {table};

-- Without a run, a stream counts as never read: it is read from its first entry, under another epoch.
-- name: forget_runs
UPDATE ccproxy.checkpoints SET run_id = '', epoch = greatest(epoch, %s) + 1;

-- name: events_page
SELECT event_id, stream, position, body FROM (
    (SELECT event_id::text, stream, position, body::text FROM ccproxy.events
    WHERE event_id < %(before)s::uuid AND event_id >= %(first)s::uuid AND %(route)s IN ('', stream)
    AND %(stream)s IN ('', stream) AND %(type)s IN ('', type) AND %(request)s IN ('', request_id)
    AND at_ms >= %(since)s::bigint AND at_ms < %(until)s::bigint
    AND %(outcome)s IN ('', coalesce(body->>'outcome', ''))
    AND %(key)s IN ('', coalesce(body->>'client_key', ''), coalesce(body->>'key_id', ''))
    AND %(model)s IN ('', body->>'model_served', body->>'model_sent', body->>'model_asked', body->>'model')
    ORDER BY events.event_id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT event_id::text, stream, position, body::text FROM ccproxy.control_events
    WHERE event_id < %(before)s::uuid AND event_id >= %(first)s::uuid
    AND %(route)s IN ('', coalesce(body->>'route', ''))
    AND %(stream)s IN ('', stream) AND %(type)s IN ('', type) AND %(request)s IN ('', request_id)
    AND at_ms >= %(since)s::bigint AND at_ms < %(until)s::bigint
    AND %(outcome)s IN ('', coalesce(body->>'outcome', ''))
    AND %(key)s IN ('', coalesce(body->>'client_key', ''), coalesce(body->>'key_id', ''))
    AND %(model)s IN ('', body->>'model_served', body->>'model_sent', body->>'model_asked', body->>'model')
    ORDER BY control_events.event_id DESC LIMIT %(limit)s)
) AS found ORDER BY event_id DESC LIMIT %(limit)s;

-- A request's id says when it came, which leaves out all other weeks.
-- name: events_of_request
SELECT event_id::text, stream, position, body::text FROM ccproxy.events
WHERE request_id = %(request)s AND event_id >= %(first)s::uuid AND event_id < %(last)s::uuid
UNION ALL SELECT event_id::text, stream, position, body::text FROM ccproxy.control_events
WHERE request_id = %(request)s AND event_id >= %(first)s::uuid AND event_id < %(last)s::uuid
LIMIT 1000;

-- name: latency_report
SELECT CASE WHEN %(hour)s THEN to_char(to_timestamp(at_ms / 1000), 'YYYY-MM-DD"T"HH24:00"Z"') ELSE '' END,
    CASE WHEN %(day)s THEN to_char(to_timestamp(at_ms / 1000), 'YYYY-MM-DD') ELSE '' END,
    CASE WHEN %(route)s THEN stream ELSE '' END,
    CASE WHEN %(model)s THEN coalesce(nullif(body->>'model_served', ''), body->>'model_sent', '') ELSE '' END,
    count(*),
    percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY (body->>'first_byte_ms')::integer)
        FILTER (WHERE body->>'stream' = 'true' AND body->>'first_byte_ms' IS NOT NULL),
    percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY coalesce((body->>'total_ms')::integer, 0))
FROM ccproxy.events
WHERE event_id >= %(first)s::uuid AND event_id < %(last)s::uuid AND type = 'attempt_ended'
    AND at_ms >= %(since)s AND at_ms < %(until)s
    AND body->>'outcome' = 'ok' AND coalesce(body->>'endpoint', 'messages') = 'messages'
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4 LIMIT %(limit)s;

-- Files, batches and the like of versions that noted no owner, and the name of the key whose request made them. The few
-- rows of `made` are hashed, so that each week is read once.
-- name: unowned_resources
SELECT DISTINCT made.body->>'resource_id', made.stream, made.event_id::text,
    coalesce(issued.body->>'name', asked.body->>'client_key')
FROM ccproxy.events AS made
JOIN ccproxy.events AS asked ON asked.request_id = made.request_id
    AND asked.type = 'attempt_started' AND asked.body->>'client_key' <> ''
LEFT JOIN ccproxy.control_events AS issued ON issued.type = 'client_key_issued'
    AND issued.body->>'key_id' = asked.body->>'client_key'
WHERE made.type = 'resource_created' AND made.body->>'client_key' IS NULL;

-- name: check_read_only
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on';

-- name: check_may_create
SELECT has_database_privilege(current_database(), 'CREATE');

-- name: check_rights
SELECT c.oid::regclass::text
FROM pg_class c
WHERE c.relnamespace = 'ccproxy'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND NOT (pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(c.relnamespace, 'CREATE'));
