-- Limits by key: how many operations of a key run at once, and how many start in a time.
--
-- A message of such an operation begins with its key: `{"flow": "<operation>/<value>", `. One
-- that was held has a second field, `"turn": <number>, `, and one that comes back from a node has
-- the turn 0: they go before all others with its key. So scripts see both without reading the message.
--
-- Follows choice.lua, whose function it uses.
--
-- The last 16 of KEYS:
-- running   hash  key -> how many of its operations are reserved; '!' and the key -> how many have
--                 been let go and are not reserved yet, and since when there are some, in server
--                 ms; '#' -> the last number given
-- held      zset  `<key>\0<place><number>`, in the order of the alphabet: what has to wait
-- messages  hash  the same -> place and message
-- limits    hash  `code <operation>`, `all <operation>`, `key <key>` -> `<at once> <ms> <burst>`,
--                 each '-' if there is no limit; the last of them that is there holds, and none if
--                 no node's code has the operation. Where that is fair the weight of its turns
--                 follows. `weights <operation>` -> ` <value>;<weight> …`: those that the code gives
--                 to keys, unless there is a `key`
-- rates     zset  key -> server time in ms until which its tokens are spent (the theoretical
--                 arrival time of the generic cell rate algorithm)
-- resume    zset  key -> server time in ms at which some that are held may go on
-- then      list  the queue's lists by place, 0 to 9
--
-- An operation counts as running from its reservation until the reservation ends: done, a dead
-- letter, or put back because its node is dead. Nothing else frees a place, and nothing is counted
-- twice: whoever deletes an entry of the unacked hash counts, in the same script.
--
-- No key with an operation that is held is without somebody who lets it go on: an operation that
-- runs or that has been let go, or an entry in `resume`, which the nodes that watch follow.
--
-- Where an operation of the pool is fair, turns.lua follows: what may go on waits there for its turn.

local first_key = #KEYS - 15
local running, held, messages = KEYS[first_key], KEYS[first_key + 1], KEYS[first_key + 2]
local limits, rates, resume_at = KEYS[first_key + 3], KEYS[first_key + 4], KEYS[first_key + 5]
local first_list = first_key + 6
local channel = string.gsub(resume_at, 'flow:resume$', 'due')  -- of the nodes that watch
local clock = redis.call('TIME')
local moment = clock[1] * 1000 + clock[2] / 1000
local again = 5000  -- ms after which one that has had its turn and never ran is no longer waited for
local soonest = 4   -- ms; what is due within so many is done together
local others = '*/'  -- the key of all that is not of a fair operation; none has such a name
local line_up, in_line, sort, take_turn, take_ready, settle  -- what turns.lua adds

