"""What each instance is told, and which settings make no fleet."""

import os
import stat
import threading
from pathlib import Path

import pytest

from trio_stt.fleet import environment, programs
from trio_stt.fleet.environment import check, check_size, instance_environment, share_of_cores
from trio_stt.fleet.folder import FleetError, Folder
from trio_stt.settings import Settings, load

KEY = "k1:" + "x" * 32


def settings(**values: str) -> Settings:
    return load({"AUTH_KEYS": KEY, "DECODE_CORES": "8", **values}, Path("no such file"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "fleet")
    folder.make()
    folder.cores.write_text("2.6667\n")
    return folder


def test_an_instance_listens_on_loopback_beside_the_others_and_trusts_nginx_alone(folder: Folder) -> None:
    told = settings(SERVER_HOST="0.0.0.0", SERVER_PORT="80", VOSK_SERVER_PORT="2700", FLEET_BASE_PORT="9001")
    third = instance_environment(told, folder, 3)
    as_it_reads_them = load({"AUTH_KEYS": KEY, **third}, Path("no such file"))
    assert (as_it_reads_them.server_host, as_it_reads_them.server_port) == ("127.0.0.1", 9003)
    assert as_it_reads_them.vosk_server_port == 0
    assert [str(each) for each in as_it_reads_them.trusted_proxies] == ["127.0.0.1/32"]
    assert as_it_reads_them.instance.endswith("-3")


def test_its_cores_are_its_share_and_follow_the_file(folder: Folder) -> None:
    variables = instance_environment(settings(), folder, 1)
    assert variables["DECODE_CORES"] == "2"
    assert variables["DECODE_CORES_FILE"] == str(folder.cores)
    fixed = instance_environment(settings(), folder, 1, of=3)
    assert fixed["DECODE_CORES"] == "2"
    assert "DECODE_CORES_FILE" not in fixed
    assert instance_environment(settings(), folder, 1, of=20)["DECODE_CORES"] == "1"
    assert share_of_cores(2, 3) == pytest.approx(0.667, abs=0.001)


def test_without_a_fleet_there_is_no_share(folder: Folder) -> None:
    folder.cores.unlink()
    with pytest.raises(FleetError, match="--of"):
        instance_environment(settings(), folder, 1)


def test_a_drain_is_cut_short_where_the_process_manager_has_no_patience(folder: Folder) -> None:
    assert "DRAIN_TIMEOUT_S" not in instance_environment(settings(), folder, 1, of=2)
    assert instance_environment(settings(), folder, 1, of=2, drain_at_most_s=4)["DRAIN_TIMEOUT_S"] == "4"
    quick = settings(DRAIN_TIMEOUT_S="1.5")
    assert instance_environment(quick, folder, 1, of=2, drain_at_most_s=4)["DRAIN_TIMEOUT_S"] == "1.5"


def test_without_tokens_an_instance_trusts_nobody_and_counts_no_addresses(folder: Folder) -> None:
    variables = instance_environment(settings(AUTH_MODE="off"), folder, 1)
    inner = load({"AUTH_MODE": "off", **variables}, Path("no such file"))
    assert inner.trusted_proxies == ()
    assert inner.max_connections_per_address == 0


def test_all_share_one_secret_that_is_its_users_alone(folder: Folder) -> None:
    first, second = (instance_environment(settings(), folder, number)["RESUME_SECRET"] for number in (1, 2))
    assert first == second
    assert len(first) >= 43
    assert stat.S_IMODE(folder.resume_secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700
    given = "x" * 40
    assert instance_environment(settings(RESUME_SECRET=given), folder, 1)["RESUME_SECRET"] == given


def test_instances_that_start_at_once_agree_on_the_secret(folder: Folder) -> None:
    found: set[str] = set()
    pids = iter(range(1, 100))
    at_once = threading.Barrier(8)

    def ask() -> None:
        at_once.wait()
        found.add(folder.secret())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: next(pids))  # as if each were a process of its own
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 1
    assert [each.name for each in folder.root.glob("resume-secret*")] == ["resume-secret"]


def test_redis_is_the_one_that_is_set_or_the_fleets_own_or_none(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = settings(REDIS_URL="redis://10.0.0.1:6379")
    assert instance_environment(elsewhere, folder, 1)["REDIS_URL"] == "redis://10.0.0.1:6379"
    monkeypatch.setattr(environment, "find_redis", lambda: Path("redis-server"))
    own = instance_environment(settings(), folder, 1)["REDIS_URL"]
    assert load({"REDIS_URL": own}, Path("no such file")).redis_url == f"unix://{folder.redis_socket}"
    monkeypatch.setattr(environment, "find_redis", lambda: None)
    assert instance_environment(settings(), folder, 1)["REDIS_URL"] == ""


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"SERVER_PORT": "0"}, "SERVER_PORT"),
        ({"SERVER_PORT": "8002"}, "SERVER_PORT=8002 is also an instance's port"),
        ({"VOSK_SERVER_PORT": "8003"}, "VOSK_SERVER_PORT=8003"),
        ({"AGENT_PORT": "8001"}, "AGENT_PORT=8001"),
        ({"AUTH_KEYS": ""}, "AUTH_KEYS"),
        ({"AUTH_MODE": "off", "SERVER_HOST": "0.0.0.0"}, "SERVER_HOST=0.0.0.0"),
        ({"AUTH_MODE": "off", "TRUSTED_PROXIES": "10.0.0.1"}, "TRUSTED_PROXIES"),
    ],
)
def test_settings_that_make_no_fleet_are_named(values: dict[str, str], says: str) -> None:
    with pytest.raises(FleetError, match=says):
        check(settings(**values), 3)


def test_settings_that_make_one_are_taken() -> None:
    check(settings(), 3)
    check(settings(AUTH_MODE="off"), 3)


@pytest.mark.parametrize(("least", "most"), [(0, 1), (3, 2), (1, 65)])
def test_a_fleet_has_a_size(least: int, most: int) -> None:
    with pytest.raises(FleetError, match="1 to 64"):
        check_size(least, most)
    check_size(1, 64)


def test_a_folder_that_cannot_hold_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="too long"):
        Folder(tmp_path / ("x" * 100)).make()
    (tmp_path / "file").touch()
    with pytest.raises(FleetError, match="FLEET_DIR"):
        Folder(tmp_path / "file/fleet").make()


def test_clearing_leaves_logs_and_the_secret(folder: Folder) -> None:
    folder.secret()
    (folder.logs / "instance-1.log").touch()
    folder.goal.touch()
    folder.clear()
    assert sorted(each.name for each in folder.root.iterdir()) == ["logs", "resume-secret"]
    assert (folder.logs / "instance-1.log").exists()
    Folder(folder.root / "none").clear()


def test_missing_programs_are_named_with_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.shutil, "which", lambda name, path: None)
    with pytest.raises(FleetError, match=r"nginx is missing.*setup\.sh --fleet.*apt install nginx"):
        programs.find_nginx()
    assert programs.find_redis() is None
