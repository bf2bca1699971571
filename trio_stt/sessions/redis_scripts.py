"""What Redis does in one atomic step each, in Lua; and the keys and channels of a call.

Of each call there are: *entries* (a stream: what is stored), *segments* (a sorted set: names of what is stored, oldest
first, at least as many as there are entries), *streams* (a hash: each stream's epoch and last `end_sample`, and the
last `order` given), *used* (a sorted set: those streams, the one used longest ago first), *present* (a hash: client →
when that expires, its order, its connection, what is told of it). A message on the call's channel is a stamp (an
entry's id, a joined client's order, or ``-``), a space, and the bytes of `trio_stt.sessions.bus_messages`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from attrs import frozen

from trio_stt.sessions.bus import Call

PREFIX: Final = "trio-stt"
"""What every key and channel begins with."""

INSTANCES: Final = f"{PREFIX}:instances"
"""The one key that is of no call (a hash): what each instance told of itself, and when."""


@frozen
class Keys:
    """The names of one call's keys and its channel."""

    entries: str
    segments: str
    streams: str
    used: str
    present: str
    channel: str

    @classmethod
    def of(cls, call: Call) -> Keys:
        """The names for `call`: different for different calls, whatever stands in their ids; one slot in a cluster."""
        # All but letters, digits and _.-~ are escaped, so that the colon and the braces are ours alone.
        tenant, session = (quote(id, safe="", errors="surrogatepass") for id in (call.tenant, call.session_id))
        name = f"{PREFIX}:{{{tenant}:{session}}}"
        return cls(*(f"{name}:{part}" for part in ("entries", "segments", "streams", "used", "present", "channel")))


_STORE: Final = """
local function store(name)
  local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', kept, '*', 'm', payload)
  local number = redis.call('HINCRBY', KEYS[3], 'stored', 1)
  redis.call('ZADD', KEYS[2], number, name)
  -- Twice as many names, because Redis keeps up to a hundred entries more than it is told.
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -2 * kept - 1)
  for key = 1, 4 do redis.call('PEXPIRE', KEYS[key], ttl) end
  redis.call('PUBLISH', channel, id .. ' ' .. payload)
end
"""

_USE: Final = """
local function use(streams, used, kept_streams)
  redis.call('ZADD', used, redis.call('HINCRBY', streams, 'uses', 1), stream)
  local surplus = redis.call('ZCARD', used) - kept_streams
  if surplus > 0 then
    for _, old in ipairs(redis.call('ZRANGE', used, 0, surplus - 1)) do
      redis.call('HDEL', streams, 'e:' .. old, 'z:' .. old)
      redis.call('ZREM', used, old)
    end
  end
end
"""

PUBLISH_FINAL: Final = (
    """
local channel, payload, ttl, kept = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local stream, epoch, segment, start_sample, end_sample = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local kept_streams = tonumber(ARGV[10])
"""
    + _STORE
    + _USE
    + """
local known = redis.call('HMGET', KEYS[3], 'e:' .. stream, 'z:' .. stream)
if tonumber(epoch) < tonumber(known[1] or '0') then return {'fenced', 0} end
if redis.call('ZSCORE', KEYS[2], segment) then return {'stored', 0} end
if tonumber(start_sample) < tonumber(known[2] or '0') then return {'overlaps', tonumber(known[2])} end
redis.call('HSET', KEYS[3], 'e:' .. stream, epoch, 'z:' .. stream, end_sample)
use(KEYS[3], KEYS[4], kept_streams)
store(segment)
return {'stored', 0}
"""
)
"""Keys: entries, segments, streams, used. Answers an outcome, and where the last stored final ended if it overlaps."""

PUBLISH_TRANSLATION: Final = (
    """
local channel, payload, ttl, kept, name = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
"""
    + _STORE
    + """
if redis.call('ZSCORE', KEYS[2], name) then return 'already_stored' end
store(name)
return 'stored'
"""
)
"""Keys: entries, segments, streams, used. `name`: the segment and the language."""

RAISE_EPOCH: Final = (
    """
local stream, least, step, ttl, kept_streams = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
"""
    + _USE
    + """
local epoch = math.max(least, tonumber(redis.call('HGET', KEYS[1], 'e:' .. stream) or '0')) + step
redis.call('HSET', KEYS[1], 'e:' .. stream, epoch)
use(KEYS[1], KEYS[2], kept_streams)
for key = 1, 2 do redis.call('PEXPIRE', KEYS[key], ttl) end
return epoch
"""
)
"""Keys: streams, used. Makes a stream's epoch `step` more than the higher of its own and `least`; answers it."""