-- Return the key of a message, its turn, and what is before and behind both; nil of any other.
local function flow_of(message)
  if string.byte(message, 3) == 98 then return nil end  -- {"body", as kombu and we write it
  local head = string.sub(message, 1, 500)
  local from, to, flow = string.find(head, '"flow": "([^"\\%z]+/[^"\\%z]*)", ?')
  if not from or string.find(string.sub(head, 2, from - 1), '[{\\]') then return nil end
  local _, last, turn = string.find(head, '^"turn": (%d+), ?', to + 1)
  return flow, tonumber(turn), string.sub(message, 1, from - 1), string.sub(message, (last or to) + 1)
end

local function marked(flow, turn, before, rest)
  return string.format('%s"flow": "%s", "turn": %.0f, ', before, flow, turn) .. rest
end

local known = {[others] = {nil, nil, 1, 1}}
-- Return how many of a key may run at once, ms between two starts, how many may start at once, and
-- the weight of its turns; nil if it is not fair.
local function limits_of(flow)
  if not known[flow] then
    local its = limit_of(limits, flow) or ''
    local at_once, every, burst, weight = string.match(its, '^(%S+) (%S+) (%S+) ?(%S*)$')
    known[flow] = {tonumber(at_once), tonumber(every), tonumber(burst) or 1, tonumber(weight)}
  end
  return unpack(known[flow], 1, 4)
end

-- Return how many of a key have been let go and are on their way to a node, and since when.
local function going(flow)
  local many, since = string.match(redis.call('HGET', running, '!' .. flow) or '', '^(%d+) (%d+)$')
  if not many or moment - since >= again then return 0, moment end
  return tonumber(many), since
end

local function set_going(flow, many, since)
  if many < 1 then
    redis.call('HDEL', running, '!' .. flow)
  else
    redis.call('HSET', running, '!' .. flow, string.format('%d %.0f', many, since))
  end
end

-- Return how many of a key are on their way to a node, for whom there is to be room too.
local function ahead_of(flow)
  return (going(flow)) + (in_line and in_line(flow) or 0)
end

-- Return how many of a key may start now, and in how many ms there may be more; nil: when one ends.
-- ahead  how many are on their way, for whom there is to be room too
local function room_of(flow, ahead)
  local at_once, every, burst = limits_of(flow)
  local places, wait = math.huge, nil
  if at_once then places = at_once - ahead - tonumber(redis.call('HGET', running, flow) or 0) end
  if every then
    local spent = math.max(moment, tonumber(redis.call('ZSCORE', rates, flow)) or 0) + ahead * every
    local tokens = math.floor(burst - (spent - moment) / every + 1e-6)
    if tokens < places then
      places = tokens
      wait = math.max(0, spent - (burst - tokens - 1) * every - moment)
    end
  end
  return math.max(0, places), wait
end

-- Have the nodes that watch look at a key at a time, if not before.
-- says_so  whether they hear of it, if it is the first
local function look_at(flow, at, says_so)
  redis.call('ZADD', resume_at, 'LT', at, flow)
  if says_so and redis.call('ZRANGE', resume_at, 0, 0)[1] == flow then
    redis.call('PUBLISH', channel, string.format('%.0f', at))
  end
end

local function first_of(flow, many)
  return redis.call('ZRANGEBYLEX', held, '[' .. flow .. '\0', '(' .. flow .. '\1', 'LIMIT', 0, many)
end

-- Put some of what is held of a key at the heads of their lists, the first of them first; or into
-- their line, if they are to wait for their turn.
local function let_go(flow, many)
  local members = first_of(flow, many)
  if line_up and select(4, limits_of(flow)) then
    for _, member in ipairs(members) do
      local entry = redis.call('HGET', messages, member)
      redis.call('ZREM', held, member)
      redis.call('HDEL', messages, member)
      if entry then line_up(string.sub(entry, 1, 1), flow, string.sub(entry, 2)) end
    end
    return #members
  end
  local ahead, since = going(flow)
  for at = #members, 1, -1 do
    local entry = redis.call('HGET', messages, members[at])
    redis.call('ZREM', held, members[at])
    redis.call('HDEL', messages, members[at])
    if entry then
      local _, _, before, rest = flow_of(string.sub(entry, 2))
      local turn = math.max(0, tonumber(string.sub(members[at], #flow + 3)))
      if turn > 0 then ahead = ahead + 1 end
      redis.call('RPUSH', KEYS[first_list + tonumber(string.sub(entry, 1, 1))],
                 marked(flow, turn, before, rest))
    end
  end
  set_going(flow, ahead, since)
  return #members
end

-- Return the place of a message among those with its key; no other one has it.
local function member_of(flow, place, turn)
  if turn and turn > 0 then
    local member = flow .. '\0' .. place .. string.format('%016.0f', turn)
    if redis.call('HEXISTS', messages, member) == 0 then return member end
  end
  local number = redis.call('HINCRBY', running, '#', 1)
  return flow .. '\0' .. place .. string.format(turn == 0 and '-%015.0f' or '%016.0f', number)
end

-- Have a message wait for its limits.
-- turn   its turn, nil if it has none yet
-- wait   ms after which there may be room; nil: when one with its key ends
-- ahead  how many with its key are on their way
local function hold(place, flow, turn, message, wait, ahead)
  local member = member_of(flow, place, turn)
  redis.call('HSET', messages, member, place .. message)
  redis.call('ZADD', held, 0, member)
  if wait then
    look_at(flow, moment + math.max(soonest, wait), true)
  elseif ahead > 0 then
    look_at(flow, moment + again)
  end
end

-- Have a message that comes for the first time wait for its limits, if it must; return whether it does.
local function is_held_back(place, flow, message)
  local ahead = ahead_of(flow)
  local places, wait = 0, nil
  if not first_of(flow, 1)[1] then places, wait = room_of(flow, ahead) end
  if places > 0 then return false end
  hold(place, flow, nil, message, wait, ahead)
  return true
end

-- Count an operation as running; return its message as it is to be reserved.
local function begin(flow, before, rest)
  redis.call('HINCRBY', running, flow, 1)
  local _, every = limits_of(flow)
  if every then
    local spent = math.max(moment, tonumber(redis.call('ZSCORE', rates, flow)) or 0)
    redis.call('ZADD', rates, string.format('%.3f', spent + every), flow)
    redis.call('PEXPIRE', rates, 86400000)
  end
  return marked(flow, 0, before, rest)  -- one that comes back goes first
end

-- Return a message as it is to be reserved; nil if it has to wait, where it is now.
local function enter(place, message)
  local flow, turn, before, rest = flow_of(message)
  if not flow then return message end
  if flow == others then return before .. rest end
  if not turn then
    if is_held_back(place, flow, message) then return nil end
  else
    local ahead, since = going(flow)
    if turn > 0 then set_going(flow, ahead - 1, since) end
    local places, wait = room_of(flow, 0)
    if places < 1 then
      hold(place, flow, turn, message, wait, ahead)
      return nil
    end
  end
  return begin(flow, before, rest)
end

-- Return a message as it waits for its time: when that comes it is one among all others again.
local function anew(message)
  local flow, turn, before, rest = flow_of(message)
  if not turn then return message end
  return string.format('%s"flow": "%s", ', before, flow) .. rest
end

local freed, keys_with_room = {}, {}
-- Note that a reservation has ended.
-- is_over  whether others with its key take the place, with go_on(); else it comes back itself
local function leave(entry, is_over)
  local flow, turn = flow_of(string.sub(entry, 3))
  if turn ~= 0 then return end  -- enter() has not counted it
  if redis.call('HINCRBY', running, flow, -1) < 1 then redis.call('HDEL', running, flow) end
  if is_over then
    if not freed[flow] then keys_with_room[#keys_with_room + 1] = flow end
    freed[flow] = (freed[flow] or 0) + 1
  end
end

-- Let as many go on as have left, as far as they may.
local function go_on()
  if redis.call('EXISTS', held) == 0 then return end
  for _, flow in ipairs(keys_with_room) do
    local many = freed[flow]
    if first_of(flow, 1)[1] then
      local places, wait = room_of(flow, ahead_of(flow))
      if places > 0 then let_go(flow, math.min(many, places)) end
      if first_of(flow, 1)[1] then
        if wait then
          look_at(flow, moment + math.max(soonest, wait), true)
        elseif places > 0 then
          look_at(flow, moment + again)
        end
      end
    end
  end
end

-- Let go on what may, of keys whose time has come; return ms until the next, -1 if there is none.
local function resume(many)
  for _, flow in ipairs(redis.call('ZRANGEBYSCORE', resume_at, '-inf', moment, 'LIMIT', 0, many)) do
    redis.call('ZREM', resume_at, flow)
    local ahead = ahead_of(flow)
    local places, wait = room_of(flow, ahead)
    local gone = places > 0 and let_go(flow, math.min(places, 1000)) or 0
    if first_of(flow, 1)[1] then
      if wait then
        local _, every = limits_of(flow)
        look_at(flow, moment + math.max(soonest, gone > 0 and every or wait))
      elseif gone + ahead > 0 then
        look_at(flow, moment + again)
      end
    end
  end
  redis.call('ZREMRANGEBYSCORE', rates, '-inf', moment)
  local following = redis.call('ZRANGE', resume_at, 0, 0, 'WITHSCORES')
  return following[2] and math.max(0, math.ceil(following[2] - moment)) or -1
end
