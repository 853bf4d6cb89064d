#!lua flags=no-writes
-- Reads many records at once.
--
-- KEYS  records.
--
-- Returns version, tombstone and sealed bytes of each, one after another.
--
-- `no-writes`: a server that is full, or that has too few replicas, still answers.

local rows = {}
for position, key in ipairs(KEYS) do
  local row = redis.call('HMGET', key, 'v', 'd', 'b')
  local place = position * 3
  rows[place - 2], rows[place - 1], rows[place] = row[1], row[2], row[3]
end
return rows
