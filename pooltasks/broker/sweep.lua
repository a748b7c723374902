-- Delete the dead letters that are kept no longer.
--
-- Follows trim.lua, whose function it uses.
--
-- KEYS[1] hash of letters  KEYS[2] hash of messages  KEYS[3] order of the letters
-- ARGV[1] seconds since the epoch  ARGV[2] the most letters  ARGV[3] seconds that each is kept
--
-- Letters of a version that kept no order get their places. Returns how many were deleted.

if redis.call('HLEN', KEYS[1]) ~= redis.call('ZCARD', KEYS[3]) then
  redis.call('DEL', KEYS[3])
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    redis.call('ZADD', KEYS[3], cjson.decode(all[i + 1]).at, all[i])
  end
end
return trim(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
