-- Have reserved operations that are not due yet wait at the server.
--
-- Follows delay.lua and limits.lua or unlimited.lua, whose functions it uses.
--
-- KEYS[1]  hash  unacked of the node
-- KEYS[2]  zset  delayed      KEYS[3]  hash  delayed messages
-- ARGV[1]  channel of the pool's watchers
-- ARGV[2]  identity of the node
-- then     reservation id, id of the operation, due time in server ms; for each

for at = 3, #ARGV, 3 do
  local entry = redis.call('HGET', KEYS[1], ARGV[at])
  if entry then
    redis.call('HDEL', KEYS[1], ARGV[at])
    if leave then leave(entry, true) end
    local message = string.sub(entry, 3)
    if anew then message = anew(message) end
    delay(KEYS[2], KEYS[3], ARGV[1], ARGV[at + 1], ARGV[2] .. ARGV[at], ARGV[at + 2],
          string.sub(entry, 1, 1) .. message)
  end
end
if go_on then go_on() end
