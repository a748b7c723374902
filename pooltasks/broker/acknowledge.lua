-- Acknowledge an operation that is to run once at most, before it starts.
--
-- KEYS[1]  hash  index: identity -> epoch, 'stopping', 'dead' or 'dead, stopping'
-- KEYS[2]  hash  unacked of the node
-- ARGV[1]  identity of the node
-- ARGV[2]  reservation id
--
-- Returns 1, also when it is asked again; 0 if the node was taken for dead: another node has
-- the operation, and it must not start here.

local state = redis.call('HGET', KEYS[1], ARGV[1])
if not state or string.sub(state, 1, 4) == 'dead' then return 0 end
redis.call('HDEL', KEYS[2], ARGV[2])
return 1
