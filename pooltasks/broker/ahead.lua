-- Sort ahead for the canary, whose nodes wait while the stable version's have no room to look.
--
-- Follows sort.lua, whose functions it uses. The nodes that watch call it, ten times a second.
--
-- KEYS[1…31] as sort.lua has them from its base on
-- KEYS[32]   hash  room: aside
--
-- A node of the stable version waits at the queue's own list. One message there wakes one of
-- them; so the newest of what is theirs goes back to where it came from.

local is_canarys = sorter(1)
if not is_canarys then return 0 end
local aside = 0
for place = 0, 9 do
  local main, stable, canary = KEYS[2 + place], KEYS[12 + place], KEYS[22 + place]
  if redis.call('EXISTS', main) == 1 then sort_by_version(1, place, is_canarys, 21, 20, 500) end
  if redis.call('EXISTS', main) == 0 and redis.call('EXISTS', stable) == 1 then
    redis.call('LMOVE', stable, main, 'LEFT', 'RIGHT')
  end
  -- The canary's wait at its list of place 0.
  if place > 0 and redis.call('EXISTS', KEYS[22]) == 0 and redis.call('EXISTS', canary) == 1 then
    redis.call('LMOVE', canary, KEYS[22], 'RIGHT', 'RIGHT')
  end
  aside = aside + redis.call('LLEN', stable) + redis.call('LLEN', canary)
end
redis.call('HSET', KEYS[32], 'aside', aside)
redis.call('PEXPIRE', KEYS[32], 60000)
return 1
