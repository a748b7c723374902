-- Have an operation wait at the server until it is due.
--
-- delayed   zset  entry -> server time in ms at which it is due
-- messages  hash  entry -> place and message
-- channel   tells the pool's watchers of an operation that is due before all others
-- entry     the operation's id; if another operation has it already: the id and `other`
--
-- Used by the scripts of nodes and producers.

local function delay(delayed, messages, channel, entry, other, at, message)
  if redis.call('HEXISTS', messages, entry) == 1 then
    entry = entry .. ':' .. other
  end
  redis.call('HSET', messages, entry, message)
  redis.call('ZADD', delayed, at, entry)
  if redis.call('ZRANGE', delayed, 0, 0)[1] == entry then
    redis.call('PUBLISH', channel, at)
  end
end
