-- Have a node reserve nothing more, because it stops or is drained, until it joins again.
--
-- KEYS[1]  hash  index: identity -> epoch, 'stopping', 'dead' or 'dead, stopping'
-- ARGV[1]  identity of the node
-- ARGV[2]  its new state: "stopping" or "drained"

local state = redis.call('HGET', KEYS[1], ARGV[1])
if state and string.sub(state, 1, 4) ~= 'dead' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
