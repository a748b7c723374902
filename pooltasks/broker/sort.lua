-- Sort what waits by version, while two versions of a pool's code run beside each other.
--
-- A message waits in the queue's own list until somebody sorts it, and then in the list of
-- the version that is to run it: the canary has a share of them, by a hash of what is stable.
-- Producers, and whatever puts a message back, know nothing of it.
--
-- base     place in KEYS of the hash of the rollout: state, to, share
-- then     list  the queue's lists by place, 0 to 9
-- then     list  the same of what is the stable version's
-- then     list  the same of what is the canary's

-- Return what tells of a message whether it is the canary's; nil if there is no rollout.
--
-- The hash is of the value of the operation's key, else of the operation's id. It is salted with the
-- version, so that each rollout begins with others. What is in a share is in each larger one.
local function sorter(base)
  local state, to, share = unpack(redis.call('HMGET', KEYS[base], 'state', 'to', 'share'))
  if state ~= 'live' then return nil end
  local below, salt = tonumber(share) * 100, to .. ':'
  return function(message)
    local value
    if string.byte(message, 3) ~= 98 then  -- not {"body", as kombu and we write it
      value = string.match(string.sub(message, 1, 500), '"flow": "[^"\\/]*/([^"\\]+)"')
    end
    if not value then
      local _, at = string.find(message, '"correlation_id":', 1, true)
      value = at and string.match(message, '^ *"([^"]+)"', at + 1)
    end
    if not value then return false end
    return tonumber(string.sub(redis.sha1hex(salt .. value), 1, 8), 16) % 10000 < below
  end
end

-- Sort messages of a place, the oldest first, until one of the lists has enough of them.
-- list    which: 11 of the stable version, 21 of the canary
-- enough  how many it is to have
-- most    how many messages to look at
local function sort_by_version(base, place, is_canarys, list, enough, most)
  local missing = enough - redis.call('LLEN', KEYS[base + list + place])
  while missing > 0 and most > 0 do
    local many = math.min(most, missing)
    local messages = redis.call('RPOP', KEYS[base + 1 + place], many) or {}
    for _, message in ipairs(messages) do
      local its = is_canarys(message) and 21 or 11
      redis.call('LPUSH', KEYS[base + its + place], message)
      if its == list then missing = missing - 1 end
    end
    if #messages < many then return end
    most = most - many
  end
end
