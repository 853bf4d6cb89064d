-- Writes a batch of records, all or none.
--
-- KEYS  1 meta, 2 feed, 3 result of this request, 4 fence (meta when the writes are not fenced), 5 chain; then for each write: its
--       record, its type's list, its type's ends, the index entries to leave, the index entries to enter.
-- ARGV  1 expected epoch, 2 expected head, 3 expected chain tag, 4 new chain tag, 5 now (ms), 6 how long results are kept
--       (ms), 7 longest feed, 8 longest chain, 9 how long a tombstone is kept (ms), 10 the same where the record had no end,
--       11 expected fence ('' for none), 12 proof of the names, 13 result to keep,
--       14 number of writes; then for each write: type, id, in feed (1/0), deleted (1/0),
--       precondition ('', 'absent' or 'epoch.number'), end (ms, or ''), new version, stored bytes, number of index entries to
--       leave, and to enter.
--
-- Returns {'ok'}, {'done', kept result}, {'moved', epoch, head, tag} (seal for other versions and try again), {'stale'} (name
-- the index entries to leave and try again), {'fenced'}, {'conflict', position} or {'endless', position} (no time to end at).
--
-- Redis does not roll back: everything is checked before the first write, and the feed, which checks for itself, is written first.

local last_end = 253402300799999

local done = redis.call('GET', KEYS[3])
if done then
  -- A write, so that a wait for replicas on this connection covers the first one.
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
  return {'done', done}
end

if ARGV[11] ~= '' and redis.call('GET', KEYS[4]) ~= ARGV[11] then return {'fenced'} end
local epoch, number, tag = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'number', 'tag'))

local now, writes, stale = tonumber(ARGV[5]), {}, false
local key, argument = 6, 15
for position = 1, tonumber(ARGV[14]) do
  local write = {
    record = KEYS[key], list = KEYS[key + 1], ending = KEYS[key + 2], type = ARGV[argument], id = ARGV[argument + 1],
    feed = ARGV[argument + 2] == '1', deleted = ARGV[argument + 3] == '1', ends = ARGV[argument + 5],
    version = ARGV[argument + 6], stored = ARGV[argument + 7], leave = {}, enter = {},
  }
  local precondition = ARGV[argument + 4]
  local leaving, entering = tonumber(ARGV[argument + 8]), tonumber(ARGV[argument + 9])
  local named, under = {}, {}
  for offset = 1, leaving do
    write.leave[offset] = KEYS[key + 2 + offset]
    named[write.leave[offset]] = true
  end
  for offset = 1, entering do
    write.enter[offset] = KEYS[key + 2 + leaving + offset]
    if not write.deleted then named[write.enter[offset]] = true end
  end
  key = key + 3 + leaving + entering
  argument = argument + 10

  local version, deleted, ends, indexes = unpack(redis.call('HMGET', write.record, 'v', 'd', 'x', 'i'))
  local ended = tonumber(ends or '')
  local live = version and deleted ~= '1' and not (ended and ended <= now)
  if precondition == 'absent' then
    if live then return {'conflict', position} end
  elseif precondition ~= '' and precondition ~= (version or '') then
    return {'conflict', position}
  end
  for index in string.gmatch(indexes or '', '[^\n]+') do
    if not named[index] then stale = true end
    under[index] = true
  end
  write.known, write.tombstone, write.ended, write.under = version, deleted == '1', ended, under
  writes[position] = write
end
-- After the preconditions, which hold or fail at any head: those behind a put that failed in one pipeline are sealed for versions
-- that never come, and if they fail themselves they must not be sent again for that.
if epoch ~= ARGV[1] or number ~= ARGV[2] or tag ~= ARGV[3] then
  return {'moved', epoch, number, tag}
end
if stale then return {'stale'} end

local sorted = {}
local function must_be_sorted(key)
  if sorted[key] then return end
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then error('`' .. key .. '` is a ' .. kind) end
  sorted[key] = true
end
local entry, head = {}, nil
for position, write in ipairs(writes) do
  if write.ends ~= '' then
    local ends = tonumber(write.ends)
    if not ends or ends < 0 or ends > last_end then return {'endless', position} end
  end
  for _, index in ipairs(write.leave) do must_be_sorted(index) end
  if write.feed then
    must_be_sorted(write.list)
    must_be_sorted(write.ending)
    for _, index in ipairs(write.enter) do
      if not write.under[index] then must_be_sorted(index) end
    end
    head = write.version
    for _, value in ipairs({write.type, write.id, write.version, write.stored}) do entry[#entry + 1] = value end
  end
end

if head then
  local last = string.sub(head, string.find(head, '.', 1, true) + 1)
  local fields = {'p', ARGV[3], 't', ARGV[4], 'm', ARGV[5], 'n', #entry / 4, 's', ARGV[12]}
  for index = 1, #entry, 4 do
    local place = (index - 1) / 4
    for offset, letter in ipairs({'t', 'i', 'v', 'b'}) do
      fields[#fields + 1] = letter .. place
      fields[#fields + 1] = entry[index + offset - 1]
    end
  end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], epoch .. '-' .. last, unpack(fields))
  redis.call('HSET', KEYS[1], 'number', last, 'tag', ARGV[4])
  -- It may fail: only a databroker that was away for long misses it, and then it takes history for lost.
  redis.pcall('XADD', KEYS[5], 'MAXLEN', '~', ARGV[8], epoch .. '-' .. last, 't', ARGV[4])
end
for _, write in ipairs(writes) do
  if write.deleted and not write.feed then
    redis.call('DEL', write.record)
  else
    local ends = write.ends
    if write.deleted then
      -- Kept at least as long as the record could still have counted, so that an old copy put back stays refused.
      if write.known and not write.ended then
        ends = now + tonumber(ARGV[10])
      else
        ends = math.min(math.max(now + tonumber(ARGV[9]), write.ended or 0), last_end)
      end
      ends = string.format('%.0f', ends)
    end
    redis.call('HSET', write.record, 'v', write.version, 'd', write.deleted and '1' or '0', 'x', ends,
      'b', write.stored, 'i', write.deleted and '' or table.concat(write.enter, '\n'))
    if write.deleted or not write.feed then
      redis.call('PEXPIREAT', write.record, ends)
    elseif write.tombstone then
      redis.call('PERSIST', write.record)
    end
  end
  for _, index in ipairs(write.leave) do redis.call('ZREM', index, write.id) end
  if write.feed then
    if write.deleted then
      redis.call('ZREM', write.list, write.id)
      redis.call('ZREM', write.ending, write.id)
    else
      redis.call('ZADD', write.list, 0, write.id)
      for _, index in ipairs(write.enter) do
        if not write.under[index] then redis.call('ZADD', index, 0, write.id) end
      end
      if write.ends ~= '' then
        redis.call('ZADD', write.ending, write.ends, write.id)
      elseif write.known then
        redis.call('ZREM', write.ending, write.id)
      end
    end
  end
end
redis.call('SET', KEYS[3], ARGV[13], 'PX', ARGV[6])
return {'ok'}
