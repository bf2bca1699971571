"""One speaker: what its work fails with is told, and it can be closed all the same."""

import asyncio

import pytest
import structlog

from agent.caption_sender import CaptionSender
from agent.room_post import RoomPost
from agent.settings import agent_settings
from agent.speaker import Speaker
from agent.voice import Voice
from tests.agent.test_main import LIVEKIT
from trio_stt.settings import load


def speaker(tmp_path) -> Speaker:
    log = structlog.get_logger()
    settings = agent_settings(load(LIVEKIT, tmp_path / "none"))
    return Speaker(settings, "call", "ann", "ann", "en", RoomPost(log), lambda language: [], lambda: None, log)


@pytest.mark.parametrize("kind", [Voice, CaptionSender])
def test_a_fault_that_nobody_foresaw_is_raised_and_leaves_nothing_running(kind, tmp_path, monkeypatch):
    async def fail(self) -> None:
        raise ZeroDivisionError

    async def check() -> None:
        monkeypatch.setattr(kind, "run", fail)
        one = speaker(tmp_path)
        one.check()
        await asyncio.sleep(0)
        with pytest.raises(ZeroDivisionError):
            one.check()
        await one.close(within_s=0.1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(check())


def test_a_speaker_that_was_closed_has_no_fault(tmp_path):
    async def check() -> None:
        one = speaker(tmp_path)
        await asyncio.sleep(0)
        await one.close(within_s=1)
        one.check()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(check())
