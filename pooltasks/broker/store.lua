-- Store an operation's result and tell whoever waits, in one atomic step.
--
-- A success is final: what a second delivery of the same operation stores
-- later is dropped, so that the caller never sees a result change.
--
-- KEYS[1]  string  the result, and the channel on which it is published
-- ARGV[1]  the encoded result
-- ARGV[2]  seconds until it expires; 0: never
--
-- Returns 1 if it was stored, 0 if a success was there already.

local success = '{"status": "SUCCESS"'  -- how Celery's JSON begins
if redis.call('GETRANGE', KEYS[1], 0, #success - 1) == success then
  return 0
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
