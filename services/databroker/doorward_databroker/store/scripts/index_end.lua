-- Enters a live record that has an end in its type's ends. KEYS 1 record, 2 its type's ends. ARGV 1 id. Returns 1 when it has one.
local version, deleted, ends = unpack(redis.call('HMGET', KEYS[1], 'v', 'd', 'x'))
if not version or deleted == '1' or not ends or ends == '' then return 0 end
redis.call('ZADD', KEYS[2], ends, ARGV[1])
return 1
