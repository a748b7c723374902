-- Entries of the unacked hash: one digit for the place (the priority step of the list
-- that the message came from), one letter for the state, and the message.
-- State 'r': reserved. State 's': an operation that must not run twice has started.

-- Return the message of an entry as it goes back to its list.
-- deaths  1 if its node has died with it, which counts as a delivery; else 0
local function returned(entry, deaths)
  local message = string.sub(entry, 3)
  if string.sub(message, 1, 2) ~= '{"' then
    return message  -- no message: the node that reserves it makes it a dead letter
  end
  if string.sub(entry, 2, 2) == 's' then
    return '{"interrupted": true,' .. string.sub(message, 2)
  end
  local _, last, number = string.find(message, '^{"deliveries": (%d%d?%d?%d?),')
  local rest = string.sub(message, last and last + 1 or 2)
  return string.format('{"deliveries": %d,', (number or 0) + deaths) .. rest
end

-- Return the list that an entry came from, of the ten that begin at KEYS[first].
local function list_of(entry, first)
  return KEYS[first + tonumber(string.sub(entry, 1, 1))]
end
