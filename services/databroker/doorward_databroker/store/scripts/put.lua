-- Writes a batch of records, all or none.
--
-- KEYS  1 meta, 2 feed, 3 result of this request; then for each write: its record, its type's list, the index
--       entries to leave, the index entries to enter.
-- ARGV  1 expected epoch, 2 expected head, 3 expected chain tag, 4 new chain tag, 5 now (ms), 6 how long results
--       are kept (ms), 7 longest feed, 8 number of writes, 9 result to keep; then for each write: type, id, in feed (1/0),
--       deleted (1/0), precondition ('', 'absent' or 'epoch.number'), version seen when the indexes were read, end
--       (ms, or ''), new version, stored bytes, number of index entries to leave, and to enter.
--
-- Returns {'ok'}, {'done', kept result}, {'moved', epoch, head, tag} (seal for other versions and try again),
-- {'stale'} (read the indexes again) or {'conflict', position}.
--
-- Redis does not roll back: everything is checked before the first write.

local done = redis.call('GET', KEYS[3])
if done then return {'done', done} end

local epoch, number, tag = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'number', 'tag'))
if epoch ~= ARGV[1] or number ~= ARGV[2] or tag ~= ARGV[3] then
  return {'moved', epoch, number, tag}
end

local now, writes = tonumber(ARGV[5]), {}
local key, argument = 4, 10
for position = 1, tonumber(ARGV[8]) do
  local write = {
    record = KEYS[key], list = KEYS[key + 1], type = ARGV[argument], id = ARGV[argument + 1],
    feed = ARGV[argument + 2] == '1', deleted = ARGV[argument + 3] == '1', precondition = ARGV[argument + 4],
    seen = ARGV[argument + 5], ends = ARGV[argument + 6], version = ARGV[argument + 7],
    stored = ARGV[argument + 8], leave = {}, enter = {},
  }
  local leaving, entering = tonumber(ARGV[argument + 9]), tonumber(ARGV[argument + 10])
  for offset = 1, leaving do write.leave[offset] = KEYS[key + 1 + offset] end
  for offset = 1, entering do write.enter[offset] = KEYS[key + 1 + leaving + offset] end
  key = key + 2 + leaving + entering
  argument = argument + 11

  local version, deleted, ends = unpack(redis.call('HMGET', write.record, 'v', 'd', 'x'))
  local live = version and deleted ~= '1' and (not ends or ends == '' or tonumber(ends) > now)
  if write.precondition == 'absent' then
    if live then return {'conflict', position} end
  elseif write.precondition ~= '' and write.precondition ~= (version or '') then
    return {'conflict', position}
  end
  if (version or '') ~= write.seen then return {'stale'} end
  writes[position] = write
end

local entry = {}
for _, write in ipairs(writes) do
  redis.call('HSET', write.record, 'v', write.version, 'd', write.deleted and '1' or '0', 'x', write.ends,
    'b', write.stored, 'i', table.concat(write.enter, '\n'))
  if write.feed then
    for _, value in ipairs({write.type, write.id, write.version, write.stored}) do entry[#entry + 1] = value end
  elseif write.ends ~= '' then
    redis.call('PEXPIREAT', write.record, write.ends)
  end
  for _, index in ipairs(write.leave) do redis.call('ZREM', index, write.id) end
  if write.deleted then
    redis.call('ZREM', write.list, write.id)
  elseif write.feed then
    redis.call('ZADD', write.list, 0, write.id)
    for _, index in ipairs(write.enter) do redis.call('ZADD', index, 0, write.id) end
  end
end

if #entry > 0 then
  local head = writes[1].version
  for _, write in ipairs(writes) do if write.feed then head = write.version end end
  local position = string.find(head, '.', 1, true)
  local last = string.sub(head, position + 1)
  local fields = {'p', ARGV[3], 't', ARGV[4], 'n', #entry / 4}
  for index = 1, #entry, 4 do
    local place = (index - 1) / 4
    for offset, letter in ipairs({'t', 'i', 'v', 'b'}) do
      fields[#fields + 1] = letter .. place
      fields[#fields + 1] = entry[index + offset - 1]
    end
  end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], epoch .. '-' .. last, unpack(fields))
  redis.call('HSET', KEYS[1], 'number', last, 'tag', ARGV[4])
end
redis.call('SET', KEYS[3], ARGV[9], 'PX', ARGV[6])
return {'ok'}
