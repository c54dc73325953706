-- The log of one tiercast fleet: every operation on it is this script (docs/protocol.md).
--
--   KEYS  1 …:log (hash)  2 …:stream  3 …:stamps (sorted set)  4 …:members (hash), all with the fleet as hash tag;
--         5… value keys, one for each write ("append" on a single server only)
--   ARGV  1 operation  2 a random id, taken if a new epoch has to begin  3 options, a JSON object; 4… operands
--
-- Every operation first makes sure that the log is the one its readers know. An epoch belongs to one life of one
-- server, so it ends where the run id or the replication id differ from those kept beside the head, or where any part
-- of the log is missing. Text that came from a caller is spliced, never decoded and encoded again; positions stay exact
-- up to 2^53: Redis prints a number that it is passed with 17 digits, Lua in a text with 14, hence %.0f there.
--
-- Redis runs this text anew for each call, so a function costs at each call whether it is used or not: there are few,
-- and each operation makes its own.

local call, pcall_, format, find, sub = redis.call, redis.pcall, string.format, string.find, string.sub
local LOG, STREAM, STAMPS, MEMBERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local OPERATION, FRESH, OPTIONS = ARGV[1], ARGV[2], cjson.decode(ARGV[3])
local TRUST = OPTIONS.failover == 'trust'
local SINCE_EPOCH, SINCE = OPTIONS.epoch or '', OPTIONS.position or 0
local LENGTH = OPTIONS.length or 100000

local clock = call('TIME')
local NOW = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- ---------------------------------------------------------------- which server this is, in which of its lives

-- Plain finds of 40 hex digits, because patterns cost ten times as much on so long a text.
local function said(section, name)
  local _, last = find(section, name, 1, true)
  return last and sub(section, last + 1, last + 40) or ''
end

local replication, server, run, publish = pcall_('INFO', 'replication'), nil, nil, nil
replication = type(replication) == 'string' and replication or ''
if find(replication, 'role:slave', 1, true) then
  return redis.error_reply('READONLY tiercast: this server is a replica')
end
local replid = said(replication, 'master_replid:')

local function look()
  server = pcall_('INFO', 'server')
  server = type(server) == 'string' and server or ''
  run = said(server, 'run_id:')
  -- In a Cluster that can, messages stay on the nodes of the channel's slot. (Valkey calls the field server_mode.)
  local cluster = find(server, '_mode:cluster', 1, true)
  local version = tonumber(string.match(server, 'redis_version:(%d+)') or 0)
  publish = cluster and version >= 7 and 'SPUBLISH' or 'PUBLISH'
end

-- A server takes a new replication id whenever it starts and whenever it is promoted, so that one alone tells its lives
-- apart. An append, between whose call and whose message everybody waits, looks at nothing more; all else compares both.
if OPERATION ~= 'append' then
  look()
end
if not TRUST and (run == '' or replid == '') then
  return redis.error_reply('TIERCAST INFO must show run_id and master_replid to scripts (ACL: +info), or set failover="trust"')
end

-- ---------------------------------------------------------------- the epoch

local EPOCH, POSITION, CARRIED, FLOOR

local function begin(reason)
  if not find(FRESH, '^[%w_-]+$') then
    return redis.error_reply('TIERCAST an epoch is made of letters and digits')
  end
  if not server then
    look()
  end
  local kept = call('EXISTS', LOG, STREAM, STAMPS, MEMBERS)
  EPOCH, POSITION, CARRIED, FLOOR = FRESH, 0, 0, 0
  call('UNLINK', LOG, STREAM, STAMPS)
  call('HSET', LOG, 'epoch', EPOCH, 'position', '0', 'carried', '0', 'floor', '0', 'run_id', run, 'master_replid', replid,
    'publish', publish, 'began', format('%.0f', NOW), 'reason', reason)
  if kept > 0 or SINCE_EPOCH ~= '' then
    -- There was a life before this one, so processes may run that the members' table does not name.
    call('HSET', LOG, 'unknown', format('%.0f', NOW))
  end
  call('XADD', STREAM, '0-1', 'epoch', EPOCH)
  call('ZADD', STAMPS, '+inf', 'epoch ' .. EPOCH)
  if type(pcall_('HSET', MEMBERS, '', EPOCH)) == 'table' then
    call('UNLINK', MEMBERS)
    call('HSET', MEMBERS, '', EPOCH)
  end
