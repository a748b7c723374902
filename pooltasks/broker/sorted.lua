-- What a node does before it reserves during a rollout.
--
-- Follows sort.lua, whose functions it uses, and limits.lua, with or without turns.lua, or
-- unlimited.lua. The keys of sort.lua stand before those of turns.lua and limits.lua. Of the lists from which the node reserves, KEYS[4…], sort.lua
-- has each, so they say which version it is; one that is to take nothing has none.

local of_rollout = #KEYS - 30 - (enter and 16 or 0) - (take_turn and 4 or 0)
local home = KEYS[of_rollout + 1]  -- where a message goes that this node may not have

-- Sort the message that woke the node, and as many as it has room for; return that room.
local function prepare(left)
  local is_canarys = sorter(of_rollout)
  -- What the queue's own list had is newer than all that is sorted; the canary waits at its list.
  local push = KEYS[4] == KEYS[of_rollout + 11] and is_canarys and 'LPUSH' or 'RPUSH'
  local message = redis.call('RPOP', KEYS[3])
  while message do
    local list = is_canarys and (is_canarys(message) and 21 or 11) or 1
    redis.call(push, KEYS[of_rollout + list], message)
    message = redis.call('RPOP', KEYS[3])
  end
  if not is_canarys then
    -- This node's version is not the pool's any more: as long as it is there, that is remembered.
    local left = redis.call('PTTL', KEYS[of_rollout])
    if left > 0 and left < 518400000 then redis.call('PEXPIRE', KEYS[of_rollout], 604800000) end
    return 0
  end
  if ARGV[7] == '0' then return 0 end
  for list = 1, tonumber(ARGV[7]) do
    local place = tonumber(ARGV[7 + list])
    local its = KEYS[3 + list] == KEYS[of_rollout + 21 + place] and 21 or 11
    sort_by_version(of_rollout, place, is_canarys, its, left, 200)
  end
  return left
end
