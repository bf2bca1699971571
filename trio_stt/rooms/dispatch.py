"""The server's part in sending agents into rooms: which agents there are, which one is asked, what its answer means."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx
import structlog
import trio
from attrs import frozen

from trio_stt.dialects.request import Refusal
from trio_stt.rooms.leases import AgentRecord, AwayError, Held, read_record
from trio_stt.rooms.passes import ALL_ROOMS, Passes
from trio_stt.rooms.redis_leases import RedisLeases
from trio_stt.rooms.wanted import WantedRoom

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line of ours says what came of each request

LOOK_WITHIN_S: Final = 1.0
"""The longest that an agent of AGENT_URL may take to say which rooms it has."""

ASK_WITHIN_S: Final = 3.0
"""The longest that an agent may take to answer; it does not wait until it is in the room."""

MOST_ASKED: Final = 4
"""Agents that are asked for one room before its caller is told to come again."""

RETRY_AFTER_S: Final = 5
"""By then an agent that died is known to be gone, and its rooms are taken over."""

_NO_AGENTS = Refusal(404, "no_agents", "this server knows no LiveKit agents: neither AGENT_URL nor REDIS_URL is set")
_NONE_FREE = Refusal(
    503, "no_agent_free", f"no agent has room now; try again in {RETRY_AFTER_S} s", retry_after_s=RETRY_AFTER_S
)
_NONE_THERE = Refusal(
    503, "no_agent_there", f"no agent answers now; try again in {RETRY_AFTER_S} s", retry_after_s=RETRY_AFTER_S
)
_UNKNOWN = Refusal(
    503,
    "agents_unknown",
    f"which agents there are cannot be found out now; try again in {RETRY_AFTER_S} s",
    retry_after_s=RETRY_AFTER_S,
)


@frozen
class Placed:
    """What became of a request: `result` is ``created``, ``exists``, ``cancelled`` or ``absent``; None: no agent."""

    result: str
    agent: str | None


@frozen
class _Candidate:
    record: AgentRecord
    rooms: frozenset[str] = frozenset()  # those that it has, where it was asked


class Dispatcher:
    """Sends agents into rooms. Call `run` in a nursery; until then nobody is asked."""

    def __init__(self, urls: Sequence[str], leases: RedisLeases | None, passes: Passes) -> None:
        """`urls`: of agents that are always asked; `leases`: where agents say that they are there."""
        self._urls = urls
        self._leases = leases
        self._passes = passes
        self._client: httpx.AsyncClient | None = None
        self._log = structlog.get_logger()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps what it needs, until cancelled; returns at once if there can be no agents."""
        if self._knows_none:
            task_status.started()
            return
        client = httpx.AsyncClient(trust_env=False, timeout=ASK_WITHIN_S)
        async with client as self._client, trio.open_nursery() as nursery:
            if self._leases is not None:
                nursery.start_soon(self._leases.run)
            task_status.started()
            await trio.sleep_forever()

    @property
    def _knows_none(self) -> bool:
        return not self._urls and self._leases is None

    async def join(self, wanted: WantedRoom) -> Placed | Refusal:
        """Has an agent go into a room, if none is there. 404 without agents; 409: one is there, but for something else;
        503: none can now. May be cancelled; then one may go in or not.
        """
        if self._knows_none:
            return _NO_AGENTS
        held, candidates, known = None, await self._asked_candidates(), True
        try:
            if self._leases is not None:
                held = (await self._leases.look(wanted.room_name)).held
                candidates = _united(candidates, await self._leases.agents())
        except AwayError:
            known = False
        if held is not None:
            return placed_in(held, wanted)
        answer = await self._ask_in_turn(
            _in_order(candidates, wanted.room_name, by_load=self._leases is not None), wanted
        )
        if answer is None:
            answer = _NONE_FREE if candidates else _NONE_THERE if known else _UNKNOWN
        self._say("room_joined", wanted.room_name, answer)
        return answer

    async def cancel(self, room_name: str) -> Placed | Refusal:
        """Has whichever agent is there leave a room. 404 without agents; 503: it cannot be found out.

        May be cancelled.
        """
        if self._knows_none:
            return _NO_AGENTS
        was_wanted, urls, known, holder = False, list(self._urls), True, None
        try:
            if self._leases is not None:
                seen = await self._leases.look(room_name)
                was_wanted = await self._leases.cancel(room_name)
                holder = seen.held.agent_id if seen.held else None
                urls = [seen.url, *(url for url in urls if url != seen.url)] if seen.url else urls
        except AwayError:
            known = False
        left, answered = await self._close_in(urls, room_name)
        if left is None and was_wanted:
            # An agent that could not be told finds out when it renews its lease.
            left = holder or ""
        answer: Placed | Refusal
        if left is not None:
            answer = Placed("cancelled", left or None)
        elif known and answered:
            answer = Placed("absent", None)
        else:
            answer = _NONE_THERE if known else _UNKNOWN
        self._say("room_cancelled", room_name, answer)
        return answer

    def _say(self, event: str, room_name: str, answer: Placed | Refusal) -> None:
        result = answer.code if isinstance(answer, Refusal) else answer.result
        agent = None if isinstance(answer, Refusal) else answer.agent
        if event == "room_joined":
            self._log.info("room_joined", room_name=room_name, result=result, agent=agent)
        else:
            self._log.info("room_cancelled", room_name=room_name, result=result, agent=agent)

    async def _asked_candidates(self) -> list[_Candidate]:
        """The agents of AGENT_URL that answer."""
        found: list[_Candidate] = []

        async def ask(url: str) -> None:
            answer = await self._send("GET", f"{url}/rooms", ALL_ROOMS, within_s=LOOK_WITHIN_S)
            record = None if answer is None else read_record(answer.content)
            if answer is None or record is None:
                return
            # It may call itself by a name that means nothing here.
            record = AgentRecord(
                record.agent_id, url, record.rooms, record.most_rooms, record.tracks, record.most_tracks
            )
            found.append(_Candidate(record, frozenset(map(str, answer.json().get("room_names", ())))))

        async with trio.open_nursery() as nursery:
            for url in self._urls:
                nursery.start_soon(ask, url)
        return found

    async def _ask_in_turn(self, candidates: Sequence[_Candidate], wanted: WantedRoom) -> Placed | Refusal | None:
        """The first answer that is one; None: all that were asked are full, ending, or gone."""
        for candidate in candidates[:MOST_ASKED]:
            answer = await self._send("POST", f"{candidate.record.url}/rooms", wanted.room_name, body=wanted.as_json())
            fields = _fields_of(answer)
            if answer is None or fields is None:
                continue
            if answer.status_code in (200, 201) and fields.get("result") in ("created", "exists"):
                return Placed(str(fields["result"]), str(fields.get("agent")))
            if answer.status_code == 409:
                return other_settings(str(fields.get("agent")))
            self._log.warning("agent_refused", agent=candidate.record.agent_id, status=answer.status_code)
        return None

    async def _close_in(self, urls: Sequence[str], room_name: str) -> tuple[str | None, bool]:
        """The agent that left the room, None if none did; and whether all that were asked answered."""
        all_answered = True
        for url in urls:
            answer = await self._send("DELETE", f"{url}/rooms/{path_of(room_name)}", room_name)
            fields = _fields_of(answer)
            if answer is None or fields is None or answer.status_code != 200:
                all_answered = False
            elif fields.get("result") == "cancelled":
                return str(fields.get("agent")), True
        return None, all_answered

    async def _send(
        self, method: str, url: str, room_name: str, *, body: str | None = None, within_s: float = ASK_WITHIN_S
    ) -> httpx.Response | None:
        if self._client is None:
            return None
        headers = self._passes.headers(room_name)
        if body is not None:
            headers["Content-Type"] = "application/json"
        began = time.monotonic()
        try:
            with trio.fail_after(within_s):
                return await self._client.request(method, url, headers=headers, content=body)
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError) as error:
            seconds = round(time.monotonic() - began, 3)
            self._log.warning(
                "agent_unreachable", url=url.partition("/rooms")[0], error=type(error).__name__, seconds=seconds
            )
            return None


