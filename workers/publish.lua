-- Publish a stream's snapshot, and trim the stream behind it; only forward.
--
-- KEYS: snapshot, route hash, events
-- ARGV: epoch, position, stream id, run id, snapshot, as_of_ms, kept entries, channel, change, dead, quarantined
-- Returns 0 when something as new stands there already, 1 when it was replaced, 2 when nothing stood there.

local function parts(stream_id)
  local ms, seq = string.match(stream_id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end

local there = redis.call('HMGET', KEYS[2], 'epoch', 'position', 'stream_id')
local stood = redis.call('EXISTS', KEYS[1]) == 1 and there[1] and there[2] and there[3]

-- Above 0 when ours is newer than what stands there, 0 when it is as new.
local function ahead()
  local ms, seq = parts(ARGV[3])
  local there_ms, there_seq = parts(there[3])
  local ours = {tonumber(ARGV[1]), tonumber(ARGV[2]), ms, seq}
  local theirs = {tonumber(there[1]), tonumber(there[2]), there_ms, there_seq}
  for i = 1, 4 do
    if ours[i] ~= theirs[i] then
      return ours[i] - theirs[i]
    end
  end
  return 0
end

local lead = stood and ahead() or 1
if lead >= 0 then
  redis.call('HSET', KEYS[2], 'dead', ARGV[10], 'quarantined', ARGV[11])
end
if lead <= 0 then
  return 0
end

redis.call('SET', KEYS[1], ARGV[5])
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'position', ARGV[2], 'stream_id', ARGV[3], 'run_id', ARGV[4],
  'as_of_ms', ARGV[6])

-- The tail behind the checkpoint stays for the console, and with it the checkpoint's own entry, by which the stream is
-- known again. Looked at only when the stream has grown to twice the tail. A stream that lacks the entry is another one.
local kept = tonumber(ARGV[7])
if redis.call('XLEN', KEYS[3]) >= 2 * kept then
  local tail = redis.call('XREVRANGE', KEYS[3], ARGV[3], '-', 'COUNT', kept)
  if #tail == kept and tail[1][1] == ARGV[3] then
    redis.call('XTRIM', KEYS[3], 'MINID', tail[kept][1])
  end
end

redis.call('PUBLISH', ARGV[8], ARGV[9])
return stood and 1 or 2
