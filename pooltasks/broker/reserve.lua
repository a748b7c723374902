-- Complete finished operations and reserve waiting ones, in one atomic step.
--
-- Follows store.lua and complete.lua, whose functions it uses.
--
-- Whatever dies before or after this script, a message is in its queue's list
-- or in the unacked hash, never nowhere.
--
-- KEYS[1]  hash    unacked: reservation id -> '[message,exchange,routing key]'
-- KEYS[2]  zset    leases: identity -> server time in ms at which it runs out
-- KEYS[3…] list    the queues' lists, most urgent first (producers LPUSH, the oldest is at the right)
-- ARGV[1]  how many messages to reserve at the most
-- ARGV[2]  deliveries after which a message has its last chance; 0 if there is no such number
-- ARGV[3]  1 if the node has a message with its last chance now, else 0
-- ARGV[4]  identity whose lease must be held; '' if none is needed
-- ARGV[5]  prefix of the new reservation ids
-- ARGV[6]  number of the first new reservation
-- ARGV[7…] for each list what follows its messages in the hash: ',exchange,routing key]'
-- then     what is finished, as complete() reads it
--
-- Returns the place of each reserved message's list (from 1) and the message,
-- alternately; the n-th message (from 0) has the id ARGV[5] .. (ARGV[6] + n).
-- A node whose lease is lost reserves nothing: nobody would give it back.
--
-- A message that was being run at its node's death may have killed it, and so
-- may its neighbours. With its last chance it is alone among its kind in a node;
-- others like it stay where they are, and what waits behind them goes first.

local lists = #KEYS - 2
complete(KEYS[1], ARGV, 7 + lists)

local answer, entries = {}, {}
if ARGV[4] ~= '' and not redis.call('ZSCORE', KEYS[2], ARGV[4]) then
  return answer
end
local left, last, on_trial = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local number = tonumber(ARGV[6])
local mark = '{"deliveries": ' .. ARGV[2] .. ','

for list = 1, lists do
  local stay = {}
  local more = true
  while more and left > 0 and #stay < 100 do
    local messages = redis.call('RPOP', KEYS[2 + list], left) or {}
    more = #messages == left
    for _, message in ipairs(messages) do
      local tried = last > 0 and string.sub(message, 1, #mark) == mark
      if tried and on_trial then
        stay[#stay + 1] = message
      else
        on_trial = on_trial or tried
        entries[#entries + 1] = ARGV[5] .. string.format('%d', number)
        entries[#entries + 1] = '[' .. message .. ARGV[6 + list]
        answer[#answer + 1] = list
        answer[#answer + 1] = message
        left = left - 1
        number = number + 1
      end
    end
  end
  for place = #stay, 1, -1 do
    redis.call('RPUSH', KEYS[2 + list], stay[place])
  end
end
if #entries > 0 then
  redis.call('HSET', KEYS[1], unpack(entries))
end
return answer
