-- Which of the limits of a key holds. limits.lua says how they are written down.

-- Return the limit of a key as it is written down, with the weight of this key; nil if no node's
-- code has the operation. Then whether it is another one than in the code.
local function limit_of(limits, flow)
  local operation = string.match(flow, '^[^/]+')
  local own, of_all, of_code, weights = unpack(
    redis.call('HMGET', limits, 'key ' .. flow, 'all ' .. operation, 'code ' .. operation,
               'weights ' .. operation), 1, 4)
  if not of_code then return nil, false end
  local its = own or of_all or of_code
  if weights and not own then
    local mark = ' ' .. string.sub(flow, #operation + 2) .. ';'
    local _, last = string.find(weights, mark, 1, true)
    local weight = last and string.match(weights, '^%S+', last + 1)
    if weight then its = string.gsub(its, '^(%S+ %S+ %S+) %S+$', '%1 ' .. weight) end
  end
  return its, (own or of_all) and true or false
end

