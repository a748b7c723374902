-- Put reserved messages back at the heads of their lists; nothing counts as a delivery here.
--
-- Follows entries.lua and limits.lua or unlimited.lua, whose functions it uses.
--
-- KEYS[1]  hash  unacked of the node
-- KEYS[2…11] list  the queue's lists by place, 0 to 9
-- ARGV     reservation id and the message as it is to go back ('': as it came), alternately
--
-- The node that asks knows that none of the operations runs, even one that it noted as started.
-- A missing reservation was put back or finished before.

for at = 1, #ARGV, 2 do
  local entry = redis.call('HGET', KEYS[1], ARGV[at])
  if entry then
    redis.call('HDEL', KEYS[1], ARGV[at])
    if leave then leave(entry, false) end
    local message = ARGV[at + 1]
    if message == '' then
      message = returned(string.sub(entry, 1, 1) .. 'r' .. string.sub(entry, 3), 0)
    end
    redis.call('RPUSH', list_of(entry, 2), message)
  end
end
