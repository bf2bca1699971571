"""Whose tokens may send an agent into a room, and which tokens servers and agents show each other."""

import time

import pytest

from tests.livekit_tokens import API_KEY, API_SECRET, ROOM, room_token, webhook_token
from tests.tokens import KEYS, SECRET, token
from tests.unit.gateway.test_auth import BAD
from trio_stt.dialects.request import Refusal
from trio_stt.rooms.access import RoomAccess, RoomGrant
from trio_stt.rooms.livekit_tokens import LiveKitTokens
from trio_stt.rooms.passes import AUDIENCE, LIFE_S, Passes
from trio_stt.settings import Settings

SETTINGS = Settings(auth_keys=KEYS, livekit_api_key=API_KEY, livekit_api_secret=API_SECRET, auth_leeway_s=0)
ACCESS = RoomAccess.of(SETTINGS)
NOW = int(time.time())

BAD_LIVEKIT = {
    "another secret": room_token(key="another secret, of more than 32 bytes too"),
    "our secret": room_token(key=SECRET),
    "expired": room_token(exp=NOW - 61),
    "never expires": room_token(exp=None),
    "not yet valid": room_token(nbf=NOW + 18_000),
    "no sub": room_token(sub=None),
    "sub a number": room_token(sub=7),
    "another algorithm": room_token(algorithm="HS512"),
    "for an audience": room_token(aud="somebody"),
    "a critical header": room_token(header={"crit": ["exp"], "exp": 0}),
    "exp not a number": room_token(exp="soon"),
    "too long": room_token(metadata="x" * 10_000),
    "no signature": room_token().rpartition(".")[0] + ".",
}

FOR_ELSE = {
    "no administrator": room_token(video={"roomAdmin": False}),
    "an administrator, as a text": room_token(video={"roomAdmin": "true"}),
    "of no room": room_token(video={"room": None}),
    "of a list of rooms": room_token(video={"room": [ROOM]}),
    "no grants at all": room_token(video=False),
    "a client's of ours": token(sub="ann", agent=True),
    "a service's of ours, not for agents": token(),
    "an operator's of ours, not for agents": token(admin=True),
}


def grant(shown: str) -> RoomGrant | Refusal:
    return ACCESS.grant([f"Bearer {shown}"])


@pytest.mark.parametrize(
    "shown", [*BAD.values(), *BAD_LIVEKIT.values()], ids=[*BAD, *(f"livekit {n}" for n in BAD_LIVEKIT)]
)
def test_a_bad_token_is_401(shown):
    refused = grant(shown)
    assert isinstance(refused, Refusal)
    assert refused.status == 401


@pytest.mark.parametrize("shown", FOR_ELSE.values(), ids=FOR_ELSE)
def test_a_good_token_that_is_for_something_else_is_403(shown):
    refused = grant(shown)
    assert isinstance(refused, Refusal)
    assert refused.status == 403


@pytest.mark.parametrize("headers", [[], ["Basic x"], [f"Bearer {room_token()}", f"Bearer {room_token()}"]])
def test_none_or_two_tokens_are_401(headers):
    assert ACCESS.grant(headers).status == 401


def test_an_administrator_of_a_room_may_send_an_agent_there_and_nowhere_else():
    allowed = grant(room_token(exp=int(time.time()) - 30))  # clocks differ
    assert allowed == RoomGrant(frozenset({ROOM}))
    assert allowed.refusal(ROOM) is None
    assert allowed.refusal(f"{ROOM}2").status == 403


def test_our_own_token_is_for_the_rooms_named_as_its_sessions():
    assert grant(token(agent=True)) == RoomGrant(None)
    assert grant(token(agent=True)).refusal("any room") is None
    some = grant(token(agent=True, session=["a", "b"]))
    assert (some.refusal("b"), some.refusal("c").code) == (None, "wrong_room")
    assert grant(token(agent="yes")).status == 401


def test_without_a_livekit_key_its_tokens_are_nothing():
    access = RoomAccess.of(Settings(auth_keys=KEYS))
    assert access.grant([f"Bearer {room_token()}"]).status == 401


def test_a_webhook_is_believed_for_its_own_body_only():
    livekit = LiveKitTokens.of(SETTINGS)
    body = b'{"event": "room_started"}'
    assert livekit.webhook_refusal(webhook_token(body), body) is None
    for wrong in (
        webhook_token(body + b" "),
        webhook_token(body, sha256=None),
        webhook_token(body, sha256="é"),
        webhook_token(body, exp=NOW - 61),
        webhook_token(body, iss="other"),
        webhook_token(body, key=SECRET),
        room_token(),
        "",
    ):
        assert livekit.webhook_refusal(wrong, body).status == 401


def shown_by(passes: Passes, room: str) -> list[str]:
    return list(passes.headers(room).values())


def test_a_pass_is_for_one_room_and_half_a_minute():
    passes = Passes.of(SETTINGS)
    assert passes.refusal(shown_by(passes, "a"), "a") is None
    assert passes.refusal(shown_by(passes, "a"), "b").status == 401
    assert passes.refusal([], "a").status == 401
    late = Passes(SETTINGS.auth_keys, issuer="trio-stt", leeway_s=0, now=lambda: time.time() + LIFE_S + 1)
    assert late.refusal(shown_by(passes, "a"), "a").status == 401
    others = Passes.of(Settings(auth_keys=f"k1:{'x' * 40}"))
    assert passes.refusal(shown_by(others, "a"), "a").status == 401


def test_a_pass_is_no_access_token_and_an_access_token_no_pass():
    passes = Passes.of(SETTINGS)
    (header,) = shown_by(passes, "a")
    assert ACCESS.grant([header]).status == 401
    for access_token in (token(agent=True), token(agent=True, room="a"), token(aud="trio-stt", room="a"), room_token()):
        assert passes.refusal([f"Bearer {access_token}"], "a").status == 401
    assert passes.refusal([f"Bearer {token(aud=AUDIENCE, room='a', exp='never')}"], "a").status == 401
