-- Reserve the message that woke a worker to which its node has lent its wait.
--
-- The way of reserve.lua for one message of a pool whose operations have no limits, outside of a
-- rollout. As there, a message is in its queue's list, in the list of the node that it woke, or in
-- that node's unacked hash, even if a process or the server dies.
--
-- KEYS[1]  hash  unacked: reservation id -> place, state and message
-- KEYS[2]  hash  index: identity of a node -> its epoch
-- KEYS[3]  list  incoming: the message that woke the worker
-- KEYS[4]  list  the queue's list of place 0
-- ARGV[1]  identity of the node
-- ARGV[2]  the epoch in which it has lent its wait
-- ARGV[3]  id of the reservation
-- ARGV[4]  deliveries after which a message has its last chance; 0 if there is no such number
--
-- Returns the message; nil if there is none, or if it has its last chance: its node knows whether it
-- has another such message. Returns 0 if the node may reserve nothing, 1 if it has to join again.
-- Then the message goes back to its list.

local epoch = redis.call('HGET', KEYS[2], ARGV[1])
local message = redis.call('RPOP', KEYS[3])
if epoch ~= ARGV[2] then
  while message do
    redis.call('RPUSH', KEYS[4], message)
    message = redis.call('RPOP', KEYS[3])
  end
  return epoch == 'again' and 1 or 0
end
if not message then return nil end
if ARGV[4] ~= '0' then
  local mark = '{"deliveries": ' .. ARGV[4] .. ','
  if string.sub(message, 1, #mark) == mark then
    redis.call('RPUSH', KEYS[4], message)
    return nil
  end
end
redis.call('HSET', KEYS[1], ARGV[3], '0r' .. message)
return message
