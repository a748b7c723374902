-- Publish an operation that is due later; an operation that is due already goes into the queue.
--
-- Follows delay.lua, whose function it uses.
--
-- KEYS[1]  list  the queue's list for the operation's priority
-- KEYS[2]  zset  delayed      KEYS[3]  hash  delayed messages
-- ARGV[1]  channel of the pool's watchers
-- ARGV[2]  id of the operation      ARGV[3]  a text that no other message has
-- ARGV[4]  due time in server ms    ARGV[5]  place, a digit    ARGV[6]  message

local time = redis.call('TIME')
if tonumber(ARGV[4]) <= time[1] * 1000 + math.floor(time[2] / 1000) then
  redis.call('LPUSH', KEYS[1], ARGV[6])
else
  delay(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] .. ARGV[6])
end
