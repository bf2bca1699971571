import json
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_stt.dialects.events import StreamRequest
from trio_stt.dialects.request import (
    Limits,
    Refusal,
    language_unavailable,
    parse_changes,
    parse_request,
    primary_subtag,
)

LIMITS = Limits(max_duration_s=3600, idle_timeout_s=60)
WHO = "client_id=anna&session_id=call-1"


def ask(query: str) -> StreamRequest | Refusal:
    return parse_request(parse_qsl(query, keep_blank_values=True), LIMITS)


def granted(query: str) -> StreamRequest:
    request = ask(query)
    assert isinstance(request, StreamRequest)
    return request


def refused(query: str) -> Refusal:
    refusal = ask(query)
    assert isinstance(refusal, Refusal)
    return refusal


def test_who_and_where_are_enough():
    request = granted(WHO)
    assert request == StreamRequest("anna", "call-1", max_duration_s=3600, idle_timeout_s=60)
    assert (request.encoding, request.sample_rate, request.framing) == ("pcm_s16le", 16000, "auto")


def test_every_parameter_is_read():
    request = granted(
        "client_id=a.b_c:d@e-f&session_id=9&transcript=false&translation=true&language=pt-BR&read_language=de"
        "&target=fr,zh-Hant&speak=true&encoding=mulaw&sample_rate=8000&framing=seq&partials=false&words=true"
        "&history=200&presence=true&max_duration=1.5&idle_timeout=2&resume=false"
    )
    assert request == StreamRequest(
        client_id="a.b_c:d@e-f",
        session_id="9",
        transcript=False,
        translation=True,
        language="pt-BR",
        read_language="de",
        target=("fr", "zh-Hant"),
        encoding="mulaw",
        sample_rate=8000,
        framing="seq",
        partials=False,
        words=True,
        history=200,
        presence=True,
        max_duration_s=1.5,
        idle_timeout_s=2,
    )


def test_translations_are_read_in_the_spoken_language_unless_another_is_named():
    assert granted(WHO + "&language=de").read_language == "de"
    assert granted(WHO + "&language=de&read_language=fr").read_language == "fr"


def test_parameters_that_nobody_knows_are_ignored_however_often_they_come():
    assert granted(WHO + "&colour=red&colour=blue") == granted(WHO)


def test_more_time_than_the_server_grants_is_cut_to_what_it_grants():
    request = granted(WHO + "&max_duration=999999999&idle_timeout=61")
    assert (request.max_duration_s, request.idle_timeout_s) == (3600, 60)


def test_a_listener_is_never_idle():
    assert granted(WHO + "&speak=false&idle_timeout=5").idle_timeout_s is None


def test_a_target_asked_for_twice_is_one_target():
    assert granted(WHO + "&target=de,fr,de").target == ("de", "fr")
    assert granted(WHO + "&target=").target == ()


@pytest.mark.parametrize("missing", ["client_id", "session_id"])
def test_a_missing_name_is_named(missing: str):
    refusal = refused("&".join(part for part in WHO.split("&") if not part.startswith(missing)))
    assert (refusal.status, refusal.code, refusal.parameter) == (400, "missing_parameter", missing)
    assert missing in refusal.message


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("client_id", ""),
        ("client_id", "a b"),
        ("client_id", "a/b"),
        ("client_id", "é"),
        ("client_id", "a\0"),
        ("client_id", "a\n"),
        ("client_id", "a" * 129),
        ("session_id", "<script>"),
        ("transcript", "True"),
        ("translation", "1"),
        ("speak", ""),
        ("partials", "yes"),
        ("words", "none"),
        ("presence", "2"),
        ("resume", "maybe"),
        ("language", ""),
        ("language", "e"),
        ("language", "en_US"),
        ("language", "../../etc"),
        ("language", "en-" + "x" * 9),
        ("language", "en" + "-abcdefgh" * 4),
        ("read_language", "english language"),
        ("target", "de,,fr"),
        ("target", "de,fr,"),
        ("target", ",".join(["de"] * 51)),
        ("encoding", "opus"),
        ("encoding", "PCM_S16LE"),
        ("sample_rate", "7999"),
        ("sample_rate", "48001"),
        ("sample_rate", "16000.0"),
        ("sample_rate", "16_000"),
        ("sample_rate", " 16000"),
        ("sample_rate", "-16000"),
        ("sample_rate", "٨٠٠٠"),
        ("sample_rate", "9" * 5000),
        ("framing", "ogg"),
        ("history", "201"),
        ("history", "-1"),
        ("max_duration", "0"),
        ("max_duration", "-1"),
        ("max_duration", "nan"),
        ("max_duration", "inf"),
        ("max_duration", "1e3"),
        ("idle_timeout", "0.0"),
        ("idle_timeout", "soon"),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_was_expected(parameter: str, value: str):
    others = "&".join(part for part in WHO.split("&") if not part.startswith(parameter))
    refusal = refused(f"{others}&{parameter}={quote(value)}")
    assert (refusal.status, refusal.code, refusal.parameter) == (400, "bad_value", parameter)
    assert refusal.message.startswith(f"{parameter} is ")
    assert "; expected " in refusal.message
    assert len(refusal.message) < 250
    assert refusal.message.isprintable()


