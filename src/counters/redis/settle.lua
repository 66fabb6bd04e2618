-- Adds hits to counters at the time that they belong to, or takes hits away from there.
--
-- KEYS: the head of each counter, then the ring of each. ARGV[1]: the time after which nobody waits for the answer, the
-- clock's skew, then a settlement for each counter, as `settle.rs` packs them. One counter may be there several times.
-- Answers the time, and whether it came to it in time; else nothing is changed.
--
-- It keeps the forms and the rules of `admit.lua`, and never counts less than that would: hits are taken away only
-- where they are sure to count still, and no count falls below 0. What has left its window changes nothing.
-- It is asked in the background, so it reads and writes counters as a whole.

local SLOTS, LOG_HITS_MAX, HITS_MAX, SETTLEMENT_BYTES = 60, 14, 2 ^ 32 - 1, 29
local SLIDING, FIXED = 0, 1
local LOG, RING, WINDOW, BUCKET = 108, 114, 102, 98 -- l, r, f, b
local RING_BYTES, WINDOW_BYTES, BUCKET_BYTES = 18, 13, 33
local DONE, LATE = 1, 2
local LASTS_MAX, JUMP_MAX = 366 * 86400 * 1000000, 10000000
local call, pack, unpack_at = redis.call, struct.pack, struct.unpack
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local byte = string.byte

local time = call('TIME')
local counters = #KEYS / 2
local settlements = ARGV[1]
local latest, skew = unpack_at('<dd', settlements)
local now = time[1] * 1000000 + time[2] - skew
if now > latest then return pack('<dB', now, LATE) end

-- MGET, unlike GET, takes a key of another type for none.
local function get(key)
  return call('MGET', key)[1]
end

-- Keeps a key that counts for that long, as `admit.lua` does.
local function keep(key, value, micros, window)
  call('SET', key, value, 'PX', ceil((micros + window / SLOTS + JUMP_MAX) / 1000))
end

-- Writes a ring whose newest sub-bucket is `newest`, after hits were added to the one called `index`, or taken from it.
local function write_ring(i, step, counts, newest, index, hits)
  local sum = 0
  for number = newest - SLOTS, newest do sum = sum + (counts[number] or 0) end
  local count = counts[index] or 0
  local settled = min(max(count + hits, 0), count + HITS_MAX - sum)
  if settled == count then return end
  counts[index], sum = settled, sum + settled - count
  local slots, oldest = {}, 0
  for age = 1, SLOTS do
    local number = newest - age
    slots[number % SLOTS + 1] = pack('<I4', counts[number] or 0)
    if (counts[number] or 0) > 0 then oldest = age end
  end
  keep(KEYS[i], pack('<BdBI4I4', RING, newest, oldest, sum, counts[newest] or 0), (SLOTS + 1) * step, SLOTS * step)
  keep(KEYS[counters + i], table.concat(slots), (SLOTS + 1) * step, SLOTS * step)
end

local function ring(i, head, window, at, hits)
  local step = ceil(window / SLOTS)
  local _, newest, oldest, sum, current = unpack_at('<BdBI4I4', head)
  local present = max(floor(now / step), newest)
  local index = min(floor(at / step), present)
  if index < present - SLOTS then return end
  local slots, counts = get(KEYS[counters + i]), {}
  local is_whole = slots and #slots == 4 * SLOTS
  if index == newest and is_whole and current + hits >= 0 and sum + hits <= HITS_MAX then
    return call('SETRANGE', KEYS[i], 0, pack('<BdBI4I4', RING, newest, oldest, sum + hits, current + hits))
  end
  if is_whole then
    for number = newest - SLOTS, newest - 1 do
      counts[number] = unpack_at('<I4', slots, 4 * (number % SLOTS) + 1)
    end
    counts[newest] = current
  else -- evicted alone; what it held counts on as if it were new
    counts[newest] = sum
  end
  write_ring(i, step, counts, max(newest, index), index, hits)
end

