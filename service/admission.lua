-- Admit one attempt to a route, or say why not; all or nothing.
--
-- KEYS: probe lease, slots (sorted set: attempt -> end), reservations (hash: attempt -> "tokens end replica seq at"),
--       the note that the quota is spent
-- ARGV: attempt, replica, probe (0 or 1), probe ms, hold ms, kept ms, slots, size, limit, used, open attempts, their
--       mean size, the quota's name (its week and limit), ms until its reset, then pairs: replica, highest event of it
--       that the caller's view has
-- Returns 'ok', or 'probe', 'slots', 'quota' or 'spent': nothing is under way, and less is left than one reservation.
--
-- A reservation whose attempt has ended (seq > 0) holds what was really used until the caller's view has that event; so
-- nothing is counted twice, and nothing is forgotten between the end and the snapshot that tells of it.

local attempt, replica = ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local hold, kept = tonumber(ARGV[5]), tonumber(ARGV[6])

if ARGV[3] == '1' then
  local holder = redis.call('GET', KEYS[1])
  if holder and holder ~= attempt then
    return 'probe'
  end
end

local slots = tonumber(ARGV[7])
if slots > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= slots then
    return 'slots'
  end
end

local size = tonumber(ARGV[8])
if size > 0 then
  local heard = {}
  for i = 15, #ARGV, 2 do
    heard[ARGV[i]] = tonumber(ARGV[i + 1])
  end
  local reserved, known = 0, 0
  local entries = redis.call('HGETALL', KEYS[3])
  for i = 1, #entries, 2 do
    local tokens, ends, owner, seq, at = string.match(entries[i + 1], '^(%d+) (%d+) (%S+) (%d+) (%d+)$')
    tokens, ends, seq, at = tonumber(tokens), tonumber(ends), tonumber(seq), tonumber(at)
    local is_heard = seq > 0 and (heard[owner] or 0) >= seq
    if ends <= now or (is_heard and at + kept <= now) then
      redis.call('HDEL', KEYS[3], entries[i])
    elseif seq == 0 or (owner ~= replica and not is_heard) then
      known = known + 1
      reserved = reserved + tokens
    end
  end
  local unreserved = math.max(0, tonumber(ARGV[11]) - known) * tonumber(ARGV[12])
  local used, limit = tonumber(ARGV[10]), tonumber(ARGV[9])
  if reserved + unreserved == 0 and used + size > limit then
    redis.call('SET', KEYS[4], ARGV[13], 'PX', ARGV[14])
    return 'spent'
  end
  if used + reserved + unreserved + size > limit then
    return 'quota'
  end
  redis.call('DEL', KEYS[4])
  redis.call('HSET', KEYS[3], attempt, string.format('%.0f %.0f %s 0 %.0f', size, now + hold, replica, now))
end

if slots > 0 then
  redis.call('ZADD', KEYS[2], now + hold, attempt)
end
if ARGV[3] == '1' then
  redis.call('SET', KEYS[1], attempt, 'PX', ARGV[4])
end
return 'ok'
