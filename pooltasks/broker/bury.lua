-- Make a message a dead letter, end its reservation, and tell its caller.
--
-- Follows store.lua, unlock.lua, trim.lua and limits.lua or unlimited.lua, whose functions it uses.
--
-- KEYS[1] hash  unacked of the node    KEYS[2] hash  dead letters    KEYS[3] hash  their messages
-- KEYS[4] zset  their order            KEYS[5] string  the result; left out if there is none
-- then    string  the key of a unique operation
-- ARGV[1] reservation id; none: ''
-- ARGV[2] id   ARGV[3] id to use if another dead letter has it   ARGV[4] the letter   ARGV[5] the message
-- ARGV[6] seconds since the epoch   ARGV[7] the most letters   ARGV[8] seconds that each is kept
-- ARGV[9] value of the result   ARGV[10] seconds until it expires; both '' if there is none
-- ARGV[11], ARGV[12]  of a unique operation, what unlock() takes; else '' or left out
--
-- Returns the id, and how many older letters were deleted for it.

-- First of all: a server whose memory is full refuses a script whose first write needs some.
if ARGV[1] ~= '' then
  local entry = leave and redis.call('HGET', KEYS[1], ARGV[1])
  if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
    return {'', 0}  -- it is not this node's any more
  end
  if entry then
    leave(entry, true)
    go_on()
  end
end
local id = ARGV[2]
-- An id belongs to the message that came first: another one may claim it on purpose.
if redis.call('HEXISTS', KEYS[2], id) == 1 then
  id = ARGV[3]
end
redis.call('HSET', KEYS[2], id, ARGV[4])
redis.call('HSET', KEYS[3], id, ARGV[5])
redis.call('ZADD', KEYS[4], ARGV[6], id)
local gone = trim(KEYS[2], KEYS[3], KEYS[4], ARGV[6], ARGV[7], ARGV[8])
for place = 2, 4 do
  redis.call('PEXPIRE', KEYS[place], string.format('%.0f', ARGV[8] * 1000))
end
local last = 5
if ARGV[10] ~= '' then
  store(KEYS[5], ARGV[9], ARGV[10])
  last = 6
end
if ARGV[11] and ARGV[11] ~= '' then
  unlock(KEYS[last], ARGV[11], ARGV[12])
end
return {id, gone}