end

-- All four keys must be there, and speak of one epoch. (The stream is never empty: its newest entry is not trimmed, and
-- an epoch begins with one. That it holds what the head says shows when it is read or added to.) An append asks in one
-- call whether they are there.
local function whole()
  if OPERATION == 'append' then
    return call('EXISTS', STREAM, STAMPS, MEMBERS) == 3
  end
  local entries = pcall_('XLEN', STREAM)
  return type(entries) == 'number' and entries > 0 and type(pcall_('ZSCORE', STAMPS, 'epoch ' .. EPOCH)) == 'string'
    and pcall_('HGET', MEMBERS, '') == EPOCH
end

local kept = pcall_('HMGET', LOG, 'epoch', 'position', 'carried', 'floor', 'run_id', 'master_replid', 'publish')
EPOCH, POSITION = kept[1], tonumber(kept[2] or nil)
CARRIED, FLOOR = tonumber(kept[3] or 0) or 0, tonumber(kept[4] or 0) or 0
publish = publish or kept[7]
local moved = kept[6] ~= replid or (run and kept[5] ~= run)

local reason
if not (EPOCH and POSITION and whole()) then
  reason = 'incomplete'
elseif moved and not TRUST then
  reason = 'restarted'
elseif SINCE_EPOCH == EPOCH and SINCE > POSITION then
  reason = 'went back'
elseif OPERATION == 'append' and POSITION - CARRIED > 10 * LENGTH then
  -- Nobody carries, so nothing could be trimmed: a new epoch is the bound, and the safe side.
  reason = 'overfull'
end
if reason then
  local refusal = begin(reason)
  if refusal then
    return refusal
  end
elseif moved or not publish then
  look()
  call('HSET', LOG, 'run_id', run, 'master_replid', replid, 'publish', publish)
  if moved then
    call('HSET', LOG, 'unknown', format('%.0f', NOW))
  end
end

-- ---------------------------------------------------------------- what operations share

local function head()
  return {EPOCH, POSITION, CARRIED, clock[1], clock[2], FLOOR}
end

-- What came after the caller's position, or 0 where the log cannot tell.
local function tail()
  if SINCE_EPOCH ~= EPOCH or POSITION - SINCE > (OPTIONS.limit or 10000) then
    return 0
  elseif SINCE == POSITION then
    return {}
  end
  return call('XRANGE', STREAM, format('%.0f-0', SINCE + 1), '+')
end

-- Let go of what is older than the retention or beyond the length, never of what has not been carried: of up to 1024
-- entries. Positions and times only grow, so that few have to be read: one, most of the time, which is to stay.
local function trim()
  local surplus, horizon, oldest = call('XLEN', STREAM) - LENGTH, NOW - (OPTIONS.retention or 3600000), nil
  local function may_go(from)
    local entry = call('XRANGE', STREAM, from, '+', 'COUNT', 1)[1]
    local position = entry and tonumber(string.match(entry[1], '^(%d+)-'))
    oldest = oldest or position
    -- What is no record has no time: it goes as the first, and says nothing of those before it.
    if position and position <= CARRIED and position < POSITION and (position - oldest < surplus
        or (tonumber(entry[2][4]) or from == '-' and 0 or NOW) < horizon) then
      return position
    end
  end
  local cut, step = may_go('-'), 512
  while cut and step >= 1 do
    cut, step = may_go(format('%.0f-0', cut + step)) or cut, step / 2
  end
  if cut then
    call('XTRIM', STREAM, 'MINID', format('%.0f-0', cut + 1))
  end
end

-- ---------------------------------------------------------------- read, snapshot, carry, prune

