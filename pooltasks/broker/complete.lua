-- Store results and acknowledge messages of finished operations, in one atomic step.
--
-- Follows store.lua, unlock.lua and limits.lua or unlimited.lua, whose functions it uses.
--
-- A server whose memory is full refuses a script whose first write needs memory.
-- So commands that free memory come first, and operations that were accepted can finish.
--
-- unacked  hash    reservation id -> place, state and message
-- first    place in KEYS of the first result's key; the keys of unique operations follow the results'
-- from     place in arguments of the number of results, then each result's value and seconds; for
--          each unique operation and each with limits its reservation id and what unlock() takes, ''
--          of one that is not unique; then reservation ids to acknowledge. Behind the number of
--          results, and a space, is that of unique operations and those with limits, if there are
--          any: all others are to cost what they cost without flow control.
-- unlock, leave, go_on  as these files have them: a function's upvalues cost more than arguments
--
-- The key of a unique operation becomes free with its reservation, and so does its place among those
-- with the same limits. One that is not the node's any more keeps both: another node runs it.

local function complete(unacked, first, arguments, from, unlock, leave, go_on)
  local results, many = tonumber(arguments[from]), 0
  if not results then results, many = string.match(arguments[from], '^(%d+) (%d+)$') end
  local at = from + 1
  local controlled = at + 2 * results
  local plain = controlled + 3 * many
  for some = plain, #arguments, 1000 do
    redis.call('HDEL', unacked, unpack(arguments, some, math.min(some + 999, #arguments)))
  end
  local ended, entries
  if plain > controlled then
    ended, entries = {}, {}
    for some = controlled, plain - 1, 3 do
      if leave then entries[#entries + 1] = redis.call('HGET', unacked, arguments[some]) or nil end
      ended[some] = redis.call('HDEL', unacked, arguments[some]) == 1
    end
  end
  for result = 0, results - 1 do
    store(KEYS[first + result], arguments[at], arguments[at + 1])
    at = at + 2
  end
  if not ended then return end
  local lock = first + results
  for some = controlled, plain - 1, 3 do
    if arguments[some + 1] ~= '' then
      if ended[some] then unlock(KEYS[lock], arguments[some + 1], arguments[some + 2]) end
      lock = lock + 1
    end
  end
  if entries[1] then
    for _, entry in ipairs(entries) do leave(entry, true) end
    go_on()
  end
end