def test_a_parameter_given_twice_is_refused_even_with_the_same_value():
    refusal = refused(WHO + "&client_id=anna")
    assert (refusal.code, refusal.parameter) == ("duplicate_parameter", "client_id")


@pytest.mark.parametrize("rest", ["", "&framing=auto", "&framing=raw", "&framing=seq&speak=false"])
def test_only_a_speaker_who_sends_positions_can_resume(rest):
    refusal = refused(f"{WHO}&resume=true{rest}")
    assert (refusal.status, refusal.code, refusal.parameter) == (400, "bad_value", "resume")


def test_a_refusal_has_one_body_shape_for_http_and_for_an_open_stream():
    refusal = language_unavailable("pt-BR")
    assert refusal.body()["error"].keys() == {"code", "message", "parameter"}
    assert refusal.failure().extra == {"parameter": "language"}
    assert Refusal(503, "full", "no place").body()["error"]["parameter"] is None
    assert Refusal(503, "full", "no place").failure().extra == {}


def test_a_language_without_a_model_is_answered_with_the_command_that_installs_it():
    refusal = language_unavailable("pt-BR")
    assert refusal.code == "language_unavailable"
    assert "trio-stt models install pt" in refusal.message


def test_the_model_is_chosen_by_the_primary_subtag():
    assert [primary_subtag(tag) for tag in ("en", "EN-gb", "zh-Hant-TW")] == ["en", "en", "zh"]


@given(st.lists(st.tuples(st.text(max_size=20) | st.sampled_from(["client_id", "target", "history"]), st.text())))
def test_any_query_is_answered_with_a_request_or_a_body_that_can_be_sent(query: list[tuple[str, str]]):
    answer = parse_request(query, LIMITS)
    if isinstance(answer, Refusal):
        json.dumps(answer.body(), ensure_ascii=False).encode()


# ── configure ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_changes_are_checked_and_only_what_was_named_changes():
    changes = parse_changes({"type": "configure", "language": "de", "partials": False, "colour": "red"})
    assert changes == {"language": "de", "partials": False}
    assert parse_changes({"type": "configure"}) == {}


def test_targets_may_be_one_string_or_a_list():
    assert (
        parse_changes({"target": "de,pt-BR"})
        == parse_changes({"target": ["de", "pt-BR"]})
        == {"target": ("de", "pt-BR")}
    )
    assert parse_changes({"target": []}) == {"target": ()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("partials", "true"),
        ("partials", 1),
        ("transcript", None),
        ("translation", "yes"),
        ("language", 5),
        ("language", ["en"]),
        ("language", "\ud800"),
        ("language", "auto"),
        ("read_language", {}),
        ("target", 7),
        ("target", [1]),
        ("target", ["de", ""]),
        ("target", "de " * 10_000),
        ("speak", True),
        ("sample_rate", 8000),
        ("client_id", "other"),
    ],
)
def test_one_wrong_change_refuses_them_all_by_name(name: str, value: object):
    refusal = parse_changes({"transcript": False, name: value})
    assert isinstance(refusal, Refusal)
    assert refusal.failure().extra == {"parameter": name}
    assert refusal.code == "bad_value"
    refusal.message.encode()
    assert len(refusal.message) < 250
