-- Change a limit, and have the nodes that watch resume the operations that it allows now.
--
-- KEYS[1]  hash  limits      KEYS[2]  zset  held      KEYS[3]  zset  resume
-- ARGV[1]  field of the limits; '' to change nothing
-- ARGV[2]  its new value; '' to delete it
-- ARGV[3]  the first key that is looked at: that of the limit, or `<operation>/` for all of them
-- ARGV[4]  the end of the keys that are looked at, not included
--
-- Returns the last key that was looked at if there may be more, a thousand at once; else ''.

if ARGV[1] ~= '' then
  if ARGV[2] == '' then
    redis.call('HDEL', KEYS[1], ARGV[1])
  else
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  end
end
local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
local from, flow = '[' .. ARGV[3], ''
for _ = 1, 1000 do
  local member = redis.call('ZRANGEBYLEX', KEYS[2], from, '(' .. ARGV[4], 'LIMIT', 0, 1)[1]
  if not member then
    flow = ''
    break
  end
  flow = string.match(member, '^[^%z]*')
  redis.call('ZADD', KEYS[3], now, flow)
  from = '(' .. flow .. '\1'
end
local channel = string.gsub(KEYS[3], 'flow:resume$', 'due')
redis.call('PUBLISH', channel, now)
return flow