def placed_in(held: Held, wanted: WantedRoom) -> Placed | Refusal:
    """The answer to who wants an agent in a room that has one."""
    return Placed("exists", held.agent_id) if held.wanted == wanted else other_settings(held.agent_id)


def other_settings(agent: str) -> Refusal:
    """409: an agent is in the room already, with other languages or another `speak`."""
    message = f"agent {agent} is in this room with other languages or another speak; cancel that first"
    return Refusal(409, "other_settings", message)


def path_of(room_name: str) -> str:
    """A room's name as one part of a path: also where it has slashes, or is two dots."""
    return quote(room_name, safe="").replace(".", "%2E")


def _fields_of(answer: httpx.Response | None) -> dict[str, Any] | None:
    try:
        fields = None if answer is None else answer.json()
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _united(asked: Sequence[_Candidate], announced: Sequence[AgentRecord]) -> list[_Candidate]:
    known = {each.record.agent_id for each in asked}
    return [*asked, *(_Candidate(record) for record in announced if record.agent_id not in known)]


def _in_order(candidates: Sequence[_Candidate], room_name: str, *, by_load: bool) -> list[_Candidate]:
    """Whom to ask first: who is in the room; then the least loaded, or where agents know nothing of each other, by a
    number made of room and address, which is the same for all servers.
    """

    def lot(candidate: _Candidate) -> str:
        return hashlib.sha256(f"{candidate.record.url} {room_name}".encode(errors="surrogatepass")).hexdigest()

    def place(candidate: _Candidate) -> tuple[bool, bool, float, str]:
        load = candidate.record.load
        return room_name not in candidate.rooms, load >= 1, load if by_load else 0, lot(candidate)

    return sorted(candidates, key=place)
