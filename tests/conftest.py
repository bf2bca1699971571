"""What several kinds of tests share."""

import logging
import os
from pathlib import Path

import hypothesis
import pytest
import structlog

ROOT = Path(__file__).resolve().parents[1]

# How fast a machine is, and who else uses it, is no fault of what is tested.
hypothesis.settings.register_profile("any machine", suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session")
def model() -> Path:
    """The installed English model: TRIO_STT_TEST_MODEL, else the repository's own."""
    path = Path(os.environ.get("TRIO_STT_TEST_MODEL", ROOT / "models/vosk-model"))
    assert path.is_dir(), f"no model in {path}: run ./scripts/setup.sh"
    return path


@pytest.fixture
def quiet_logs():
    """Only critical lines are logged."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


@pytest.fixture
def logs():
    """Undoes `configure_logs`."""
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, level = before
    root.setLevel(level)
    structlog.reset_defaults()
