#!lua flags=no-writes
-- How many members each of these sorted sets has, at one moment.
--
-- KEYS  sorted sets.

local counts = {}
for position, key in ipairs(KEYS) do counts[position] = redis.call('ZCARD', key) end
return counts
