-- Push a chunk of messages, once, however often the chunk is sent.
--
-- KEYS[1]   list    the queue
-- KEYS[2]   string  number of the lane's last chunk that was accepted
-- ARGV[1]   number of this chunk, higher than those before it
-- ARGV[2]   seconds for which the lane is remembered
-- ARGV[3…]  the messages
--
-- Returns 1 if they were pushed, 0 if they had been before.

-- admit.lua, which uses the same lanes, writes its answer behind the number.
if tonumber(string.match(redis.call('GET', KEYS[2]) or '0', '^%d+')) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('LPUSH', KEYS[1], unpack(ARGV, 3))
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
return 1
