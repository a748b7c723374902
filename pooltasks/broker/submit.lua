-- Push a chunk of messages, once, however often the chunk is sent.
--
-- KEYS[1]   list    the queue
-- KEYS[2]   string  number of the submission's last chunk that was accepted
-- ARGV[1]   number of this chunk, from 1
-- ARGV[2]   seconds for which the submission is remembered
-- ARGV[3…]  the messages
--
-- Returns 1 if they were pushed, 0 if they had been before.

if tonumber(redis.call('GET', KEYS[2]) or '0') >= tonumber(ARGV[1]) then
  return 0
end
redis.call('LPUSH', KEYS[1], unpack(ARGV, 3))
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
return 1
