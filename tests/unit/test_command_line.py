"""What all commands have in common."""

import click
import pytest
from click.testing import CliRunner

from trio_stt import settings_reference
from trio_stt.__main__ import INTERRUPTED, main


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_ends_every_command_as_shells_expect_and_without_a_traceback(monkeypatch, stopped):
    @click.command()
    def long_work():
        raise stopped

    monkeypatch.setattr(settings_reference, "settings_command", long_work)
    result = CliRunner().invoke(main, ["settings"])
    assert (result.exit_code, result.output) == (INTERRUPTED, "Aborted!\n")


def test_an_unknown_command_is_a_usage_error():
    result = CliRunner().invoke(main, ["caption"])
    assert result.exit_code == 2
    assert "No such command" in result.output
