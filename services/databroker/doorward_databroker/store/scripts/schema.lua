-- Raises the schema once its step is done. KEYS 1 meta. ARGV 1 the schema that was migrated, 2 the next one.
-- Returns 1, or 0 when the store has another one.
if (redis.call('HGET', KEYS[1], 'schema') or '1') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'schema', ARGV[2])
return 1
