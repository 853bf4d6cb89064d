-- Leases. KEYS 1 lease, 2 fence, 3 meta. ARGV 1 'acquire', 'renew' or 'release', 2 holder, 3 duration (ms).
-- 'acquire' returns the fencing number, or 0 when somebody else holds the lease; the others return 1 or 0.
--
-- The fence holds number and holder. Numbers grow with every taking and, because they begin with the epoch, also when a
-- failover has lost the last ones; the holder's name keeps two takings of one number apart until that has been noticed.
local holder = redis.call('GET', KEYS[1])
if ARGV[1] == 'acquire' then
  if holder and holder ~= ARGV[2] then return 0 end
  local last = string.match(redis.call('GET', KEYS[2]) or '', '^%d+') or '0'
  local epoch = redis.call('HGET', KEYS[3], 'epoch') or '0'
  local number = string.format('%.0f', math.max(tonumber(last), tonumber(epoch) * 4294967296) + 1)
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  redis.call('SET', KEYS[2], number .. ' ' .. ARGV[2])
  return number
end
if holder ~= ARGV[2] then return 0 end
if ARGV[1] == 'renew' then return redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return redis.call('DEL', KEYS[1])