local function log(i, head, window, at, hits)
  local length = head and byte(head) == LOG and #head > 2 and #head == 2 + 8 * byte(head, 2) and byte(head, 2) or 0
  local newest = max(now, length > 0 and unpack_at('<d', head, #head - 7) or 0)
  at = min(at, newest)
  if newest - at >= window or (length == 0 and hits < 0) then return end
  local times = {}
  for number = 1, length do
    local hit = unpack_at('<d', head, 8 * number - 5)
    if hit >= at and hits < 0 then
      hits = hits + 1
    elseif newest - hit < window then
      times[#times + 1] = hit
    end
  end
  if #times + hits > LOG_HITS_MAX then
    local step, counts = ceil(window / SLOTS), {}
    for _, hit in ipairs(times) do
      local index = floor(hit / step)
      counts[index] = (counts[index] or 0) + 1
    end
    return write_ring(i, step, counts, floor(newest / step), floor(at / step), hits)
  end
  for _ = 1, hits do times[#times + 1] = at end
  table.sort(times)
  for number, hit in ipairs(times) do times[number] = pack('<d', hit) end
  keep(KEYS[i], pack('<BB', LOG, #times) .. table.concat(times), window, window)
end

local function fixed(i, head, window, at, hits)
  local number, count = -1, 0
  if head and byte(head) == WINDOW and #head == WINDOW_BYTES then
    local _
    _, number, count = unpack_at('<BdI4', head)
  end
  local present = max(floor(now / window), number)
  if floor(at / window) < present then return end
  if number < present then count = 0 end
  count = min(max(count + hits, 0), HITS_MAX)
  keep(KEYS[i], pack('<BdI4', WINDOW, present, count), (present + 1) * window - now, window)
end

-- As in `admit.lua`.
local function drained(elapsed, limit, window)
  local whole, rest, carry, digit = 0, elapsed % window, 0, 2 ^ 24
  while digit >= 1 do
    carry = carry * 64 + rest * (floor(limit / digit) % 64)
    whole = whole * 64 + floor(carry / window)
    carry, digit = carry % window, digit / 64
  end
  return floor(elapsed / window) * limit + whole, carry
end

-- A debt has no past: hits are owed from now on. Those that are taken away may have been drained since they were owed, and
-- only the rest of them is taken.
local function bucket(i, head, limit, window, at, hits)
  local newest, rate, debt, rest = now, limit, 0, 0
  if head and byte(head) == BUCKET and #head == BUCKET_BYTES then
    local _, whole, part
    _, newest, rate, debt, rest = unpack_at('<BdI4I4d', head)
    whole, part = drained(max(now - newest, 0), rate, window)
    newest, debt, rest = max(now, newest), debt - whole, rest - part
    if rest < 0 then debt, rest = debt - 1, rest + window end
    if debt < 0 then debt, rest = 0, 0 end
  end
  if hits < 0 then
    local whole, part = drained(max(now - at, 0), max(limit, rate), window)
    if hits + whole < 0 then
      debt, rest = debt + hits + whole, rest + part
      if rest >= window then debt, rest = debt + 1, rest - window end
    end
  else
    debt = min(debt + hits, HITS_MAX)
  end
  if debt < 0 then debt, rest = 0, 0 end
  local needed = min((debt + 1) * window / max(limit, 1), LASTS_MAX)
  local lasts = ceil(newest + 2 * needed)
  keep(KEYS[i], pack('<BdI4I4dd', BUCKET, newest, limit, debt, rest, lasts), lasts - now, window)
end

for i = 1, counters do
  local kind, limit, window, at, hits = unpack_at('<BI4ddd', settlements, SETTLEMENT_BYTES * i - 12)
  local head = get(KEYS[i])
  if kind == FIXED then
    fixed(i, head, window, at, hits)
  elseif kind ~= SLIDING then
    bucket(i, head, limit, window, at, hits)
  elseif head and byte(head) == RING and #head == RING_BYTES then
    ring(i, head, window, at, hits)
  else
    log(i, head, window, at, hits)
  end
end
return pack('<dB', now, DONE)
