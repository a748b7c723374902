-- Begin an epoch of a node: from now on only the connection that has sent this reserves.
--
-- A connection that went silent may still have a reservation under way at the server. It
-- carries the epoch before, so the server refuses it.
--
-- Follows forget.lua, whose function it uses.
--
-- KEYS[1]  hash  index: identity -> epoch, 'stopping', 'dead' or 'dead, stopping'
-- KEYS[2]  zset  leases: identity -> server time in ms at which it runs out
-- KEYS[3]  list  incoming of the node
-- KEYS[4]  list  the queue's list of place 0
-- KEYS[5]  hash  unacked of the node
-- KEYS[6]  zset  watchers: identity -> server time in ms at which its turn ends
-- KEYS[7]  hash  rollout: state, from, to, retired
-- KEYS[8]  hash  nodes: identity -> operations with limits      KEYS[9]  hash  limits
-- KEYS[10] zset  held      KEYS[11] zset  resume      (forget.lua and limits.lua say more)
-- ARGV[1]  identity of the node
-- ARGV[2]  the new epoch
-- ARGV[3]  length of a lease in ms
-- ARGV[4]  1 if the node is new, 0 if it comes back
-- ARGV[5]  channel of the pool; a node's own is this, ':' and its identity
-- ARGV[6]  names of the operations with limits that its code has, with spaces between
--
-- The nodes that watch hear of a new one: it may die before they look again.
--
-- Returns state, from, to and retired of the pool's last rollout, '' if there is none; then the ids
-- of the node's reservations. 0 if it comes back and was taken for dead meanwhile.

local state = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[4] == '0' and (not state or string.sub(state, 1, 4) == 'dead') then return 0 end
local message = redis.call('RPOP', KEYS[3])
while message do
  redis.call('RPUSH', KEYS[4], message)
  message = redis.call('RPOP', KEYS[3])
end
redis.call('EXPIRE', KEYS[2], 86400)
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[8], ARGV[1], ARGV[6])
forget_limits(KEYS[1], KEYS[8], KEYS[9], KEYS[10], KEYS[11])
if ARGV[4] == '1' then
  for _, watcher in ipairs(redis.call('ZRANGE', KEYS[6], 0, 1)) do
    redis.call('PUBLISH', ARGV[5] .. ':' .. watcher, ARGV[1])
  end
end
local rollout = redis.call('HMGET', KEYS[7], 'state', 'from', 'to', 'retired')
local answer = {}
for at = 1, 4 do answer[at] = rollout[at] or '' end
for _, reservation in ipairs(redis.call('HKEYS', KEYS[5])) do answer[#answer + 1] = reservation end
return answer
