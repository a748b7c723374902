-- Delete what waits in a pool: in its lists, for its turn, and what limits hold back.
--
-- What nodes have reserved runs on, and is counted as before. What limits had let go on is on its
-- way to no node any more, so nobody waits for it.
--
-- KEYS[1]  hash  waiting      KEYS[2]  hash  lines      KEYS[3]  zset  turns
-- KEYS[4]  zset  ages         KEYS[5]  zset  held       KEYS[6]  hash  messages
-- KEYS[7]  zset  resume       KEYS[8]  hash  running    (turns.lua and limits.lua say more)
-- KEYS[9…] list  the pool's lists, those of a rollout too
--
-- Returns how many were deleted from the lists, from the lines of keys, and of those held back.

local in_lists = 0
for at = 9, #KEYS do
  in_lists = in_lists + redis.call('LLEN', KEYS[at])
  redis.call('DEL', KEYS[at])
end
local in_lines, held = redis.call('HLEN', KEYS[1]), redis.call('ZCARD', KEYS[5])
redis.call('DEL', unpack(KEYS, 1, 7))
for _, field in ipairs(redis.call('HKEYS', KEYS[8])) do
  if string.sub(field, 1, 1) == '!' then redis.call('HDEL', KEYS[8], field) end
end
return {in_lists, in_lines, held}
