-- Put back the reservations of a dead node of the version before, some hundreds a call.
--
-- Follows entries.lua, whose functions it uses.
--
-- KEYS[1]  hash  unacked of that node: reservation id -> '[message,"",name of its list]'
-- KEYS[2]  zset  leases of that version: identity -> server time in ms at which it runs out
-- KEYS[3…12] list  the queue's lists by place, 0 to 9
-- ARGV[1]  identity of that node
-- ARGV[2]  how many messages to put back at the most
-- ARGV[3…12] names of the lists as that version wrote them
--
-- Returns how many were put back, and how many of this queue are left; {-1, 0} if the node lives.

local time = redis.call('TIME')
local lease = redis.call('ZSCORE', KEYS[2], ARGV[1])
if lease and tonumber(lease) >= time[1] * 1000 then return {-1, 0} end
local place = {}
for at = 3, 12 do place[ARGV[at]] = at end

local put_back, left = 0, 0
local entries = redis.call('HGETALL', KEYS[1])
for at = 1, #entries, 2 do
  local message, name = string.match(entries[at + 1], '^%[(.*),"",("[^"]*")%]$')
  local list = name and place[cjson.decode('[' .. name .. ']')[1]]
  if list then
    if put_back < tonumber(ARGV[2]) then
      redis.call('HDEL', KEYS[1], entries[at])
      redis.call('RPUSH', KEYS[list], returned('0r' .. message, 1))
      put_back = put_back + 1
    else
      left = left + 1
    end
  end
end
return {put_back, left}
