-- Complete finished operations and reserve waiting ones, in one atomic step.
--
-- Follows store.lua, unlock.lua, limits.lua, with or without turns.lua, or unlimited.lua, sorted.lua
-- or unsorted.lua, and complete.lua, whose functions it uses.
--
-- Before and after this script, a message is in its queue's list, in the list of the
-- node that it woke, or in that node's unacked hash, even if a process or the server dies.
--
-- KEYS[1]  hash    unacked: reservation id -> place, state and message
-- KEYS[2]  hash    index: identity of a node -> its epoch
-- KEYS[3]  list    incoming: the message that woke this node, from the list of place 0
-- KEYS[4…] list    the queue's lists, most urgent first (producers LPUSH, the oldest is at the right)
-- then     string  the results of what is finished
-- then     those of sort.lua during a rollout, and those of turns.lua and limits.lua
-- ARGV[1]  how many messages to reserve at the most; where keys take turns then a space, and how many
--          more that lack their key
-- ARGV[2]  deliveries after which a message has its last chance; 0 if there is no such number
-- ARGV[3]  1 if the node has a message with its last chance now, else 0
-- ARGV[4]  identity of the node
-- ARGV[5]  the epoch of the connection that asks
-- ARGV[6]  number of the first new reservation
-- ARGV[7]  number of the lists
-- ARGV[8…] for each list its place, a digit
-- then     what is finished, as complete() reads it
--
-- Returns the place and the text of each reserved message, alternately; the n-th
-- message (from 0) has the reservation id ARGV[6] + n. Returns 0 if the node may
-- reserve nothing: it stops, it was taken for dead, or it has opened another
-- connection since; 1 if it has to join again, because a rollout began or ended. Then the
-- message that woke it goes back to its list.
--
-- A message that was being run at its node's death may have killed it, and so
-- may its neighbors. With its last chance it is alone among its kind in a node;
-- others like it stay where they are, and the messages behind them go first.
--
-- An operation with limits that may not start now waits elsewhere (limits.lua). Where keys take
-- turns so does all that has not had its turn (turns.lua).

local lists = tonumber(ARGV[7])
complete(KEYS[1], 4 + lists, ARGV, 8 + lists, unlock, leave, go_on)

local epoch = redis.call('HGET', KEYS[2], ARGV[4])
if epoch ~= ARGV[5] then
  local message = redis.call('RPOP', KEYS[3])
  while message do
    redis.call('RPUSH', home, message)
    message = redis.call('RPOP', KEYS[3])
  end
  return epoch == 'again' and 1 or 0
end

local answer, entries = {}, {}
local left, keyless = string.match(ARGV[1], '^(%d+) ?(%d*)$')
left, keyless = tonumber(left), tonumber(keyless)
if prepare then left = prepare(left) end
local last, on_trial = tonumber(ARGV[2]), ARGV[3] == '1'
local number = tonumber(ARGV[6])
local mark = '{"deliveries": ' .. ARGV[2] .. ','

-- Messages that wait elsewhere after one call: about five ms of the server's time.
local most = sort and 500 or 200

-- Reserve a message; return true.
local function reserve(place, message)
  entries[#entries + 1] = string.format('%d', number)
  entries[#entries + 1] = place .. 'r' .. message
  answer[#answer + 1] = place
  answer[#answer + 1] = message
  left = left - 1
  number = number + 1
  return true
end

-- Reserve a message, or have it wait until its limits allow it or its turn comes; return false if
-- it has to stay where it is, nil if it waits.
local function take(place, message)
  if sort then
    if take_ready(message) then return nil end
    local waits = sort(place, message)
    if waits then return nil end
    if waits == nil then
      if keyless < 1 then return false end
      keyless, left = keyless - 1, left + 1
    end
  end
  -- The number of the reservation must be one that the node has set aside.
  if left < 1 then return false end
  local tried = last > 0 and string.sub(message, 1, #mark) == mark
  if tried and on_trial then return false end
  if enter then
    message = enter(place, message)
    if not message then return nil end
  end
  on_trial = on_trial or tried
  return reserve(place, message)
end

local function reserve_in_turn(low, high)
  while left > 0 do
    local place, message = take_turn(low, high)
    if not place then return end
    reserve(place, message)
  end
end

local first = redis.call('RPOP', KEYS[3])
while first do
  if take('0', first) == false then redis.call('RPUSH', KEYS[4], first) end
  first = redis.call('RPOP', KEYS[3])
end
for list = 1, lists do
  local key, place = KEYS[3 + list], ARGV[7 + list]
  local stay = {}
  local more = true
  while more and (left > 0 or sort) and #stay < 100 and most > 0 do
    local some = sort and 100 or left
    local messages = redis.call('RPOP', key, some) or {}
    more = #messages == some
    for _, message in ipairs(messages) do
      local is_taken = take(place, message)
      if is_taken == nil then most = most - 1 end
      if is_taken == false then stay[#stay + 1] = message end
    end
  end
  for at = #stay, 1, -1 do
    redis.call('RPUSH', key, stay[at])
  end
  if take_turn then reserve_in_turn(tonumber(place), tonumber(place)) end
end
-- A node whose pool has no priorities serves those of the other places last.
if take_turn then reserve_in_turn(0, 9) end
if settle then settle() end
if #entries > 0 then
  redis.call('HSET', KEYS[1], unpack(entries))
end
return answer
