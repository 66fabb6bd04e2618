-- The time, and the skew that stands under a key: the sum of the clock's jumps.
--
-- KEYS: that key. ARGV: the skew that is known, the skew that is wanted instead, both in microseconds, and the milliseconds
-- that it is kept for. Whoever knows another one than stands there is behind, and changes nothing.
-- Answers the time of the clock and the skew that stands there now, in microseconds.
local time = redis.call('TIME')
local skew = tonumber(redis.call('MGET', KEYS[1])[1])
if not skew or skew == tonumber(ARGV[1]) then skew = tonumber(ARGV[2]) end
redis.call('SET', KEYS[1], string.format('%.0f', skew), 'PX', ARGV[3])
return struct.pack('<dd', time[1] * 1000000 + time[2], skew)
