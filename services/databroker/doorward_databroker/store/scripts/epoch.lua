-- Begins a new epoch after lost history, once for all who notice. KEYS 1 meta.
-- ARGV 1 the epoch that was lost, 2 chain tag of the new one, 3 schema, 4 seal of the keys in use.
-- Returns {epoch, head, tag, schema, seal}.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch or tonumber(epoch) <= tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'epoch', tonumber(ARGV[1]) + 1, 'number', '0', 'tag', ARGV[2])
  redis.call('HSETNX', KEYS[1], 'schema', ARGV[3])
  redis.call('HSETNX', KEYS[1], 'seal', ARGV[4])
end
return redis.call('HMGET', KEYS[1], 'epoch', 'number', 'tag', 'schema', 'seal')
