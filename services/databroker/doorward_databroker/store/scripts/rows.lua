#!lua flags=no-writes
-- Reads many records at once.
--
-- KEYS  records. ARGV 1 how many sealed bytes are enough: those after are left out, but never the first.
--
-- Returns version, tombstone and sealed bytes of each, one after another.
--
-- `no-writes`: a server that is full, or that has too few replicas, still answers.

local rows, left = {}, tonumber(ARGV[1])
for position, key in ipairs(KEYS) do
  local row = redis.call('HMGET', key, 'v', 'd', 'b')
  local place = position * 3
  rows[place - 2], rows[place - 1], rows[place] = row[1], row[2], row[3]
  left = left - #(row[3] or '')
  if left <= 0 then break end
end
return rows
