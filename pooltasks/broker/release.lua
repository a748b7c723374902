-- Put back the reservations of a node that is dead or leaves, some hundreds a call.
--
-- Follows entries.lua, limits.lua and forget.lua, whose functions it uses.
--
-- KEYS[1]  hash  index: identity -> epoch, 'stopping', 'dead' or 'dead, stopping'
-- KEYS[2]  hash  unacked of the node
-- KEYS[3]  list  incoming of the node
-- KEYS[4]  zset  leases: identity -> server time in ms at which it runs out
-- KEYS[5]  zset  watchers
-- KEYS[6…15] list  the queue's lists by place, 0 to 9
-- KEYS[16] hash  nodes: identity -> operations with limits; those of limits.lua follow
-- ARGV[1]  identity of the node
-- ARGV[2]  'left': the node itself stops. 'gone': its connections are closed and it has not
--          renewed its lease. 'late': its lease has run out.
-- ARGV[3]  'gone': its lease as it was when its connections were first seen closed
-- ARGV[4]  the channel to which its connections are subscribed
-- ARGV[5]  how many messages to put back at the most
--
-- Returns how many messages it has put back and how many are left; -1 if there is nothing to
-- tell: the node lives, nothing is known of it, or it was dead before and had nothing. From the
-- first call on the node can reserve nothing more.
--
-- A message may still wake a connection of a dead node and lie in its incoming list. So the index
-- keeps the node until its connections are closed.

local state = redis.call('HGET', KEYS[1], ARGV[1])
if not state then return {0, -1} end
local was_dead = string.sub(state, 1, 4) == 'dead'

if ARGV[2] ~= 'left' and not was_dead then
  local lease = redis.call('ZSCORE', KEYS[4], ARGV[1])
  if ARGV[2] == 'gone' then
    if redis.call('PUBSUB', 'NUMSUB', ARGV[4])[2] > 0 or lease ~= ARGV[3] then return {0, -1} end
  else
    local time = redis.call('TIME')
    if lease and tonumber(lease) >= time[1] * 1000 + math.floor(time[2] / 1000) then
      return {0, -1}
    end
  end
  -- In this order: a server whose memory is full refuses a script that adds first.
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('ZREM', KEYS[5], ARGV[1])
  state = state == 'stopping' and 'dead, stopping' or 'dead'
  redis.call('HSET', KEYS[1], ARGV[1], state)
end

-- The operation that killed a node is not known, so the death counts for each of its
-- operations. A node that was asked to stop was killed from outside.
local deaths = state == 'dead' and 1 or 0
local numbers = redis.call('HKEYS', KEYS[2])
-- The newest first: the oldest ends at the head of its list.
table.sort(numbers, function(a, b) return tonumber(a) > tonumber(b) end)
local some = math.min(#numbers, tonumber(ARGV[5]))
for at = 1, some do
  local entry = redis.call('HGET', KEYS[2], numbers[at])
  redis.call('HDEL', KEYS[2], numbers[at])
  leave(entry, false)
  redis.call('RPUSH', list_of(entry, 6), returned(entry, deaths))
end
local moved, left = some, #numbers - some
if left == 0 then
  local message = redis.call('RPOP', KEYS[3])
  while message do
    redis.call('RPUSH', KEYS[6], message)
    moved = moved + 1
    message = redis.call('RPOP', KEYS[3])
  end
  redis.call('ZREM', KEYS[4], ARGV[1])
  redis.call('ZREM', KEYS[5], ARGV[1])
  if ARGV[2] == 'left' or redis.call('PUBSUB', 'NUMSUB', ARGV[4])[2] == 0 then
    redis.call('HDEL', KEYS[1], ARGV[1])
    redis.call('HDEL', KEYS[16], ARGV[1])
    forget_limits(KEYS[1], KEYS[16], limits, held, resume_at)
  end
  if was_dead and moved == 0 then left = -1 end
end
return {moved, left}
