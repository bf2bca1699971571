"""The server that `transcribe` starts in its own process when none is named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import attrs

from trio_stt.operations.logs import configure_logs
from trio_stt.serve import START_ERRORS, serve_in_background
from trio_stt.settings import Settings
from trio_stt.transcribe.job import ServerStartError

LONGEST_STREAM_S = 604_800
"""A week, the most that the setting allows: a file is as long as it is."""


@asynccontextmanager
async def start_own_server(settings: Settings, language: str) -> AsyncIterator[str]:
    """A server for `language` on a free port of this machine, while the block runs; yields its ``ws://`` address.

    Only its warnings are logged, to standard error. Raises `ServerStartError`; what the block raises comes out in an
    exception group. May be cancelled, except while the model loads.
    """
    configure_logs("WARNING", "console")
    start_errors: BaseExceptionGroup[BaseException] | None = None
    try:
        async with serve_in_background(_own_settings(settings, language)) as url:
            yield url.replace("http", "ws", 1)
    except* START_ERRORS as errors:
        start_errors = errors
    if start_errors is not None:
        raise ServerStartError("\n".join(str(leaf) for leaf in _leaves(start_errors)))


def _own_settings(settings: Settings, language: str) -> Settings:
    own_model = language == settings.language
    return attrs.evolve(  # type: ignore[misc]  # an attrs class made by environ-config, which has no types
        settings,
        server_host="127.0.0.1",
        server_port=0,
        language=language,
        vosk_model_path=settings.vosk_model_path if own_model else None,
        max_stream_duration=LONGEST_STREAM_S,
        auth_mode="off",
        trusted_proxies=(),
        allowed_origins=(),
        tenant_max_streams=0,
        tenant_max_sessions=0,
        tenant_audio_s_a_day=0,
        tenant_quotas_file=None,
        auth_key_files=(),
    )


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
