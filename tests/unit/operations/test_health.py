import pytest

from trio_stt.operations import health
from trio_stt.operations.health import Health, PartHealth, Status, memory_health, worst


def test_the_worst_part_counts():
    parts = Health()
    assert worst(parts.parts()) is Status.HEALTHY
    for name, status in (("a", Status.DEGRADED), ("b", Status.UNHEALTHY), ("c", Status.HEALTHY)):
        parts.add(name, lambda status=status: PartHealth(status, "as planted"))
    assert worst(parts.parts()) is Status.UNHEALTHY


@pytest.mark.parametrize(
    ("used", "status"),
    [(0.75, Status.HEALTHY), (0.76, Status.DEGRADED), (0.91, Status.UNHEALTHY), (None, Status.HEALTHY)],
)
def test_memory_has_two_thresholds(monkeypatch, used, status):
    monkeypatch.setattr(health, "_memory_used", lambda: used)
    assert memory_health(0.75, 0.90).status is status


def test_a_container_s_file_cache_is_not_memory_in_use(monkeypatch, tmp_path):
    for name, text in (
        ("memory.max", "1000"),
        ("memory.current", "950"),
        ("memory.stat", "anon 200\nfile 750\ninactive_file 700\nactive_file 50\n"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(health, "CONTAINER", tmp_path)
    assert memory_health(0.75, 0.90).figures == {"used": 0.25}
