-- Begins a store's history unless it has one. KEYS 1 meta. ARGV 1 chain tag, 2 epoch to begin with, 3 schema, 4 seal of the
-- keys in use. Returns {epoch, head, tag, schema, seal}; the first is false when the key is something else than ours.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'number', '0', 'tag', ARGV[1], 'schema', ARGV[3], 'seal', ARGV[4])
elseif kind ~= 'hash' then
  return {false, false, false, false, false}
end
return redis.call('HMGET', KEYS[1], 'epoch', 'number', 'tag', 'schema', 'seal')
