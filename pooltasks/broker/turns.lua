-- Turns: the keys of fair operations are served one after the other, however much waits of each.
--
-- Follows limits.lua, whose functions it uses.
--
-- What may start waits in the line of its place and key. Of the lines of a place the one with the
-- lowest tag has its turn: its first operation is reserved. A line that comes into being gets the tag
-- of the last turn plus 1 / weight; one that goes on after its turn, its own plus as much. That is
-- self-clocked fair queueing (S. J. Golestani, "A self-clocked fair queueing scheme for broadband
-- applications", INFOCOM 1994) where all operations count alike: weighted round robin. Whoever
-- waits has a turn before any other has two, at equal weights.
--
-- All that is not of a fair operation is one key among the others, so that neither it nor the
-- others wait for long. What comes back from a node, and what its limits have held back, has had its
-- turn: it lies at the head of its list, and goes first.
--
-- Idle nodes wait at the list of place 0. So as long as there are lines one operation lies there, the
-- ready one. It has had no turn yet: whoever reserves has it compete with all that has come since.
--
-- Four more of KEYS, before those of limits.lua:
-- waiting  hash  line, `\0` and number -> since when, in server seconds, a space, and the message
-- lines    hash  place and key -> the numbers of the first and of the last; `@` and place -> the
--                tag of the last turn; `!` -> length, digest, tag, since when and line of the ready
--                one. Gone when nothing waits.
-- turns    zset  line -> its place times 2^49, plus its tag
-- ages     zset  line -> since when its first one waits, in server seconds

local waiting, lines = KEYS[first_key - 4], KEYS[first_key - 3]
local turns, ages = KEYS[first_key - 2], KEYS[first_key - 1]
local band = 2 ^ 49
local share = 1000  -- what a turn adds to the tag of a line with weight 1
local seconds = string.format('%.3f', moment / 1000)

local its_numbers, last_tag = {}, {}
local came = {}  -- fields and values that are to be written to `waiting`
local gone = {}  -- fields that are to be deleted there
local has_come = false  -- whether something has lined up in this script
local ready  -- the ready operation, if this script has taken it from its list

-- Return the numbers of the first and the last of a line; the first is higher if nobody waits there.
local function numbers_of(line)
  local its = its_numbers[line]
  if not its then
    local first, last = string.match(redis.call('HGET', lines, line) or '', '^(%d+) (%d+)$')
    its = {first = tonumber(first) or 1, last = tonumber(last) or 0}
    its_numbers[line] = its
  end
  return its
end

local function tag_of(place)
  last_tag[place] = last_tag[place] or tonumber(redis.call('HGET', lines, '@' .. place)) or 0
  return last_tag[place]
end

local function score_of(place, tag)
  return string.format('%.0f', tonumber(place) * band + tag)
end

local function share_of(flow)
  return math.max(1, math.floor(share / (select(4, limits_of(flow)) or 1)))
end

function line_up(place, flow, message)
  local line = place .. flow
  local its = numbers_of(line)
  if its.first > its.last then
    -- A little less, so that it goes before one that has had a turn.
    redis.call('ZADD', turns, score_of(place, tag_of(place) + share_of(flow) - 1), line)
    redis.call('ZADD', ages, seconds, line)
  end
  has_come = true
  its.last = its.last + 1
  its.has_changed = true
  came[#came + 1] = line .. '\0' .. its.last
  came[#came + 1] = seconds .. ' ' .. message
end

-- Do something with all of a list, some hundreds a call of the server.
local function in_parts(all, act)
  for some = 1, #all, 1000 do act(unpack(all, some, math.min(some + 999, #all))) end
end

local function write_down_who_came()
  in_parts(came, function(...) redis.call('HSET', waiting, ...) end)
  came = {}
end

-- Return how many of a key wait in lines.
function in_line(flow)
  local many = 0
  if select(4, limits_of(flow)) then
    for place = 0, 9 do
      local its = numbers_of(place .. flow)
      many = many + its.last - its.first + 1
    end
  end
  return many
end

-- Return what tells a message from others.
local function identity_of(message)
  return #message .. ' ' .. redis.sha1hex(string.sub(message, 1, 2000))
end

local noted  -- what is known of the ready operation, if this script has looked
-- Take a message from its list if it is the ready one; return whether it is.
function take_ready(message)
  noted = noted or {string.match(
    redis.call('HGET', lines, '!') or '', '^((%d+) %x+) (%d+) ([%d.]+) (.*)$')}
  if tonumber(noted[2]) ~= #message or noted[1] ~= identity_of(message) then return false end
  local flow, _, before, rest = flow_of(message)
  local own = flow == others and '' or string.format('"flow": "%s", ', flow)
  ready = {tag = tonumber(noted[3]), since = noted[4], line = noted[5], message = before .. own .. rest}
  noted = {}
  return true
end

-- Put the ready operation back: it is the first of its line again.
local function put_ready_back()
  local its = numbers_of(ready.line)
  local score = score_of(string.sub(ready.line, 1, 1), ready.tag)
  if its.first > its.last then
    its.first, its.last = 1, 0
    redis.call('ZADD', turns, score, ready.line)
  else
    redis.call('ZADD', turns, 'LT', score, ready.line)
  end
  its.first = its.first - 1
  its.has_changed = true
  redis.call('HSET', waiting, ready.line .. '\0' .. its.first, ready.since .. ' ' .. ready.message)
  redis.call('ZADD', ages, ready.since, ready.line)
  ready = nil
end

-- Take the first operation of the line whose turn it is.
-- low, high  of which places
-- Returns place, key, message, tag and since when it waits; nil if nobody waits.
local function next_turn(low, high)
  if came[1] then write_down_who_came() end
  while true do
    local line, score = unpack(redis.call(
      'ZRANGEBYSCORE', turns, score_of(low, 0), '(' .. score_of(high + 1, 0), 'WITHSCORES',
      'LIMIT', 0, 1))
    if ready then
      local place = tonumber(string.sub(ready.line, 1, 1))
      local is_first = not line or place * band + ready.tag <= tonumber(score)
      if place >= low and place <= high and is_first then
        local its = ready
        ready = nil
        return tostring(place), string.sub(its.line, 2), its.message, its.tag, its.since
      end
    end
    if not line then return nil end
    local place, flow = string.sub(line, 1, 1), string.sub(line, 2)
    local its = numbers_of(line)
    local field = line .. '\0' .. its.first
    local entry = redis.call('HGET', waiting, field)
    gone[#gone + 1] = field
    local tag = score - tonumber(place) * band
    its.first = its.first + 1
    its.has_changed = true
    if its.first > its.last then
      redis.call('ZREM', turns, line)
      redis.call('ZREM', ages, line)
    else
      redis.call('ZADD', turns, score_of(place, tag + share_of(flow)), line)
      local following = redis.call('HGET', waiting, line .. '\0' .. its.first)
      local since = string.match(following or '', '^[%d.]+')
      if since then redis.call('ZADD', ages, since, line) end
    end
    if entry then
      local since, message = string.match(entry, '^(%S+) (.*)$')
      return place, flow, message, tag, since
    end
  end
end

local held_at_their_turn = 0
-- Return place and message of the one whose turn it is, as it is to be reserved; nil if there is none.
-- low, high  of which places
function take_turn(low, high)
  while held_at_their_turn < 200 do
    local place, flow, message, tag = next_turn(low, high)
    if not flow then return nil end
    last_tag[place] = tag
    if flow == others then
      message = enter(place, message)
      if message then return place, message end
    else
      local _, _, before, rest = flow_of(message)
      local room, wait = room_of(flow, 0)
      if room > 0 then return place, begin(flow, before, rest) end
      hold(place, flow, 0, message, wait, ahead_of(flow))
    end
    held_at_their_turn = held_at_their_turn + 1
  end
end

local has_key = {}
-- Return whether a message is one of an operation that has a key, and comes without: a node finds it.
local function lacks_key(message)
  local at = string.find(message, '"task":', 1, true)
  local name = at and string.match(message, '^ ?"([^"\\]+)"', at + 7)
  if not name then return false end
  if has_key[name] == nil then
    has_key[name] = redis.call('HEXISTS', limits, 'code ' .. name) == 1
  end
  return has_key[name]
end

-- Have a message from a list wait for its turn. Returns true if it does, or waits for its limits; false if
-- it has had its turn; nil if it lacks its key.
function sort(place, message)
  local head = string.sub(message, 1, 12)
  if string.sub(head, 1, 2) ~= '{"' or head == '{"deliveries' or head == '{"interrupte' then
    return false
  end
  local flow, turn = flow_of(message)
  if turn then return false end
  if not flow and lacks_key(message) then return nil end
  if not flow or not select(4, limits_of(flow)) then
    line_up(place, others, message)
  else
    local at_once, every = limits_of(flow)
    if not (at_once or every) or not is_held_back(place, flow, message) then
      line_up(place, flow, message)
    end
  end
  return true
end

-- Have messages of a list wait for their turns, some hundreds a call; return how many do.
local function sort_list(place, list, most)
  local came = redis.call('RPOP', list, most) or {}
  local stay = {}
  for _, message in ipairs(came) do
    if not sort(place, message) then stay[#stay + 1] = message end
  end
  for at = #stay, 1, -1 do redis.call('RPUSH', list, stay[at]) end
  return #came - #stay
end

-- Put some that wait for their turns back into their lists: no operation of the pool is fair now.
local function dissolve(many)
  for _ = 1, many do
    local place, _, message = next_turn(0, 9)
    if not place then return end
    redis.call('LPUSH', KEYS[first_list + tonumber(place)], message)
  end
end

-- Have one whose turn is next lie where idle nodes wait.
local function wake()
  if redis.call('EXISTS', KEYS[first_list]) == 1 then return end
  while held_at_their_turn < 200 do
    local place, flow, message, tag, since = next_turn(0, 9)
    if not place then return end
    local its_flow, _, before, rest = flow_of(message)
    if not its_flow then
      before, rest = string.sub(message, 1, 1), string.sub(message, 2)
    end
    if flow ~= others or not its_flow or not is_held_back(place, its_flow, message) then
      message = marked(its_flow or others, 0, before, rest)
      redis.call('RPUSH', KEYS[first_list], message)
      redis.call('HSET', lines, '!', string.format(
        '%s %.0f %s %s', identity_of(message), tag, since, place .. flow))
      return
    end
    held_at_their_turn = held_at_their_turn + 1
  end
end

-- Write down what the lines are now; called at the end, after the last turn.
function settle()
  if ready or redis.call('EXISTS', turns) == 1 then
    wake()
    if ready then put_ready_back() end
  end
  if next(its_numbers) == nil then return end
  in_parts(gone, function(...) redis.call('HDEL', waiting, ...) end)
  gone = {}
  if redis.call('EXISTS', turns) == 0 then
    redis.call('DEL', lines)
    return
  end
  write_down_who_came()
  local written, empty = {}, {}
  for line, its in pairs(its_numbers) do
    if its.has_changed and its.first > its.last then
      empty[#empty + 1] = line
    elseif its.has_changed then
      written[#written + 1] = line
      written[#written + 1] = its.first .. ' ' .. its.last
    end
    its.has_changed = false
  end
  for place, tag in pairs(last_tag) do
    written[#written + 1] = '@' .. place
    written[#written + 1] = string.format('%.0f', tag)
  end
  in_parts(empty, function(...) redis.call('HDEL', lines, ...) end)
  in_parts(written, function(...) redis.call('HSET', lines, ...) end)
end

local let_all_go_on = go_on
-- Let as many go on as have left; those of fair operations wait for their turns.
local function go_on()
  let_all_go_on()
  if has_come then settle() end
end
