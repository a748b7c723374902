-- Renew a node's lease and tell how every node is, in one step.
--
-- KEYS[1]  zset    leases: identity -> server time in ms at which it runs out
-- ARGV[1]  identity of the node that asks
-- ARGV[2]  length of a lease in ms
-- ARGV[3]  prefix of the channel to which a live node is subscribed
--
-- Returns 1 if the lease was held and is renewed, 0 if it is lost; then for
-- every other node its identity, 1 if its lease has run out, and the number of
-- connections subscribed to its channel.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
if held == 1 then
  -- In this order: a server whose memory is full refuses a script that adds first.
  redis.call('EXPIRE', KEYS[1], 86400)
  redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
end
local answer = {held}
local nodes = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for n = 1, #nodes, 2 do
  if nodes[n] ~= ARGV[1] then
    answer[#answer + 1] = nodes[n]
    answer[#answer + 1] = tonumber(nodes[n + 1]) < now and 1 or 0
    answer[#answer + 1] = redis.call('PUBSUB', 'NUMSUB', ARGV[3] .. nodes[n])[2]
  end
end
return answer
