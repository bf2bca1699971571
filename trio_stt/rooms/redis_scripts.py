"""What Redis does about rooms in one atomic step each, in Lua; and the keys.

Of all rooms together there are: *wanted* (a hash: room → what was asked, as JSON), *until* (a sorted set: until when,
in ms by Redis' own clock, the room's lease holds, or when it was given back), *holders* (a hash: room → agent, a space,
the claim's token); of the agents *alive* (a sorted set: until when) and *agents* (a hash: what each says of itself).
One hash tag, so one slot in a cluster, because orphans are found by looking at all rooms.
"""

from __future__ import annotations

from typing import Final

from trio_stt.rooms.leases import CANCELLED_S
from trio_stt.sessions.redis_scripts import PREFIX

ROOM_KEYS: Final = tuple(f"{PREFIX}:{{agents}}:{part}" for part in ("wanted", "until", "holders"))
AGENT_KEYS: Final = tuple(f"{PREFIX}:{{agents}}:{part}" for part in ("alive", "agents"))

_KEPT_MS: Final = 2 * round(CANCELLED_S * 1000)
"""All is forgotten when no agent was heard of for so long."""

_NOW: Final = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for key = 1, #KEYS do redis.call('PEXPIRE', KEYS[key], {_KEPT_MS}) end
"""

_ROOMS: Final = (
    _NOW
    + """
local wanted, until_, holders = KEYS[1], KEYS[2], KEYS[3]
local function expires(room) return tonumber(redis.call('ZSCORE', until_, room) or '0') end
local function held(room)
  local holder = redis.call('HGET', holders, room)
  if holder and expires(room) > now and redis.call('HEXISTS', wanted, room) == 1 then return holder end
  return nil
end
local function hold(room, holder, request, ttl)
  redis.call('HSET', wanted, room, request)
  redis.call('HSET', holders, room, holder)
  redis.call('ZADD', until_, now + ttl, room)
end
local function forget(room)
  redis.call('HDEL', wanted, room)
  redis.call('HDEL', holders, room)
  redis.call('ZREM', until_, room)
end
"""
)

CLAIM: Final = (
    _ROOMS
    + """
local room, holder, request, ttl, orphaned = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local other = held(room)
if other then return {'held', other, redis.call('HGET', wanted, room)} end
if orphaned then
  request = redis.call('HGET', wanted, room)
  if not request then return {'unwanted', '', ''} end
end
hold(room, holder, request, ttl)
return {'taken', holder, request}
"""
)

RENEW: Final = (
    _ROOMS
    + """
local ttl, answers = tonumber(ARGV[1]), {}
for i = 2, #ARGV, 3 do
  local room, mine, request = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local holder = redis.call('HGET', holders, room)
  local other = held(room)
  if other and other ~= mine then
    table.insert(answers, 'taken')
  elseif holder and redis.call('HEXISTS', wanted, room) == 0 then
    forget(room)
    table.insert(answers, 'cancelled')
  else
    hold(room, mine, request, ttl)
    table.insert(answers, 'held')
  end
end
return answers
"""
)
"""Arguments after the first: room, holder and request of each."""

RELEASE: Final = (
    _ROOMS
    + """
local room, mine, is_wanted = ARGV[1], ARGV[2], ARGV[3] == '1'
if redis.call('HGET', holders, room) ~= mine then return 'other' end
if is_wanted and redis.call('HEXISTS', wanted, room) == 1 then
  redis.call('HDEL', holders, room)
  redis.call('ZADD', until_, now, room)
else
  forget(room)
end
return 'released'
"""
)

ORPHANS: Final = (
    _ROOMS
    + """
local found = {}
for _, room in ipairs(redis.call('ZRANGEBYSCORE', until_, '-inf', now, 'LIMIT', 0, ARGV[1])) do
  if redis.call('HEXISTS', wanted, room) == 0 or expires(room) < now - tonumber(ARGV[2]) then
    forget(room)
  else
    table.insert(found, room)
  end
end
return found
"""
)

CANCEL: Final = (
    _ROOMS
    + f"""
local room = ARGV[1]
local was_wanted = redis.call('HDEL', wanted, room)
if redis.call('HEXISTS', holders, room) == 1 then
  redis.call('ZADD', until_, now + {round(CANCELLED_S * 1000)}, room)
else
  forget(room)
end
return was_wanted
"""
)

LOOK: Final = (
    _ROOMS
    + """
local holder = held(ARGV[1])
if not holder then return {} end
local agent = string.match(holder, '^%S+')
return {agent, redis.call('HGET', wanted, ARGV[1]), redis.call('HGET', KEYS[4], agent) or ''}
"""
)
"""Keys: those of the rooms, then *agents*."""

ANNOUNCE: Final = (
    _NOW
    + """
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], gone)
  redis.call('HDEL', KEYS[2], gone)
end
return 'announced'
"""
)

WITHDRAW: Final = """
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 'withdrawn'
"""

AGENTS: Final = (
    _NOW
    + """
local found = {}
for _, agent in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  local record = redis.call('HGET', KEYS[2], agent)
  if record then table.insert(found, record) end
end
return found
"""
)

ALL: Final = (CLAIM, RENEW, RELEASE, ORPHANS, CANCEL, LOOK, ANNOUNCE, WITHDRAW, AGENTS)
