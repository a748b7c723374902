-- Give the key of a unique operation free, or keep it for the rest of its time.
--
-- key    string  `<id>:<retries>` of the operation that has it
-- owner  the same, of the operation that gives it free
-- till   server time in ms until which the key is unique all the same; '0': no longer
--
-- The key of another operation, or of a later attempt, stays as it is.

local function unlock(key, owner, till)
  if redis.pcall('GET', key) ~= owner then return end  -- somebody may have put anything there
  local time = redis.call('TIME')
  if tonumber(till) > time[1] * 1000 + math.floor(time[2] / 1000) then
    redis.call('PEXPIREAT', key, till)
  else
    redis.call('DEL', key)
  end
end