if OPERATION == 'read' then
  return {head(), tail()}
end

-- Operand: the fence in ms that the caller gives what it writes. For a caller that watches the first three keys
-- (redis_watch.py): how far L3 is clean, where the log stands where the caller does and the caller may add to it; else -1.
if OPERATION == 'watch' then
  if SINCE_EPOCH == EPOCH and SINCE == POSITION and publish == 'PUBLISH'
      and tonumber(ARGV[4]) >= tonumber(call('HGET', LOG, 'fence') or 0) then
    return CARRIED
  end
  return -1
end

-- Stamps in the order of their positions, options.page of them from options.from on. A stamp that moves between two
-- pages moves to a later page, so the first page's head and all pages together miss nothing.
if OPERATION == 'snapshot' then
  return {head(), call('ZRANGEBYSCORE', STAMPS, format('%.0f', OPTIONS.from or 0), '(+inf', 'WITHSCORES', 'LIMIT', 0,
    OPTIONS.page or 10000)}
end

if OPERATION == 'carry' then
  local position = tonumber(ARGV[4])
  if SINCE_EPOCH == EPOCH and position > CARRIED and position <= POSITION then
    CARRIED = position
    call('HSET', LOG, 'carried', format('%.0f', CARRIED))
    trim()
  end
  return head()
end

-- Forget the stamps set before a position, because no entry that old is left; the floor stays where it is.
if OPERATION == 'prune' then
  if SINCE_EPOCH ~= EPOCH then
    return 0
  end
  trim()
  return call('ZREMRANGEBYSCORE', STAMPS, '-inf', '(' .. ARGV[4])
end

-- ---------------------------------------------------------------- members

-- Operands: member, digest. options.lease ms; options.fence: the fence in ms that the member gives what it writes, of
-- which the longest is kept. It writes, so that a master cut off from its replicas cannot prove.
if OPERATION == 'beat' then
  if OPTIONS.fence and OPTIONS.fence > tonumber(call('HGET', LOG, 'fence') or 0) then
    call('HSET', LOG, 'fence', format('%.0f', OPTIONS.fence))
  end
  local ends = format('%.0f', NOW + (OPTIONS.lease or 5000))
  call('HSET', MEMBERS, ARGV[4], table.concat({ends, SINCE_EPOCH, format('%.0f', SINCE), ARGV[5]}, '|'))
end

