-- Begins a store's history unless it has one. KEYS 1 meta. ARGV 1 chain tag, 2 epoch to begin with.
-- Returns {epoch, head, tag}.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'number', '0', 'tag', ARGV[1])
end
return redis.call('HMGET', KEYS[1], 'epoch', 'number', 'tag')
