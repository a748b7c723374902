-- Publish operations under the controls of their pool, in one step.
--
-- Follows delay.lua, whose function it uses.
--
-- A pool that is full takes no more. Of a unique operation, a call whose key another one has
-- is not published: its result is that of the other. Both are decided here, with the
-- publication, so no two producers can see the same room or the same free key.
--
-- KEYS[1]  hash    room: at, ended, rate, aside
-- KEYS[2]  hash    totals of the pool
-- KEYS[3]  zset    what limits hold back
-- KEYS[4]  hash    what waits for its turn
-- KEYS[5]  zset    delayed      KEYS[6]  hash  delayed messages
-- KEYS[7…] list    the queue's lists
-- then     string  the lane, if the chunk has a number
-- then     string  the keys of unique operations
-- ARGV[1]  the most operations that may wait; 0: any number
-- ARGV[2]  number of the lists
-- ARGV[3]  which of them the messages go on, from 1
-- ARGV[4]  its place, a digit
-- ARGV[5]  channel of the pool's watchers
-- ARGV[6]  number of the chunk in its lane; 0: there is no lane
-- ARGV[7]  seconds for which the lane is remembered
-- ARGV[8]  1 if those that fit are published where not all do; 0: then none is
-- ARGV[9]  number of the fields of the totals that count ended operations
-- then     those fields
-- then     for each operation: its id; its message; due time in server ms, '' for now; which of
--          the keys of unique operations it has, from 1, 0 for none; server time in ms until
--          which it may wait or run; its retries; 1 if it must not be refused, else 0
--
-- Returns ms until there is room, 0 if all fit; then for each operation that fitted, from the
-- first on, the id whose result it has: its own, or that of the operation with the same key.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local most, lists = tonumber(ARGV[1]), tonumber(ARGV[2])
local lane = ARGV[6] ~= '0' and KEYS[7 + lists]
local locks = 6 + lists + (lane and 1 or 0)
local first = 10 + tonumber(ARGV[9])

-- A chunk whose answer was lost comes again: it has the answer that it had.
if lane then
  local number, answer = string.match(redis.call('GET', lane) or '', '^(%d+) (.+)$')
  if number and tonumber(number) >= tonumber(ARGV[6]) then return cjson.decode(answer) end
end

-- Return how many operations end a second, 0 if that is not known; look once in 3 seconds.
local function rate(known)
  local at, per_second = tonumber(known[1]), tonumber(known[3]) or 0
  local age = at and now - at or 10000
  if age < 1000 or (age < 3000 and known[3]) then return per_second end
  local ended = 0
  for _, count in ipairs(redis.call('HMGET', KEYS[2], unpack(ARGV, 10, first - 1))) do
    ended = ended + (tonumber(count) or 0)
  end
  if age < 10000 then
    per_second = math.max(0, ended - tonumber(known[2])) * 1000 / age
    redis.call('HSET', KEYS[1], 'rate', per_second)
    if age < 3000 then return per_second end
  else
    per_second = 0
    redis.call('HDEL', KEYS[1], 'rate')
  end
  redis.call('HSET', KEYS[1], 'at', now, 'ended', ended)
  redis.call('PEXPIRE', KEYS[1], 60000)
  return per_second
end

local room = math.huge
local per_second = 0
if most > 0 then
  local known = redis.call('HMGET', KEYS[1], 'at', 'ended', 'rate', 'aside')
  room = most - redis.call('ZCARD', KEYS[3]) - redis.call('HLEN', KEYS[4])
  room = room - (tonumber(known[4]) or 0)
  for list = 7, 6 + lists do room = room - redis.call('LLEN', KEYS[list]) end
  per_second = rate(known)
end

-- First what is to be done, then the doing: of a chunk that is refused nothing happens.
local answer, accepted, holders = {0}, {}, {}
for at = first, #ARGV, 7 do
  local id, due, must = ARGV[at], tonumber(ARGV[at + 2]), ARGV[at + 6] == '1'
  local lock = ARGV[at + 3] ~= '0' and KEYS[locks + tonumber(ARGV[at + 3])]
  local holder = lock and (holders[lock] or redis.call('GET', lock))
  holder = holder and string.match(holder, '^(.*):%d+$')
  local waits = due and due > now
  if holder and (holder ~= id or not must) and ARGV[at + 5] == '0' then
    answer[#answer + 1] = holder
  elseif room < 1 and not waits and not must then
    local missing = (#ARGV - at + 1) / 7 - room
    answer[1] = per_second > 0 and missing / per_second * 1000 or 1000
    answer[1] = math.floor(math.min(60000, math.max(50, answer[1])))
    break
  else
    local owns = lock and (not holder or holder == id)
    if owns then holders[lock] = id .. ':' .. ARGV[at + 5] end
    if not waits then room = room - 1 end
    accepted[#accepted + 1] = {at, owns and lock, waits}
    answer[#answer + 1] = id
  end
end
if answer[1] > 0 and ARGV[8] == '0' then return answer end

local texts = {}
for _, each in ipairs(accepted) do
  local at, lock, waits = unpack(each)
  if lock then
    redis.call('SET', lock, ARGV[at] .. ':' .. ARGV[at + 5], 'PXAT', ARGV[at + 4])
  end
  if waits then
    delay(KEYS[5], KEYS[6], ARGV[5], ARGV[at], ARGV[at + 5] .. '.' .. now, ARGV[at + 2],
          ARGV[4] .. ARGV[at + 1])
  else
    texts[#texts + 1] = ARGV[at + 1]
  end
end
if #texts > 0 then
  redis.call('LPUSH', KEYS[6 + tonumber(ARGV[3])], unpack(texts))
end
if lane then
  redis.call('SET', lane, ARGV[6] .. ' ' .. cjson.encode(answer), 'EX', ARGV[7])
end
return answer