if OPERATION == 'beat' or OPERATION == 'members' then
  -- All members with the time at which their lease ends; those long gone are forgotten.
  local all, listed = call('HGETALL', MEMBERS), {}
  for index = 1, #all, 2 do
    local ends = tonumber(string.match(all[index + 1], '^(%d+)|'))
    if all[index] ~= '' and ends and NOW - ends > (OPTIONS.forget or 3600000) then
      call('HDEL', MEMBERS, all[index])
    elseif all[index] ~= '' then
      listed[#listed + 1] = all[index]
      listed[#listed + 1] = all[index + 1]
    end
  end
  return {head(), tail(), {call('HGET', LOG, 'unknown') or '', listed}}
end

if OPERATION == 'leave' then
  return call('HDEL', MEMBERS, ARGV[4])
end

-- Operands: lives of value servers, "run_id:master_replid". Answers the position at which the fleet first saw the newest
-- of them in this epoch.
if OPERATION == 'lives' then
  local since = 0
  for index = 4, #ARGV do
    -- The epoch is bound to this server's own life, and is trusted to outlive it where failovers are.
    if not TRUST and ARGV[index] ~= run .. ':' .. replid then
      call('HSETNX', LOG, 'life ' .. ARGV[index], format('%.0f', POSITION))
      since = math.max(since, tonumber(call('HGET', LOG, 'life ' .. ARGV[index])) or POSITION)
    end
  end
  return {head(), since}
end

-- ---------------------------------------------------------------- append

-- Operands: the drafts, then blob, ttl ms and fence ms for each of KEYS[5…]. options.keys: all drafts are key records,
-- and were checked by their sender. options.covered: the writes leave nothing of the drafts' keys to be carried.
if OPERATION ~= 'append' then
  return redis.error_reply('TIERCAST no such operation')
end

-- Decode a draft only to judge and stamp it; answers nil and a complaint where it is none.
local function judged(draft)
  local fine, said = pcall(cjson.decode, draft)
  if not fine then
    -- Text may hold half a surrogate pair, which cjson refuses; such a record is stamped as "everything".
    local plain = string.gsub(string.gsub(draft, '\\\\', '/'), '\\u[dD][89a-fA-F]%x%x', '?')
    fine, said = pcall(cjson.decode, plain)
    if fine and type(said) == 'table' then
      said.vague = true
    end
  end
  if not fine or type(said) ~= 'table' or string.byte(draft, 1) ~= 123 or string.byte(draft, -1) ~= 125 then
    return nil, 'it must be a JSON object, without white space around it'
  elseif said.v ~= nil or said.epoch ~= nil or said.position ~= nil or said.carried ~= nil then
    return nil, 'v, epoch, position and carried are given by the log'
  end
  local kind, region, targets = said.kind, said.region, said.targets
  if type(kind) ~= 'string' or not find(' key tag scope pattern region all ', ' ' .. kind .. ' ', 1, true) then
    return nil, 'kind must be key, tag, scope, pattern, region or all'
  elseif type(region) ~= 'string' or type(targets) ~= 'table' then
    return nil, 'region must be a string and targets a list of strings'
  elseif region == '' and (kind == 'key' or kind == 'pattern') then
    return nil, 'keys and patterns belong to a region'
  elseif said.soft ~= nil and type(said.soft) ~= 'boolean' then
    return nil, 'soft must be true or false'
  end
  for index, target in pairs(targets) do
    if type(index) ~= 'number' or type(target) ~= 'string' then
      return nil, 'targets must be a list of strings'
    end
  end
  if (next(targets) == nil) ~= (kind == 'all') then
    return nil, 'every kind has targets, but for "all", which has none'
  end
  return said
end

-- The oldest stamps beyond the bound become the floor, below which every entry counts as dead.
local function bound_stamps()
  local bound, held = OPTIONS.stamps or 100000, call('ZCARD', STAMPS) - 1
  if held > bound then
    local surplus = held - math.floor(bound * 7 / 8)
    local last = call('ZRANGE', STAMPS, surplus - 1, surplus - 1, 'WITHSCORES')
    FLOOR = math.max(FLOOR, tonumber(last[2]))
    call('ZREMRANGEBYRANK', STAMPS, 0, surplus - 1)
    call('HSET', LOG, 'floor', format('%.0f', FLOOR))
  end
end

-- Move the stamps that a record sets: members of a sorted set, in which the target stands last, so that nothing in it
-- can be confused.
local function stamp(said)
  local region = string.gsub(said.region, '[%%|]', {['%'] = '%25', ['|'] = '%7C'})
  local vague = said.vague or said.kind == 'all'
  local name = table.concat({vague and 'all' or said.kind, said.soft and 'soft' or 'hard', region, ''}, '|')
  for _, target in ipairs(vague and {''} or said.targets) do
    call('ZADD', STAMPS, format('%.0f', POSITION), name .. target)
  end
  bound_stamps()
end

local count = #ARGV - 3 - 3 * (#KEYS - 4)
local stamping, covered = {}, OPTIONS.covered == true or not OPTIONS.keys
for index = 1, OPTIONS.keys and 0 or count do
  local said, complaint = judged(ARGV[3 + index])
  if not said then
    return redis.error_reply('TIERCAST draft ' .. index .. ' is refused: ' .. complaint)
  elseif said.kind ~= 'key' then
    stamping[index] = said
  elseif not OPTIONS.covered then
    covered = false
  end
end

local before, places, lines, index = POSITION, {}, {}, 1
while index <= count do
  local place, rest = '{"v":1,"epoch":"' .. EPOCH .. format('","position":%.0f,', POSITION + 1), sub(ARGV[3 + index], 2)
  local added = pcall_('XADD', STREAM, format('%.0f-0', POSITION + 1), 'record', place .. rest, 'time', NOW)
  if type(added) ~= 'table' then
    POSITION = POSITION + 1
    places[index], lines[index] = place, rest
    if stamping[index] then
      stamp(stamping[index])
    end
    index = index + 1
  elseif index == 1 and POSITION > 0 and find(added.err, 'equal or smaller', 1, true) then
    -- Somebody added to the stream past the head: it is not the log any more.
    begin('planted')
    before = POSITION
  else
    return added
  end
end

-- The L3 half of a record, with born = POSITION; the places in the envelope's header, and the rules, are those of
-- tiers/redis_scripts.py: nothing replaces what was born later, and a key outlives the end of its fence, so that
-- nothing older comes back after it. ttl in ms; 0: for as long as Redis likes (a tombstone: until the fence ends).
-- options.until: when, in ms of this server's clock, the caller gives up. What the network delivers later takes its
-- place in the log, which harms nobody; its values are older than what others may have set since, so it only buries.
local writing = #KEYS > 4 and SINCE_EPOCH == EPOCH
local late, done = OPTIONS['until'] and NOW > OPTIONS['until'], writing
if writing then
  local born = format('%08x%08x', math.floor(POSITION / 4294967296), POSITION % 4294967296)
  for number = 5, #KEYS do
    local key, operand = KEYS[number], 4 + count + (number - 5) * 3
    local blob, ttl, fence = ARGV[operand], tonumber(ARGV[operand + 1]), tonumber(ARGV[operand + 2])
    if late and sub(blob, 4, 4) ~= '2' then
      blob, ttl, done = 'TC12' .. string.rep('0', 64), 0, false
    end
    local ends, newer = fence > 0 and NOW + fence or 0, false
    local found = pcall_('GETRANGE', key, 0, 67)
    if type(found) == 'string' and #found == 68 and sub(found, 1, 2) == 'TC' then
      ends = math.max(ends, tonumber(sub(found, 21, 36), 16) or 0)
      newer = sub(found, 5, 20) > born
    end
    if ends <= NOW then
      ends = 0
    end
    local until_ = format('%08x%08x', math.floor(ends / 4294967296), ends % 4294967296)
    if newer then
      local left = call('PTTL', key)
      call('SETRANGE', key, 20, until_)
      if left >= 0 and left < ends - NOW then
        call('PEXPIRE', key, format('%.0f', ends - NOW))
      end
    else
      local value = sub(blob, 1, 4) .. born .. until_ .. sub(blob, 37)
      if ttl > 0 or sub(blob, 4, 4) == '2' then
        call('SET', key, value, 'PX', math.max(ttl, ends - NOW, 1))
      else
        call('SET', key, value)
      end
    end
  end
end
if covered and CARRIED == before and (writing or not OPTIONS.covered) then
  CARRIED = POSITION
end
call('HSET', LOG, 'position', POSITION, 'carried', CARRIED)

-- One message for the batch, a record a line, or several where it grows long. Each says how far L3 is clean, so that
-- nobody has to ask.
local clean = format('"carried":%.0f,', CARRIED)
for number = 1, count do
  lines[number] = places[number] .. clean .. lines[number]
end
local first, size = 1, 0
for number = 1, count do
  if size > 0 and size + #lines[number] >= 524288 then
    call(publish, sub(LOG, 1, -4) .. 'bus', table.concat(lines, '\n', first, number - 1))
    first, size = number, 0
  end
  size = size + #lines[number] + 1
end
call(publish, sub(LOG, 1, -4) .. 'bus', first == count and lines[count] or table.concat(lines, '\n', first, count))

if math.floor(POSITION / 64) > math.floor(before / 64) then
  trim()
  bound_stamps()
end
-- Where nothing but these drafts came after the caller's position, it knows them already: 1.
return {head(), SINCE_EPOCH == EPOCH and SINCE == before and 1 or tail(), done and 1 or 0}
