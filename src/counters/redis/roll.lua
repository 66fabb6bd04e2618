-- Keeps the roll of the replicas that share the counters, and tells a replica its place in it.
--
-- KEYS[1]: the roll, a sorted set: each replica by the time when it was last there, and RETURN by a time, see below.
-- ARGV[1]: the replica's id. ARGV[2]: why it comes: `stay`, `return` or `leave`. Times are in microseconds.
-- Answers the time, the replica's rank, the number of replicas, and the time from which all of them ask the store again.
--
-- Who was cut off has decided by itself, and so have others, perhaps. The first that returns says a time for all of them,
-- by which they are back as well and have handed over what they admitted. Who is later than that need not wait.

local RETURN, GRACE, LATE, STALE = 'return', 1000000, 1000000, 5000000
local call = redis.call
local roll, id, errand = KEYS[1], ARGV[1], ARGV[2]

local time = call('TIME')
local now = time[1] * 1000000 + time[2]
call('ZREMRANGEBYSCORE', roll, '-inf', now - STALE)
if errand == 'leave' then
  call('ZREM', roll, id)
else
  call('ZADD', roll, now, id)
end
local asks_from = tonumber(call('ZSCORE', roll, RETURN) or 0)
if errand == 'return' and asks_from < now - LATE then
  asks_from = now + GRACE
  call('ZADD', roll, asks_from, RETURN)
end
call('PEXPIRE', roll, 2 * STALE / 1000)

local rank, count = 0, 0
for _, other in ipairs(call('ZRANGE', roll, 0, -1)) do
  if other ~= RETURN then
    count = count + 1
    if other < id then rank = rank + 1 end
  end
end
return struct.pack('<dI4I4d', now, rank, count, asks_from)
