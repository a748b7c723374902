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
-- ARGV[2]  identity whose lease must be held; '' if none is needed
-- ARGV[3]  prefix of the new reservation ids
-- ARGV[4]  number of the first new reservation
-- ARGV[5…] for each list what follows its messages in the hash: ',exchange,routing key]'
-- then     what is finished, as complete() reads it
--
-- Returns the place of each reserved message's list (from 1) and the message,
-- alternately; the n-th message (from 0) has the id ARGV[3] .. (ARGV[4] + n).
-- A node whose lease is lost reserves nothing: nobody would give it back.

local lists = #KEYS - 2
complete(KEYS[1], ARGV, 5 + lists)

local answer = {}
if ARGV[2] ~= '' and not redis.call('ZSCORE', KEYS[2], ARGV[2]) then
  return answer
end
local left, number = tonumber(ARGV[1]), tonumber(ARGV[4])
for list = 1, lists do
  while left > 0 do
    local message = redis.call('RPOP', KEYS[2 + list])
    if not message then
      break
    end
    local id = ARGV[3] .. string.format('%d', number)
    redis.call('HSET', KEYS[1], id, '[' .. message .. ARGV[4 + list])
    answer[#answer + 1] = list
    answer[#answer + 1] = message
    left = left - 1
    number = number + 1
  end
end
return answer
