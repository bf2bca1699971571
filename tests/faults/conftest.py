"""Servers under attack log nothing but what is critical."""

import pytest


@pytest.fixture(autouse=True)
def quiet(quiet_logs):
    """Whatever these tests provoke is not printed."""