_NOW: Final = """
local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)
"""

_KNOWN: Final = """
local function read(value)
  local expires, order, connection, payload = string.match(value or '', '^(%d+) (%d+) (%S+) (.*)$')
  if expires and tonumber(expires) >= now then return tonumber(order), connection, payload end
  return nil
end
"""

ANNOUNCE: Final = (
    _NOW
    + _KNOWN
    + """
local channel, client, connection, payload, presence_ttl, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local age_us = tonumber(ARGV[7])
-- The clock, so that an order is later than those which a Redis that lost everything had given. Where it goes back,
-- a step of 1 µs does for who has just come, and changes nothing among those who say how long they have been here.
local clock = math.max(now_us, tonumber(redis.call('HGET', KEYS[2], 'order') or '0') + 1)
redis.call('HSET', KEYS[2], 'order', string.format('%.0f', clock))
for key = 2, 3 do redis.call('PEXPIRE', KEYS[key], ttl) end
local order = math.max(1, clock - age_us)
local stamp = string.format('%.0f', order)
local known_order, known_connection = read(redis.call('HGET', KEYS[1], client))
if known_connection == connection or (known_order or 0) < order then
  local expires = string.format('%.0f', now + tonumber(presence_ttl))
  redis.call('HSET', KEYS[1], client, expires .. ' ' .. stamp .. ' ' .. connection .. ' ' .. payload)
  redis.call('PEXPIRE', KEYS[1], presence_ttl)
end
redis.call('PUBLISH', channel, stamp .. ' ' .. payload)
return order
"""
)
"""Keys: present, streams, used. Answers the order given to that connection: the clock when it came, in µs."""

REFRESH: Final = (
    _NOW
    + _KNOWN
    + """
local channel, payload, presence_ttl, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local all = redis.call('HGETALL', KEYS[1])
local orders = {}
for i = 1, #all, 2 do
  orders[all[i]] = read(all[i + 1])
  if not orders[all[i]] then redis.call('HDEL', KEYS[1], all[i]) end
end
local expires = string.format('%.0f', now + tonumber(presence_ttl))
for i = 5, #ARGV, 3 do
  local client, order = ARGV[i], string.match(ARGV[i + 1], '^(%d+) ')
  if (orders[client] or 0) <= tonumber(order) then
    redis.call('HSET', KEYS[1], client, expires .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
  end
end
redis.call('PEXPIRE', KEYS[1], presence_ttl)
for key = 2, 5 do redis.call('PEXPIRE', KEYS[key], ttl) end
redis.call('PUBLISH', channel, '- ' .. payload)
return 'stored'
"""
)
"""Keys: present, entries, segments, streams, used. Arguments end with client, "order connection", payload of each."""

DEPART: Final = """
local channel, client, connection, payload = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('HGET', KEYS[1], client)
if known and string.match(known, '^%d+ %d+ (%S+) ') == connection then redis.call('HDEL', KEYS[1], client) end
redis.call('PUBLISH', channel, '- ' .. payload)
return 'stored'
"""
"""Key: present."""

PRESENT: Final = (
    _NOW
    + _KNOWN
    + """
local found = {}
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  local order, _, payload = read(value)
  if order then table.insert(found, string.format('%.0f', order) .. ' ' .. payload) end
end
return found
"""
)
"""Key: present. Answers the order and payload of each client that is there."""

MEET: Final = (
    _NOW
    + """
local name, payload, life = ARGV[1], ARGV[2], tonumber(ARGV[3])
redis.call('HSET', KEYS[1], name, string.format('%.0f', now) .. ' ' .. payload)
redis.call('PEXPIRE', KEYS[1], life)
local found = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local told, told_of = string.match(all[i + 1], '^(%d+) (.*)$')
  local age = told and now - tonumber(told)
  -- The clock may have gone back since.
  if age and math.abs(age) <= life then
    table.insert(found, string.format('%.0f', math.max(age, 0)) .. ' ' .. told_of)
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return found
"""
)
"""Key: instances. Answers the age in ms and the payload of each instance that was heard of within `life` ms."""

ALL: Final = (PUBLISH_FINAL, PUBLISH_TRANSLATION, RAISE_EPOCH, ANNOUNCE, REFRESH, DEPART, PRESENT, MEET)
