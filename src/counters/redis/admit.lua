-- Decides one request over all its counters and charges them: all that enforce if all of those have room, else none
-- of them; each in shadow that has room.
--
-- KEYS: the head of each counter, then the ring of each. ARGV[1]: the time after which nobody waits for the answer, the
-- clock's skew, then a charge for each counter, as `script.rs` packs them.
-- Answers the time of the decision, whether the request is admitted, and each counter as it was left.
--
-- After the charges there may be a divisor, and for each counter the hits that the asker wants to have in advance. Where
-- a counter is charged, it is charged these too, as far as they are within that share of what is left; the answer then
-- ends with what each was given. Logs and token buckets give nothing in advance.
--
-- A head is all that a decision reads and writes while time stays in one sub-bucket; a ring is written when it moves on.
-- Every write that makes a key or moves it on gives it an expiry, and SETRANGE leaves that alone: no key is for ever.
-- The arithmetic is that of `limiter`, in whole microseconds. All numbers stay below 2^53, where a double is exact.

local SLOTS, CHARGE_BYTES = 60, 25
local SLIDING, RING, RING_BYTES = 0, 114, 18 -- r
local DENIED, ADMITTED, LATE = 0, 1, 2
local call, pack, unpack_at, ceil = redis.call, struct.pack, struct.unpack, math.ceil

local time = call('TIME')
local keys, charges = KEYS, ARGV[1]
local counters = #keys / 2
local latest, skew = unpack_at('<dd', charges)
local now = time[1] * 1000000 + time[2] - skew
if now > latest then return pack('<dB', now, LATE) end
local wants = 17 + CHARGE_BYTES * counters
local divisor = #charges > wants and unpack_at('<I4', charges, wants)
local given = divisor and {}
local heads = call('MGET', unpack(keys, 1, counters))

-- What nearly every request meets: rings that stay in their sub-bucket and have room to spare. It is done first and
-- without what is below, which Redis would have to make anew for each call. An offset is a text because Redis takes
-- longer to write a number than to count.
local after, is_usual = {}, true
for i = 1, counters do
  local kind, room, hits, window = unpack_at('<BdI4xxxxd', charges, CHARGE_BYTES * i - 8)
  local head = heads[i]
  if kind ~= SLIDING or not head or #head ~= RING_BYTES then is_usual = false break end
  local form, index, oldest, sum, current = unpack_at('<BdBI4I4', head)
  if form ~= RING or sum + hits > room or now >= (index + 1) * ceil(window / SLOTS) then is_usual = false break end
  if divisor then
    given[i] = math.min(unpack_at('<I4', charges, wants + 4 * i), math.floor((room - sum) / divisor))
    hits = hits + given[i]
  end
  after[i] = pack('<BdBI4I4', RING, index, oldest, sum + hits, current + hits)
end
if is_usual then
  for i = 1, counters do call('SETRANGE', keys[i], '0', after[i]) end
  local answer = pack('<dB', now, ADMITTED) .. string.rep('\1', counters) .. table.concat(after)
  if not divisor then return answer end
  for i = 1, counters do given[i] = pack('<I4', given[i]) end
  return answer .. table.concat(given)
end

local LOG_HITS_MAX, SHADOW = 14, 8
local FIXED = 1
local LOG, WINDOW, BUCKET = 108, 102, 98 -- l, f, b
local WINDOW_BYTES, BUCKET_BYTES = 13, 33
local CHARGED, WITH_RING = 1, 2
local NOTHING, LASTS_MAX, JUMP_MAX = '-', 366 * 86400 * 1000000, 10000000
local floor, max, min = math.floor, math.max, math.min
local sub, rep, byte, find = string.sub, string.rep, string.byte, string.find

-- By counter, what a charge makes of it: the head, and where not only its bytes change, the ring and the expiry in ms.
local charged, rings, expiries = {}, {}, {}
-- The ring as it was, where that was read; and whether a token bucket has to be written whatever is decided.
local read, is_stale = {}, {}

-- The hits that are given in advance of those that the request's leave.
local function in_advance(i, left)
  if not divisor then return 0 end
  given[i] = max(min(unpack_at('<I4', charges, wants + 4 * i), floor(left / divisor)), 0)
  return given[i]
end

-- A head that is one. Whatever else stands under the key counts as nothing, and is written over.
local function sound(head, kind)
  local form = head and byte(head)
  if kind == FIXED then return form == WINDOW and #head == WINDOW_BYTES and head end
  if kind ~= SLIDING then return form == BUCKET and #head == BUCKET_BYTES and head end
  if form == RING then return #head == RING_BYTES and head end
  return form == LOG and #head > 2 and #head == 2 + 8 * byte(head, 2) and head
