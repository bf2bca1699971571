import io
import json

import pytest
from rich.console import Console

from trio_stt.bench.figures import Figure, percentiles, report


def test_a_figure_keeps_its_promise_up_to_the_very_value():
    assert Figure("p95", 500, "ms", 500).kept is True
    assert Figure("p95", 500.1, "ms", 500).kept is False
    assert Figure("p95", 500, "ms").kept is None


def test_a_target_may_be_a_least_value():
    assert Figure("ratio", 4.0, "×", at_least=4).kept
    assert not Figure("ratio", 3.9, "×", at_least=4).kept
    assert Figure("ratio", 3.9, "×", at_least=4).target == "≥ 4 ×"


def test_percentiles_are_in_milliseconds():
    found = percentiles([n / 1000 for n in range(101)])
    assert (found.count, found.p50_ms, found.p95_ms, found.p99_ms, found.max_ms) == pytest.approx(
        (101, 50, 95, 99, 100)
    )


def test_the_report_is_printed_saved_and_says_whether_all_was_kept(tmp_path):
    text = io.StringIO()
    figures = [Figure("speed", 1.234, "×", 1.7), Figure("memory", 512.3, "MB", 450), Figure("start", 0.5, "s")]
    file = tmp_path / "results" / "server.json"
    kept = report(Console(file=text, width=100), "bench server", {"streams": 10}, figures, ["be quiet"], file)
    assert kept is False
    shown = text.getvalue()
    assert "1.23 ×" in shown
    assert "missed" in shown
    assert "Note: be quiet" in shown
    saved = json.loads(file.read_text())
    assert saved["benchmark"] == "bench server"
    assert saved["parameters"] == {"streams": 10}
    assert saved["figures"][1] == {
        "name": "memory",
        "value": 512.3,
        "unit": "MB",
        "at_most": 450,
        "at_least": None,
        "kept": False,
    }
    assert saved["machine"]["cores"] >= 1
