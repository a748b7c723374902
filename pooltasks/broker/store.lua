-- Store an operation's result and tell its caller.
--
-- A success is final: a later result of the same operation, from a second delivery,
-- is dropped, so that the caller never sees a result change.
--
-- key      string  the result, and the channel on which it is published
-- value    the encoded result
-- seconds  until it expires; '0': never
--
-- Returns 1 if it was stored, 0 if a success was there already.

local success = '{"status": "SUCCESS"'  -- how Celery's JSON begins

local function store(key, value, seconds)
  -- A key that holds no text is overwritten: it is no result.
  if redis.pcall('GETRANGE', key, 0, #success - 1) == success then
    return 0
  end
  if seconds == '0' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'EX', seconds)
  end
  redis.call('PUBLISH', key, value)
  return 1
end
