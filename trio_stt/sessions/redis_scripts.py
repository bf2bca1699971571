"""What Redis does in one atomic step each, in Lua; and the keys and channels of a call.

Of each call there are: *entries* (a stream: what is stored), *segments* (a sorted set: names of what is stored, oldest
first, as long as there are entries), *streams* (a hash: each stream's epoch and last `end_sample`, and the last `order`
given), *present* (a hash: client → when that expires, its order, its connection, what is told of it). A message on the
call's channel is a stamp (an entry's id, a joined client's order, or ``-``), a space, and the bytes of
`trio_stt.sessions.bus_messages`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from attrs import frozen

from trio_stt.sessions.bus import Call

PREFIX: Final = "trio-stt"
"""What every key and channel begins with."""


@frozen
class Keys:
    """The names of one call's keys and its channel."""

    entries: str
    segments: str
    streams: str
    present: str
    channel: str

    @classmethod
    def of(cls, call: Call) -> Keys:
        """The names for `call`: different for different calls, whatever stands in their ids; one slot in a cluster."""
        # All but letters, digits and _.-~ are escaped, so that the colon and the braces are ours alone.
        name = f"{PREFIX}:{{{quote(call.tenant, safe='')}:{quote(call.session_id, safe='')}}}"
        return cls(*(f"{name}:{part}" for part in ("entries", "segments", "streams", "present", "channel")))


_STORE: Final = """
local function store(name)
  local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', kept, '*', 'm', payload)
  local number = redis.call('HINCRBY', KEYS[3], 'stored', 1)
  redis.call('ZADD', KEYS[2], number, name)
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -kept - 1)
  for key = 1, 3 do redis.call('PEXPIRE', KEYS[key], ttl) end
  redis.call('PUBLISH', channel, id .. ' ' .. payload)
end
"""

PUBLISH_FINAL: Final = (
    """
local channel, payload, ttl, kept = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local stream, epoch, segment, start_sample, end_sample = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
"""
    + _STORE
    + """
local known = redis.call('HMGET', KEYS[3], 'e:' .. stream, 'z:' .. stream)
if tonumber(epoch) < tonumber(known[1] or '0') then return {'fenced', 0} end
if redis.call('ZSCORE', KEYS[2], segment) then return {'stored', 0} end
if tonumber(start_sample) < tonumber(known[2] or '0') then return {'overlaps', tonumber(known[2])} end
redis.call('HSET', KEYS[3], 'e:' .. stream, epoch, 'z:' .. stream, end_sample)
store(segment)
return {'stored', 0}
"""
)
"""Keys: entries, segments, streams. Answers an outcome, and where the last stored final ended if it overlaps."""

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
"""Keys: entries, segments, streams. `name`: the segment and the language."""

RAISE_EPOCH: Final = """
local stream, least, step, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local epoch = math.max(least, tonumber(redis.call('HGET', KEYS[1], 'e:' .. stream) or '0')) + step
redis.call('HSET', KEYS[1], 'e:' .. stream, epoch)
redis.call('PEXPIRE', KEYS[1], ttl)
return epoch
"""
"""Key: streams. Makes a stream's epoch `step` more than the higher of its own and `least`; answers it."""

_NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""

ANNOUNCE: Final = (
    _NOW
    + """
local channel, client, connection, payload, presence_ttl, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- The clock, so that an order is later than those which a Redis that lost everything had given.
local order = math.max(now, tonumber(redis.call('HGET', KEYS[2], 'order') or '0') + 1)
local stamp = string.format('%.0f', order)
redis.call('HSET', KEYS[2], 'order', stamp)
redis.call('PEXPIRE', KEYS[2], ttl)
local expires = string.format('%.0f', now + tonumber(presence_ttl))
redis.call('HSET', KEYS[1], client, expires .. ' ' .. stamp .. ' ' .. connection .. ' ' .. payload)
redis.call('PEXPIRE', KEYS[1], presence_ttl)
redis.call('PUBLISH', channel, stamp .. ' ' .. payload)
return order
"""
)
"""Keys: present, streams. Answers the order given to that connection."""

REFRESH: Final = (
    _NOW
    + """
local channel, payload, presence_ttl, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local all = redis.call('HGETALL', KEYS[1])
local orders = {}
for i = 1, #all, 2 do
  local expires, order = string.match(all[i + 1], '^(%d+) (%d+) ')
  if tonumber(expires) < now then redis.call('HDEL', KEYS[1], all[i]) else orders[all[i]] = tonumber(order) end
end
local expires = string.format('%.0f', now + tonumber(presence_ttl))
for i = 5, #ARGV, 3 do
  local client, order = ARGV[i], string.match(ARGV[i + 1], '^(%d+) ')
  if (orders[client] or 0) <= tonumber(order) then
    redis.call('HSET', KEYS[1], client, expires .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
  end
end
redis.call('PEXPIRE', KEYS[1], presence_ttl)
for key = 2, 4 do redis.call('PEXPIRE', KEYS[key], ttl) end
redis.call('PUBLISH', channel, '- ' .. payload)
return 'stored'
"""
)
"""Keys: present, entries, segments, streams. Arguments end with client, "order connection", payload of each."""

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
    + """
local found = {}
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  local expires, order, payload = string.match(value, '^(%d+) (%d+) %S+ (.*)$')
  if tonumber(expires) >= now then table.insert(found, order .. ' ' .. payload) end
end
return found
"""
)
"""Key: present. Answers the order and payload of each client that is there."""

ALL: Final = (PUBLISH_FINAL, PUBLISH_TRANSLATION, RAISE_EPOCH, ANNOUNCE, REFRESH, DEPART, PRESENT)
