import json

import structlog

from trio_stt.operations.logs import configure_logs


class FullDisk:
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_line_is_one_json_object_with_its_fields(logs, capsys):
    configure_logs("INFO", "json")
    structlog.get_logger().bind(stream_id="s1").info("stream_opened", speak=True)
    structlog.get_logger().debug("unseen")
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        json.loads(line).items()
        >= {"stream_id": "s1", "event": "stream_opened", "level": "info", "speak": True}.items()
    )


def test_a_full_disk_stops_nothing(logs, monkeypatch):
    monkeypatch.setattr("sys.stderr", FullDisk())
    configure_logs("INFO", "json")
    structlog.get_logger().info("stream_opened")


def test_tracebacks_for_people_hold_no_values_of_variables(logs, capsys):
    configure_logs("INFO", "console")
    secret = "what was said"
    try:
        raise ValueError(len(secret))
    except ValueError:
        structlog.get_logger().exception("stream_failed")
    written = capsys.readouterr().err
    assert "ValueError" in written
    assert "secret = 'what" not in written
    assert "│" not in written
