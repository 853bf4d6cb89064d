-- Puts the same record under another key, if nobody has changed it since it was read; it keeps its version.
-- KEYS 1 record, then the index entries to leave, then those to enter. ARGV 1 version, 2 bytes read, 3 bytes to store, 4 id,
-- 5 number of entries to leave, 6 of those to enter. Returns 1, or 0 when it has changed.
local version, stored = unpack(redis.call('HMGET', KEYS[1], 'v', 'b'))
if version ~= ARGV[1] or stored ~= ARGV[2] then return 0 end
-- Entered first and left last: whatever fails in between, it is found.
local enter = {}
for offset = 1, tonumber(ARGV[6]) do
  enter[offset] = KEYS[1 + tonumber(ARGV[5]) + offset]
  redis.call('ZADD', enter[offset], 0, ARGV[4])
end
redis.call('HSET', KEYS[1], 'b', ARGV[3], 'i', table.concat(enter, '\n'))
for offset = 1, tonumber(ARGV[5]) do redis.call('ZREM', KEYS[1 + offset], ARGV[4]) end
return 1
