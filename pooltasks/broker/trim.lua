-- Delete dead letters that are too old, and the oldest if there are too many; a thousand at most.
--
-- letters, messages  hashes of the letters and their messages
-- order              zset  id -> when it was set aside, in seconds
-- now                seconds since the epoch
-- most, age          how many letters are kept, and for how many seconds
--
-- Returns how many were deleted.

local function trim(letters, messages, order, now, most, age)
  local since = string.format('(%.6f', now - age)
  local gone = redis.call('ZRANGEBYSCORE', order, '-inf', since, 'LIMIT', 0, 1000)
  local surplus = math.min(redis.call('ZCARD', order) - #gone - most, 1000 - #gone)
  if surplus > 0 then
    for _, id in ipairs(redis.call('ZRANGE', order, #gone, #gone + surplus - 1)) do
      gone[#gone + 1] = id
    end
  end
  if #gone > 0 then
    redis.call('HDEL', letters, unpack(gone))
    redis.call('HDEL', messages, unpack(gone))
    redis.call('ZREM', order, unpack(gone))
  end
  return #gone
end
