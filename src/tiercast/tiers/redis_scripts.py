"""The Lua that keeps `born` in order in Redis, one key a script.

Every envelope begins with text at fixed places (envelope.py), which is all that the scripts read:

    1-3   magic and version      4      flags, one hex digit (2: tombstone)
    5-20  born                   21-36  end of the fence     37-52  keep until       53-68  fresh until
    69-72 checksum of deadlines and body

the numbers as 16 hex digits, which compare as text; times are ms since 1970. The end of a fence is by
the clock of the server that holds the key and is written by these scripts only. A key lives in Redis
at least until its fence ends, whatever is put there: a fill with a short TTL would else expire, and
let in a slower, older one. The two letters "TC" mark a header of any version, so that a release does
not overwrite what a newer one stored.
"""

from __future__ import annotations

from typing import Final

from ..connections import Script

_HEADER: Final = """
local WELL_FORMED = '^TC..' .. string.rep('%x', 32)
local key = KEYS[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function hex(number)
  return string.format('%08x%08x', math.floor(number / 4294967296), number % 4294967296)
end

local function text(number)
  return string.format('%.0f', number)
end

-- Flags, born and the end of the fence of what stands there; nil for nothing or something foreign.
local function standing()
  local header = redis.pcall('GETRANGE', key, 0, 67)
  if type(header) ~= 'string' or #header < 68 or not string.find(header, WELL_FORMED) then
    return nil
  end
  return string.sub(header, 4, 4), string.sub(header, 5, 20), tonumber(string.sub(header, 21, 36), 16) or 0
end

-- ttl in ms; 0: for as long as Redis likes.
local function store(blob, ttl, fence)
  if fence <= now then
    fence = 0
  end
  if ttl > 0 then
    redis.call('SET', key, blob, 'PX', text(math.max(ttl, fence - now)))
  else
    redis.call('SET', key, blob)
  end
  if fence > 0 then
    redis.call('SETRANGE', key, 20, hex(fence))
  end
end
"""

PUT: Final = Script(
    _HEADER
    + """
-- ARGV: blob, ttl, fence (ms), when the load began (ms; -1: not judged), how long a load may take (ms)
local blob, begun = ARGV[1], tonumber(ARGV[4])
if begun >= 0 and now - begun > tonumber(ARGV[5]) then
  return 'late'
end
local _, born, fence = standing()
if born and born > string.sub(blob, 5, 20) then
  return 'newer'
end
local own = tonumber(ARGV[3])
store(blob, tonumber(ARGV[2]), math.max(fence or 0, own > 0 and now + own or 0))
return 'stored'
"""
)
"""Store unless something newer stands there; equal `born` is stored."""

BURY: Final = Script(
    _HEADER
    + """
-- ARGV: header of the tombstone, fence (ms)
local length = tonumber(ARGV[2])
local _, born, fence = standing()
local last = math.max(fence or 0, now + length)
if born and born >= string.sub(ARGV[1], 5, 20) then
  -- What stands there is as new, but it may not be there for long: the fence is this record's too.
  redis.call('SETRANGE', key, 20, hex(last))
  local left = redis.call('PTTL', key)
  if left >= 0 and left < last - now then
    redis.call('PEXPIRE', key, text(last - now))
  end
  return 0
end
store(ARGV[1], math.max(length, 1), last)
return 1
"""
)
"""Put a tombstone where something older, or nothing, stands."""

RENEW: Final = Script(
    _HEADER
    + """
-- ARGV: header and checksum of what was read; blob, ttl (ms)
local _, born, fence = standing()
if not born then
  return 0
end
local old = redis.call('GETRANGE', key, 0, 71)
if string.sub(old, 1, 20) ~= string.sub(ARGV[1], 1, 20) or string.sub(old, 37) ~= string.sub(ARGV[1], 37) then
  return 0
end
store(ARGV[2], tonumber(ARGV[3]), fence)
return 1
"""
)
"""Replace exactly what was read: the same born, flags, deadlines and checksum, whatever became of its fence."""

REMOVE: Final = Script(
    _HEADER
    + """
local flags, born, fence = standing()
if not born then
  return redis.call('UNLINK', key)
end
if math.floor(tonumber(flags, 16) / 2) % 2 == 1 then
  return 0
end
if fence > now then
  store('TC12' .. born .. string.rep('0', 48), fence - now, fence)
else
  redis.call('UNLINK', key)
end
return 1
"""
)
"""Remove an entry; where its fence has not ended, a tombstone keeps it."""

# A lease is its holder's token, followed by AWAITED once another has asked for it.
AWAITED: Final = "!"

TAKE_LEASE: Final = Script("""
local held = redis.call('GET', KEYS[1])
if not held then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
if held == ARGV[1] or held == ARGV[1] .. '!' then
  return 1
end
if string.sub(held, -1) ~= '!' then
  redis.call('APPEND', KEYS[1], '!')
end
return 0
""")
"""Take a lease, or mark it as awaited; APPEND leaves its end as it is."""

RENEW_LEASE: Final = Script("""
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and held ~= ARGV[1] .. '!' then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

GIVE_LEASE: Final = Script("""
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] and held ~= ARGV[1] .. '!' then
  return 0
end
redis.call('DEL', KEYS[1])
return held == ARGV[1] and 1 or 2
""")
"""Give a lease back; 2 where it is awaited."""
