-- Note that an operation which must not run twice starts now.
--
-- KEYS[1]  hash  unacked of the node
-- ARGV[1]  reservation id
--
-- Returns 1, or 0 if the reservation is not the node's any more: it must not start.

local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.sub(entry, 1, 1) .. 's' .. string.sub(entry, 3))
return 1
