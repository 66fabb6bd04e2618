-- The state of one counter and the time that it is at, without writing anything.
-- KEYS: its head and its ring, as `script.rs` has them. Answers seconds, microseconds, and each of them or nothing.
local time = redis.call('TIME')
local kept = redis.call('MGET', KEYS[1], KEYS[2])
return {time[1], time[2], kept[1], kept[2]}
