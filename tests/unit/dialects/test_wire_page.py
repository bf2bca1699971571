"""The examples of docs/wire.md: each is what the server reads or writes."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import attrs
import pytest

from trio_stt.client.native_client import PATH, NativeClient
from trio_stt.dialects.events import Audio, ClientEvent, Misuse, ServerEvent, StreamRequest
from trio_stt.dialects.native import NativeDialect, encode
from trio_stt.dialects.request import Limits, Refusal, language_unavailable, parse_request

PAGE = (Path(__file__).parents[3] / "docs" / "wire.md").read_text(encoding="utf-8")
LIMITS = Limits(3600, 60)
WHO = "client_id=anna&session_id=call-1"


def examples(kind: str) -> list[str]:
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return block.splitlines()


def table_below(first_cells: str) -> list[list[str]]:
    (rows,) = re.findall(rf"^\| {re.escape(first_cells)}.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


@pytest.mark.parametrize("url", examples("url"))
def test_a_shown_url_opens_a_stream(url: str):
    parts = urlsplit(url)
    assert parts.path == PATH
    assert isinstance(parse_request(parse_qsl(parts.query), LIMITS), StreamRequest)


def test_every_parameter_has_its_row_with_its_default():
    shown = {row[0].strip("`"): row[1] for row in table_below("Parameter | Values (default)")}
    fields = {field.name.removesuffix("_s"): field for field in attrs.fields(StreamRequest) if field.name != "tenant"}
    assert shown.keys() == fields.keys()
    for name, field in fields.items():
        if isinstance(field.default, bool):
            assert f"(`{str(field.default).lower()}`)" in shown[name]
        elif isinstance(field.default, str | int):
            assert re.search(rf"\(`?{field.default}`?\)", shown[name]), name


def test_the_shown_refusals_are_what_the_server_answers():
    queries = [WHO + "&sample_rate=96000", "client_id=anna", WHO + "&framing=raw&framing=seq", WHO + "&resume=true"]
    answers = [parse_request(parse_qsl(query), LIMITS) for query in queries] + [language_unavailable("vi")]
    assert [json.loads(line) for line in examples("json refusal")] == [
        answer.body() for answer in answers if isinstance(answer, Refusal)
    ]


@pytest.mark.parametrize("framing", ["raw", "auto", "seq"])
def test_the_shown_frames_are_read_as_the_table_says(framing: str):
    dialect = NativeDialect(StreamRequest("anna", "call-1", framing=framing))
    rows = [row for row in table_below("`framing` | Frame (hex)") if row[0] == f"`{framing}`"]
    assert len(rows) == 2
    for _, frame, position, count, chunk_id in rows:
        (event,) = dialect.receive(bytes.fromhex(frame.strip("`")))
        assert isinstance(event, Audio)
        assert (event.position, event.count) == (int(position), int(count))
        assert event.chunk_id == (int(chunk_id) if chunk_id else None)


def events_of(text: str) -> list[ClientEvent]:
    return NativeDialect(StreamRequest("anna", "call-1")).receive(text)


@pytest.mark.parametrize("text", examples("json client"))
def test_a_shown_client_message_is_understood(text: str):
    resumes = json.loads(text)["type"] == "resume"
    (event,) = NativeDialect(StreamRequest("anna", "call-1", resume=resumes)).receive(text)
    assert not isinstance(event, Misuse)


def test_every_message_that_a_client_may_send_is_shown():
    (refused,) = events_of('{"type":"?"}')
    assert isinstance(refused, Misuse)
    known = set(refused.failure.message.partition("none of ")[2].split(", "))
    assert {json.loads(text)["type"] for text in examples("json client")} == known


@pytest.mark.parametrize("text", examples("json server"))
def test_a_shown_server_message_is_what_the_server_writes(text: str):
    message = json.loads(text)
    event = NativeClient(StreamRequest("anna", "call-1")).receive(text)
    assert event is not None
    timestamp = message["timestamp"]
    assert json.loads(encode(event, timestamp=timestamp, words=True)) == message


def test_every_message_of_the_server_is_shown_with_all_its_fields():
    rows = table_below("`type` | Fields")
    fields = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows}
    shown: dict[str, set[str]] = {kind: set() for kind in fields}
    for text in examples("json server"):
        message = json.loads(text)
        shown[message["type"]] |= message.keys() - {"type", "timestamp"}
    for kind in fields.keys() - {"presence"}:
        assert shown[kind] == fields[kind], kind
    assert shown["presence"] == {"event", "client_id"}
    assert len(fields) == len(ServerEvent.__args__)
