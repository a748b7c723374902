-- Return the keys whose limits hold operations back, and how many; a thousand keys at most.
--
-- KEYS[1]  zset  held

local answer, from = {}, '-'
for _ = 1, 1000 do
  local member = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, 1)[1]
  if not member then break end
  local flow = string.match(member, '^[^%z]*')
  answer[#answer + 1] = flow
  answer[#answer + 1] = redis.call('ZLEXCOUNT', KEYS[1], '[' .. flow .. '\0', '(' .. flow .. '\1')
  from = '(' .. flow .. '\1'
end
return answer
