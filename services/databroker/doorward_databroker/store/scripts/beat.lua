-- A databroker's heartbeat: a write that says who is alive, and in the same trip what the others said.
-- KEYS 1 peers (id -> "<ms> <report>"), 2 meta. ARGV 1 id, 2 report ('' only asks), 3 forget the silent after (ms).
-- Returns {now (ms, the server's clock), epoch, head, tag, schema, id, report, id, report, …}.
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
if ARGV[2] ~= '' then redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2]) end
local answer = {now}
for _, value in ipairs(redis.call('HMGET', KEYS[2], 'epoch', 'number', 'tag', 'schema')) do answer[#answer + 1] = value end
local peers = redis.call('HGETALL', KEYS[1])
for index = 1, #peers, 2 do
  local blank = string.find(peers[index + 1], ' ', 1, true)
  local said = blank and tonumber(string.sub(peers[index + 1], 1, blank - 1))
  if not said or said < tonumber(now) - tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], peers[index])
  else
    answer[#answer + 1] = peers[index]
    answer[#answer + 1] = string.sub(peers[index + 1], blank + 1)
  end
end
return answer
