"""docs/data-flow.md and docs/operations.md say what the code does: names, values, fields."""

import ast
import importlib
import importlib.util
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import hypercorn.trio.tcp_server
import pytest
from hypercorn.config import Config

import trio_stt
from trio_stt.app import Instance
from trio_stt.settings import Settings

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "trio_stt"
DATA_FLOW = (ROOT / "docs" / "data-flow.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

SERVER_PARTS = ("app", "serve", "gateway", "sessions", "recognition", "audio", "dialects", "operations", "translation")
LOG_METHODS = {name: name for name in ("debug", "info", "warning", "error")} | {"exception": "error"}
BOUND_FIELDS = {"instance", "stream_id", "session_id", "client_id"}
MODEL_FIELDS = {"engine", "model", "graph"}

KIB = 1024


def rows_below(page: str, first_cells: str) -> list[list[str]]:
    """The cells of the rows of each table whose head begins with `first_cells`."""
    tables = re.findall(rf"^\| {re.escape(first_cells)}.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert tables, first_cells
    return [
        [cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.strip().splitlines()
    ]


def code_of(cell: str) -> list[str]:
    """What a cell has in backticks."""
    return re.findall(r"`([^`]+)`", cell)


# ── data-flow.md ─────────────────────────────────────────────────────────────────────────────────────────────────


def server_modules() -> Iterator[str]:
    for module in pkgutil.walk_packages(trio_stt.__path__, "trio_stt."):
        if module.name.split(".")[1] in SERVER_PARTS:
            yield module.name


@pytest.fixture(scope="module")
def known() -> dict[str, set[float]]:
    """Constants of the server's modules, defaults of settings, and the bounds of libraries; each by its name."""
    found: dict[str, set[float]] = {
        "MAX_RECV": {hypercorn.trio.tcp_server.MAX_RECV},
        "h11_max_incomplete_size": {Config.h11_max_incomplete_size},
    }
    for name in server_modules():
        for constant, value in vars(importlib.import_module(name)).items():
            if constant.isupper() and isinstance(value, int | float):
                found.setdefault(constant, set()).add(value)
    for field in attrs.fields(Settings):
        found.setdefault(field.name.upper(), set()).add(field.default)
    return found


STATED = re.findall(r"`(\w+) = ([\d.]+)( KiB)?`", DATA_FLOW)


@pytest.mark.parametrize(("name", "value", "unit"), STATED, ids=[name for name, _, _ in STATED])
def test_a_stated_value_is_the_one_in_the_code(known, name, value, unit):
    assert known[name] == {float(value) * (KIB if unit else 1)}


def test_every_constant_and_setting_that_is_named_exists_and_has_its_value_once(known):
    stated = [name for name, _, _ in STATED]
    assert len(stated) == len(set(stated))
    named = set(re.findall(r"`(_?[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)`", DATA_FLOW)) - {"SO_SNDBUF"}
    assert named <= known.keys()
    assert named - {"DECODE_CORES"} <= set(stated)  # which has no default that is the same everywhere


def source_of(path: str) -> str:
    if path.split("/")[0] == "hypercorn":
        spec = importlib.util.find_spec(path.removesuffix(".py").replace("/", "."))
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).read_text(encoding="utf-8")
    return (PACKAGE / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("row", rows_below(DATA_FLOW, "Name | Where | Bound"), ids=lambda row: row[0])
def test_a_queue_is_where_the_table_says_and_has_all_its_cells(row):
    assert len(row) == 5
    where = code_of(row[1])
    assert where or row[1] == "kernel"
    for path, symbol in zip(where[::2], where[1::2], strict=True):
        assert symbol in source_of(path)


def test_every_file_that_the_data_flow_names_exists():
    for path in set(re.findall(r"`([\w/]+\.py)", DATA_FLOW)) - {"tests/unit/test_docs.py"}:
        assert source_of(path)


def test_every_collection_that_a_server_part_keeps_in_memory_is_in_a_table():
    """Deques and channels: whoever adds one states its bound."""
    listed = {(code[0], code[1]) for row in rows_below(DATA_FLOW, "Name | Where | Bound") if (code := code_of(row[1]))}
    found = set()
    for part in SERVER_PARTS:
        for file in [PACKAGE / f"{part}.py", *(PACKAGE / part).glob("*.py")]:
            if file.exists():
                text = file.read_text(encoding="utf-8")
                path = str(file.relative_to(PACKAGE))
                found |= {(path, name) for name in re.findall(r"self\.(\w+)[^=\n]*= (?:deque|OrderedDict)\(", text)}
    per_piece = {("audio/speech_gate.py", "_pieces")}  # what `_kept` consists of
    assert found - per_piece <= listed
    assert found


# ── operations.md ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def instance() -> Instance:
    """A server that has not been started."""
    return Instance(Settings(vad_engine="energy", auth_mode="off"))


async def test_the_metrics_are_those_of_the_table(instance):
    shown = {code_of(row[0])[0]: row[1] for row in rows_below(OPERATIONS, "Name | Type")}
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in instance.metrics.registry.collect()
    }
    assert shown == exposed


async def test_every_metric_that_a_page_mentions_exists(instance):
    exposed = instance.metrics.expose().decode()
    for page in (ROOT / "docs").glob("*.md"):
        for name in re.findall(r"\b(?:trio_stt|process)_\w+", page.read_text(encoding="utf-8")):
            assert f"# TYPE {name} " in exposed or re.search(rf"^{name}\b", exposed, re.MULTILINE), (page.name, name)


async def test_the_shown_answers_have_the_fields_of_the_real_ones(instance):
    client = instance.app.test_client()
    for route, kind in (("/health", "health"), ("/ws/stats", "statistics")):
        (block,) = re.findall(rf"^```json {kind}\n(.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
        shown, real = json.loads(block), await (await client.get(route)).get_json()
        assert shown.keys() == real.keys()
        for name, value in real.items():
            if isinstance(value, dict) and name != "details":
                assert shown[name].keys() == value.keys()


async def test_every_part_of_the_health_has_its_row_with_its_figures(instance):
    rows = {code_of(row[0])[0]: row for row in rows_below(OPERATIONS, "Part | Figures")}
    parts = instance.health.parts()
    assert rows.keys() == parts.keys()
    for name, part in parts.items():
        assert part.figures.keys() <= set(code_of(rows[name][1]))


def test_every_field_of_the_statistics_has_its_row():
    (block,) = re.findall(r"^```json statistics\n(.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert [code_of(row[0])[0] for row in rows_below(OPERATIONS, "Field | Meaning")] == list(json.loads(block))


def logged_events() -> Iterator[tuple[str, str, set[str]]]:
    """Event, level and fields of every structured log call in the server."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOG_METHODS:
                owner = ast.unparse(node.func.value)
                if owner.endswith("log") and node.args:
                    event = ast.literal_eval(node.args[0])
                    fields = {
                        name
                        for keyword in node.keywords
                        for name in ([keyword.arg] if keyword.arg else MODEL_FIELDS)
                        if name != "exc_info"
                    }
                    if node.func.attr == "exception" or any(keyword.arg == "exc_info" for keyword in node.keywords):
                        fields.add("exception")
                    yield event, LOG_METHODS[node.func.attr], fields


def test_every_log_line_has_its_row_with_its_level_and_fields():
    rows = {code_of(row[0])[0]: (row[1], set(code_of(row[2]))) for row in rows_below(OPERATIONS, "`event` | Level")}
    logged = list(logged_events())
    assert {event for event, _, _ in logged} == rows.keys()
    for event, level, fields in logged:
        shown_level, shown_fields = rows[event]
        assert level == shown_level, event
        assert fields <= shown_fields <= fields | BOUND_FIELDS, event


def test_the_shown_log_lines_have_the_fields_of_their_rows():
    rows = {code_of(row[0])[0]: set(code_of(row[2])) for row in rows_below(OPERATIONS, "`event` | Level")}
    (block,) = re.findall(r"^```json log\n(.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
    for line in map(json.loads, block.splitlines()):
        fields = line.keys() - {"event", "level", "timestamp"}
        assert fields == rows.get(line["event"], {"logger"}), line["event"]
