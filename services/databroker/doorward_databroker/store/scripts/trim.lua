-- Trims the feed by count and age, never while a snapshot is running and never its last entry.
-- KEYS 1 feed, 2 holds of running snapshots (name -> until, ms). ARGV 1 now (ms), 2 entries to keep, 3 keep what is not older
-- than this (ms). Returns how many entries went.
for name, till in pairs((function()
  local holds, flat = {}, redis.call('HGETALL', KEYS[2])
  for index = 1, #flat, 2 do holds[flat[index]] = flat[index + 1] end
  return holds
end)()) do
  if (tonumber(till) or 0) > tonumber(ARGV[1]) then return 0 end
  redis.call('HDEL', KEYS[2], name)
end
local before = redis.call('XLEN', KEYS[1])
if before < 2 then return 0 end
redis.call('XTRIM', KEYS[1], 'MAXLEN', math.max(1, tonumber(ARGV[2])))
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
for _ = 1, 50 do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 100)
  local keep = nil
  for _, entry in ipairs(oldest) do
    local written = nil
    for index = 1, #entry[2], 2 do
      if entry[2][index] == 'm' then written = tonumber(entry[2][index + 1]) break end
    end
    if entry[1] == last or (written and written >= tonumber(ARGV[3])) then keep = entry[1] break end
  end
  redis.call('XTRIM', KEYS[1], 'MINID', keep or oldest[#oldest][1])
  if keep then break end
end
return before - redis.call('XLEN', KEYS[1])
