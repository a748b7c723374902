-- Return how the operations with limits stand, and the keys of which most is held back.
--
-- Follows choice.lua, whose function it uses.
--
-- KEYS[1]  zset  held          (limits.lua says what is in these four)
-- KEYS[2]  hash  messages
-- KEYS[3]  hash  running
-- KEYS[4]  hash  limits
-- ARGV[1]  how many keys to return; 0: none are looked for
--
-- Returns operation, running and held of each operation, alternately; and in the same way key,
-- running, held, since when the first has waited in server seconds ('' if it does not say), its
-- limit, and 1 if that is another one than in the code. Of more than a thousand keys of which
-- something is held the others, in the order of the alphabet, are not looked at.

local most = tonumber(ARGV[1])
local running, sums = {}, {}
local counted = redis.call('HGETALL', KEYS[3])
for at = 1, #counted, 2 do
  local flow, number = counted[at], tonumber(counted[at + 1])
  local mark = string.sub(flow, 1, 1)
  if mark ~= '!' and mark ~= '#' then
    running[flow] = number
    local operation = string.match(flow, '^[^/]+')
    sums[operation] = (sums[operation] or 0) + number
  end
end

local function held(from, to)
  return redis.call('ZLEXCOUNT', KEYS[1], '[' .. from, '(' .. to)
end

local operations = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[4])) do
  local operation = string.match(field, '^code (.+)$')
  if operation then
    operations[#operations + 1] = operation
    operations[#operations + 1] = sums[operation] or 0
    operations[#operations + 1] = held(operation .. '/', operation .. '0')  -- what follows a '/'
  end
end
if most < 1 then return {operations, {}} end

local found, waiting, from = {}, {}, '-'
for _ = 1, 1000 do
  local member = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, 1)[1]
  if not member then break end
  local flow = string.match(member, '^[^%z]*')
  waiting[flow] = held(flow .. '\0', flow .. '\1')
  found[#found + 1] = flow
  from = '(' .. flow .. '\1'
end
for flow in pairs(running) do
  if not waiting[flow] then
    waiting[flow] = 0
    found[#found + 1] = flow
  end
end
table.sort(found, function(one, other)
  if waiting[one] ~= waiting[other] then return waiting[one] > waiting[other] end
  local a, b = running[one] or 0, running[other] or 0
  if a ~= b then return a > b end
  return one < other
end)

local flows = {}
for at = 1, math.min(most, #found) do
  local flow = found[at]
  local first = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. flow .. '\0', '(' .. flow .. '\1',
                           'LIMIT', 0, 1)[1]
  local message = first and redis.call('HGET', KEYS[2], first) or ''
  local name = '"published_at":'  -- as metrics/samples.py finds it
  local place = string.find(message, name, 1, true)
  local since = place and string.match(message, '^ *([%d.eE+-]+)', place + #name) or ''
  local limit, is_changed = limit_of(KEYS[4], flow)
  for _, each in ipairs({flow, running[flow] or 0, waiting[flow], since, limit or '- - -',
                         is_changed and 1 or 0}) do
    flows[#flows + 1] = each
  end
end
return {operations, flows}
