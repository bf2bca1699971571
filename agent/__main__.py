"""The program: ``python -m agent``. Settings come from the environment and ``.env``, as the server's do."""

from __future__ import annotations

import asyncio
import sys

from agent.process_end import end_process
from agent.sdk_logs import tame_sdk_logs
from agent.serving import AddressError, serve_until_signal
from agent.settings import AgentSettings, agent_settings
from trio_stt.gateway.keys import AccessError
from trio_stt.operations.logs import close_logs, configure_logs
from trio_stt.rooms.wanted import WantedRoom
from trio_stt.settings import Settings, SettingsError, load

NOT_INSTALLED = "The LiveKit agent's packages are not installed: ./scripts/setup.sh --agent"


def main() -> int:
    """Runs the agent until SIGTERM or SIGINT; returns the exit code."""
    try:
        settings = load()
        agent = agent_settings(settings)
    except SettingsError as error:
        return _refuse(error)
    try:
        import livekit.rtc  # noqa: F401
    except ImportError:
        return _refuse(NOT_INSTALLED)
    configure_logs(settings.log_level, settings.log_format)
    tame_sdk_logs(settings.log_level)
    try:
        asyncio.run(_serve(settings, agent))
    except (AddressError, AccessError) as error:
        return _refuse(error)
    finally:
        close_logs()
    return 0


async def _serve(settings: Settings, agent: AgentSettings) -> None:
    from agent.room_agent import RoomAgent
    from agent.tts.requests import speak_on_request
    from agent.tts.speech import open_speech

    async with open_speech(settings) as speech:

        def make(wanted: WantedRoom) -> RoomAgent:
            return RoomAgent(agent, wanted, speech)

        await serve_until_signal(settings, make, speak_on_request(speech))


def _refuse(why: object) -> int:
    print(why, file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    end_process(main())
