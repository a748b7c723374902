-- Renew a node's lease; two nodes of a pool watch the others and what is due.
--
-- Follows limits.lua and turns.lua, whose functions it uses.
--
-- KEYS[1]  hash  index: identity -> epoch, 'stopping', 'dead' or 'dead, stopping'
-- KEYS[2]  zset  leases: identity -> server time in ms at which it runs out
-- KEYS[3]  zset  watchers: identity -> server time in ms at which its turn ends
-- KEYS[4]  zset  delayed: entry -> server time in ms at which it is due
-- KEYS[5]  hash  delayed messages: entry -> place and message
-- KEYS[6…15] list  the queue's lists by place, 0 to 9; those of turns.lua and limits.lua follow
-- ARGV[1]  identity of the node that asks
-- ARGV[2]  length of a lease in ms
-- ARGV[3]  channel of the pool, to which every node's connections are subscribed; a node's own
--          is this, ':' and its identity
-- ARGV[4]  'all' to be told of every node; 'suspects' of those that may be dead; else the
--          subscriptions and nodes at the last look, to be told of suspects if that has changed
-- ARGV[5]  length of a watcher's turn in ms
-- ARGV[6]  how many delayed operations to put into the queue at the most
-- ARGV[7]  1 if the pool has priorities, else 0
-- ARGV[8]  1 if keys take turns, else 0
--
-- Returns 0 if the node was taken for dead; else the server's seconds and microseconds; 1 if
-- the node watches, else 0; ms until it is to look at what is due, -1 if there is nothing;
-- how many subscriptions and nodes there are; 1 if every node was looked at, else 0; for 'all'
-- the seconds since the server started, else -1. Then
-- identity, state, lease ('' if it has none) and subscriptions of each other node to be told of.
-- A suspect has no subscription or no valid lease, or is dead already: a thousand that are well
-- need not be told. The subscriptions alone would hide that one node dies while another joins.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local state = redis.call('HGET', KEYS[1], ARGV[1])
if not state or string.sub(state, 1, 4) == 'dead' then return 0 end
-- In this order: a server whose memory is full refuses a script that adds first.
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])

local watchers = redis.call('ZRANGE', KEYS[3], 0, -1)
if #watchers > 1 and watchers[1] ~= ARGV[1] and watchers[2] ~= ARGV[1] then
  return {time[1], time[2], 0, -1, '', 0, -1}
end
redis.call('ZADD', KEYS[3], now + ARGV[5], ARGV[1])
redis.call('EXPIRE', KEYS[3], 60)
redis.call('EXPIRE', KEYS[2], 86400)

local entries = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, ARGV[6])
in_parts(entries, function(...)
  local due = {}
  for _, message in ipairs(redis.call('HMGET', KEYS[5], ...)) do
    if message then
      local place = tonumber(string.sub(message, 1, 1))
      due[place] = due[place] or {}
      table.insert(due[place], string.sub(message, 2))
    end
  end
  redis.call('HDEL', KEYS[5], ...)
  redis.call('ZREM', KEYS[4], ...)
  for place, messages in pairs(due) do
    redis.call('LPUSH', KEYS[6 + place], unpack(messages))
  end
end)
local following = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')
-- What is due within 10 ms goes into the queue together.
local due = following[2] and math.max(10, math.ceil(following[2] - now)) or -1
local resumes = resume(200)
if resumes >= 0 and (due < 0 or resumes < due) then due = resumes end

-- Nodes that are busy reserve nothing. What comes meanwhile is to wait for its turn all the same.
if ARGV[8] == '1' then
  for place = 0, 9 do
    if sort_list(place, KEYS[6 + place], 500) == 500 then due = 0 end
  end
elseif redis.call('EXISTS', turns) == 1 then
  dissolve(500)
end
if ARGV[8] == '1' or next(its_numbers) then settle() end

-- Messages with a priority. In a pool without priorities they join the others. In one that
-- has them, idle nodes wait at the list of place 0: one message there wakes one of them.
for place = 1, 9 do
  local list = KEYS[6 + place]
  if ARGV[7] == '0' then
    for _ = 1, math.min(redis.call('LLEN', list), 500) do
      redis.call('LPUSH', KEYS[6], redis.call('RPOP', list))
    end
  elseif redis.call('EXISTS', KEYS[6]) == 0 and redis.call('EXISTS', list) == 1 then
    redis.call('LMOVE', list, KEYS[6], 'RIGHT', 'RIGHT')
  end
end

local count = string.format(
  '%d/%d', redis.call('PUBSUB', 'NUMSUB', ARGV[3])[2], redis.call('HLEN', KEYS[1]))
if count == ARGV[4] and redis.call('ZCOUNT', KEYS[2], '-inf', now) == 0 then
  return {time[1], time[2], 1, due, count, 0, -1}
end
local uptime = -1
if ARGV[4] == 'all' then
  uptime = tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)'))
end
local answer = {time[1], time[2], 1, due, count, 1, uptime}
local lease = {}
local leases = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for at = 1, #leases, 2 do lease[leases[at]] = leases[at + 1] end
local index = redis.call('HGETALL', KEYS[1])
local channels = {}
for at = 1, #index, 2 do channels[#channels + 1] = ARGV[3] .. ':' .. index[at] end
for first = 1, #channels, 1000 do
  local last = math.min(first + 999, #channels)
  local subscriptions = redis.call('PUBSUB', 'NUMSUB', unpack(channels, first, last))
  for at = first, last do
    local identity, state = index[2 * at - 1], index[2 * at]
    local connections = subscriptions[2 * (at - first + 1)]
    local runs_out = lease[identity]
    local is_well = connections > 0 and runs_out and tonumber(runs_out) >= now
      and string.sub(state, 1, 4) ~= 'dead'
    if identity ~= ARGV[1] and (ARGV[4] == 'all' or not is_well) then
      answer[#answer + 1] = identity
      answer[#answer + 1] = state
      answer[#answer + 1] = runs_out or ''
      answer[#answer + 1] = connections
    end
  end
end
return answer
