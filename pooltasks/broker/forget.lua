-- Limits of operations that no living node's code has any more are forgotten.
--
-- A node says in the step with which it joins which operations with limits its code has, and
-- `nodes` keeps that until it has left or is recovered. So while versions of the code run beside
-- each other, the limits of all of them hold. A node that says nothing, as those of earlier
-- versions of pooltasks do, may have any; so nothing is forgotten beside it. Nor is it while no
-- node is there: what is held then is shown with its limits.

-- Forget what is to be forgotten, and have the nodes that watch let go on what it has held back.
-- index      hash  identity -> state of the nodes that live
-- nodes      hash  identity -> names of operations, with spaces between
-- limits, held, resume_at   as limits.lua has them
local function forget_limits(index, nodes, limits, held, resume_at)
  local gone = {}
  for _, field in ipairs(redis.call('HKEYS', limits)) do
    local name = string.match(field, '^code (.+)$')
    if name then gone[name] = true end
  end
  if next(gone) == nil then return end
  local living = redis.call('HKEYS', index)
  if #living == 0 then return end
  for first = 1, #living, 1000 do
    local last = math.min(first + 999, #living)
    local said = redis.call('HMGET', nodes, unpack(living, first, last))
    for at = 1, last - first + 1 do
      if not said[at] then return end
      for name in string.gmatch(said[at], '%S+') do gone[name] = nil end
    end
    if next(gone) == nil then return end
  end
  local time = redis.call('TIME')
  local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
  for name in pairs(gone) do
    redis.call('HDEL', limits, 'code ' .. name, 'weights ' .. name)
    local from = '[' .. name .. '/'
    while true do
      local member = redis.call('ZRANGEBYLEX', held, from, '(' .. name .. '0', 'LIMIT', 0, 1)[1]
      if not member then break end
      local flow = string.match(member, '^[^%z]*')
      redis.call('ZADD', resume_at, now, flow)
      from = '(' .. flow .. '\1'
    end
  end
  redis.call('PUBLISH', string.gsub(resume_at, 'flow:resume$', 'due'), now)
end
