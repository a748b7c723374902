-- Store results and acknowledge messages: what is finished, in one atomic step.
--
-- A server whose memory is full refuses a script whose first write needs memory.
-- So what frees some is written first, and what has been accepted is finished.
--
-- unacked  hash    reservation id -> message
-- from     place in arguments of the number of results, then each result's key,
--          value and seconds, then reservation ids to acknowledge

local function complete(unacked, arguments, from)
  local results = tonumber(arguments[from])
  local at = from + 1
  for first = at + 3 * results, #arguments, 1000 do
    redis.call('HDEL', unacked, unpack(arguments, first, math.min(first + 999, #arguments)))
  end
  for _ = 1, results do
    store(arguments[at], arguments[at + 1], arguments[at + 2])
    at = at + 3
  end
end
