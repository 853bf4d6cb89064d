-- Leases. KEYS 1 lease, 2 fence. ARGV 1 'acquire', 'renew' or 'release', 2 holder, 3 duration (ms).
-- 'acquire' returns the fencing number, or 0 when somebody else holds it; the others return 1 or 0.
local holder = redis.call('GET', KEYS[1])
if ARGV[1] == 'acquire' then
  if holder and holder ~= ARGV[2] then return 0 end
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return redis.call('INCR', KEYS[2])
end
if holder ~= ARGV[2] then return 0 end
if ARGV[1] == 'renew' then return redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return redis.call('DEL', KEYS[1])