end

-- The ring of a counter. MGET, unlike GET, takes a key of another type for none.
local function ring_of(i)
  local slots = call('MGET', keys[counters + i])[1]
  return slots and #slots == 4 * SLOTS and slots
end

-- The milliseconds that a key is kept for which counts for that long. It expires by a clock that may jump, so it is kept
-- for longer by the 60th part of its window and by 10 s.
local function expiry(micros, window)
  return ceil((micros + window / SLOTS + JUMP_MAX) / 1000)
end

local function begin_ring(i, index, oldest, sum, current, slots, step)
  charged[i] = pack('<BdBI4I4', RING, index, oldest, sum, current)
  rings[i] = slots
  expiries[i] = expiry((SLOTS + 1) * step, SLOTS * step)
end

-- A log has the time of each hit. One more that does not fit turns it into a ring.
local function log(i, head, window, room, hits)
  local used, first, newest = 0, 3, now
  if head then
    used = byte(head, 2)
    newest = max(now, (unpack_at('<d', head, #head - 7)))
    while used > 0 and newest - unpack_at('<d', head, first) >= window do
      used, first = used - 1, first + 8
    end
  end
  if used > room or hits == 0 then return used end
  local times = head and sub(head, first) or ''
  if used + hits <= LOG_HITS_MAX then
    charged[i] = pack('<BB', LOG, used + hits) .. times .. rep(pack('<d', newest), hits)
    expiries[i] = expiry(window, window)
    return used
  end
  local step = ceil(window / SLOTS)
  local present, oldest, current, counts, slots = floor(newest / step), 0, hits, {}, {}
  for place = 1, #times, 8 do
    local index = floor(unpack_at('<d', times, place) / step)
    if index == present then
      current = current + 1
    else
      counts[index % SLOTS] = (counts[index % SLOTS] or 0) + 1
      oldest = max(oldest, present - index)
    end
  end
  for slot = 0, SLOTS - 1 do slots[slot + 1] = pack('<I4', counts[slot] or 0) end
  begin_ring(i, present, oldest, used + hits, current, table.concat(slots), step)
  return used
end

-- A ring moves on: its current count goes to its slot, and what is older than the window drops out.
local function move_ring(i, index, oldest, sum, current, window, room, hits)
  local step = ceil(window / SLOTS)
  local present = floor(now / step)
  local passed = present - index
  if passed > SLOTS then return log(i, nil, window, room, hits) end
  local slots = ring_of(i)
  if not slots then -- evicted alone; what it held counts on as if it were new
    slots, current, oldest = rep('\0', 4 * SLOTS), sum, 0
    heads[i] = pack('<BdBI4I4', RING, index, 0, sum, sum)
  end
  read[i] = slots
  local first = index % SLOTS
  for age = 0, passed - 1 do
    sum = sum - unpack_at('<I4', slots, 4 * ((first + age) % SLOTS) + 1)
  end
  if sum == 0 then return log(i, nil, window, room, hits) end
  if sum > room or hits == 0 then return sum end
  local past = first + passed
  if past <= SLOTS then
    slots = sub(slots, 1, 4 * first) .. pack('<I4', current) .. rep('\0', 4 * (passed - 1)) .. sub(slots, 4 * past + 1)
  else
    past = past - SLOTS
    slots = rep('\0', 4 * past) .. sub(slots, 4 * past + 1, 4 * first) .. pack('<I4', current)
      .. rep('\0', 4 * (SLOTS - first - 1))
  end
  oldest = oldest + passed
  if oldest > SLOTS then
    local from = present % SLOTS
    local at = find(slots, '[^%z]', 4 * from + 1) or find(slots, '[^%z]')
    oldest = (from - floor((at - 1) / 4) - 1) % SLOTS + 1
  end
  local all = hits + in_advance(i, room - sum)
  begin_ring(i, present, oldest, sum + all, all, slots, step)
  return sum
end

local function fixed(i, head, window, room, hits)
  local present, number, count = floor(now / window), -1, 0
  local tag
  if head then tag, number, count = unpack_at('<BdI4', head) end
  if number < present then
    number, count = present, 0
    expiries[i] = expiry((present + 1) * window - now, window)
  end
  if count <= room and hits > 0 then
    charged[i] = pack('<BdI4', WINDOW, number, count + hits + in_advance(i, room - count))
  end
  return count
end

-- elapsed * limit / window, as a whole number and the rest. The product is taken in digits of six bits.
local function drained(elapsed, limit, window)
  local whole, rest, carry, digit = 0, elapsed % window, 0, 2 ^ 24
  while digit >= 1 do
    carry = carry * 64 + rest * (floor(limit / digit) % 64)
    whole = whole * 64 + floor(carry / window)
    carry, digit = carry % window, digit / 64
  end
  return floor(elapsed / window) * limit + whole, carry
end

-- A token bucket is a debt of whole hits and a rest, in hits times the window, that drains at the limit in its head.
-- A head with another limit is stale: it is written even where nothing is charged, so that the new one drains it.
local function bucket(i, head, limit, window, room, hits, is_refreshed)
  local newest, rate, debt, rest, lasts = now, limit, 0, 0, 0
  if head then
    local tag, whole, part
    tag, newest, rate, debt, rest, lasts = unpack_at('<BdI4I4dd', head)
    whole, part = drained(max(now - newest, 0), rate, window)
    newest, debt, rest = max(now, newest), debt - whole, rest - part
    if rest < 0 then debt, rest = debt - 1, rest + window end
    if debt < 0 then debt, rest = 0, 0 end
  end
  local used = rest > 0 and debt + 1 or debt
  is_stale[i] = rate ~= limit
  if (used <= room and hits > 0) or is_refreshed then
    local needed = min((debt + hits + 1) * window / max(limit, 1), LASTS_MAX)
    if now + needed > lasts then
      lasts = ceil(now + 2 * needed)
      expiries[i] = expiry(2 * needed, window)
    end
    charged[i] = pack('<BdI4I4dd', BUCKET, newest, limit, debt + hits, rest, lasts)
  end
  return used
end

local admitted, in_shadow = ADMITTED, {}
-- What is left of the room after the charge, below 0 where it does not fit once more.
local left = {}
for i = 1, counters do
  local kind, room, hits, limit, window = unpack_at('<BdI4I4d', charges, CHARGE_BYTES * i - 8)
  if kind >= SHADOW then kind, in_shadow[i] = kind - SHADOW, true end
  local head, used = sound(heads[i], kind)
  heads[i] = head
  if kind == FIXED then
    used = fixed(i, head, window, room, hits)
  elseif kind ~= SLIDING then
    used = bucket(i, head, limit, window, room, hits)
  elseif head and byte(head) == RING then
    local tag, index, oldest, sum, current = unpack_at('<BdBI4I4', head)
    if now >= (index + 1) * ceil(window / SLOTS) then
      used = move_ring(i, index, oldest, sum, current, window, room, hits)
    else
      used = sum
      if sum <= room and hits > 0 then
        local all = hits + in_advance(i, room - sum)
        charged[i] = pack('<BdBI4I4', RING, index, oldest, sum + all, current + all)
      end
    end
  else
    used = log(i, head, window, room, hits)
  end
  left[i] = room - used - hits
  if used > room and not in_shadow[i] then admitted = DENIED end
end

local function write(i, head)
  if expiries[i] then
    call('SET', keys[i], head, 'PX', expiries[i])
    if rings[i] then call('SET', keys[counters + i], rings[i], 'PX', expiries[i]) end
  else
    call('SETRANGE', keys[i], '0', head)
  end
end

-- The flags of all counters, then the head of each, and its ring where it takes that to say when more room comes.
local flags, states = {}, {}
for i = 1, counters do
  local head, ring, flag = heads[i] or NOTHING, read[i], 0
  if charged[i] and (admitted == ADMITTED or in_shadow[i]) then
    head, ring, flag = charged[i], rings[i], CHARGED
    write(i, head)
  elseif is_stale[i] then
    local _, room, _, limit, window = unpack_at('<BdI4I4d', charges, CHARGE_BYTES * i - 8)
    bucket(i, heads[i], limit, window, room, 0, true)
    head = charged[i]
    write(i, head)
  end
  if byte(head) ~= RING then
    ring = nil
  elseif left[i] < 0 then
    ring = ring or read[i] or ring_of(i)
  elseif flag == CHARGED then
    ring = nil
  end
  flags[i] = ring and flag + WITH_RING or flag
  states[i] = ring and head .. ring or head
  if divisor then given[i] = pack('<I4', flag == CHARGED and given[i] or 0) end
end
return pack('<dB', now, admitted) .. string.char(unpack(flags)) .. table.concat(states) .. table.concat(given or {})
