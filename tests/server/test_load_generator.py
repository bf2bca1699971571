"""The load generator against small servers of all manners."""

import multiprocessing
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio_websocket import ConnectionClosed, serve_websocket

from trio_stt.bench.generator.event_loop import generate
from trio_stt.bench.generator.load import FramedSession, Load, LoadResult, Talker
from trio_stt.bench.generator.process import GeneratorError, Generators
from trio_stt.bench.generator.websocket_bytes import BINARY, TEXT, masked_frame

FRAME_S = 0.02
LIBRARY = [
    FramedSession(tuple(masked_frame(BINARY, bytes([place, n])) for n in range(10)), FRAME_S, 16000)
    for place in range(2)
]


async def answer_each(request, heard=None):
    """One reply a message, and a goodbye after `bye`."""
    socket = await request.accept()
    try:
        while (message := await socket.get_message()) != "bye":
            if heard is not None:
                heard.append(message)
            await socket.send_message(f"{len(message)}")
        await socket.send_message("last words")
        await socket.aclose()
    except ConnectionClosed:
        pass


@asynccontextmanager
async def serving(handler):
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, handler, "127.0.0.1", 0, None))
        yield server.port
        nursery.cancel_scope.cancel()


def load_for(port: int, *talkers: Talker, seconds: float, last_words_s: float = 2.0) -> Load:
    bye = masked_frame(TEXT, b"bye")
    return Load("127.0.0.1", port, "/{number}", bye, talkers, time.monotonic() + 0.05, seconds, last_words_s)


async def generated(load: Load) -> LoadResult:
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(generate, LIBRARY, load)


async def test_each_session_is_a_connection_that_says_all_and_hears_all():
    heard = []
    async with serving(partial(answer_each, heard=heard)) as port:
        result = await generated(load_for(port, Talker((0, 1)), seconds=0.5))
    first, second, cut = result.connections
    assert [each.session for each in result.connections] == [0, 1, 0]
    assert first.said_all
    assert second.said_all
    assert not cut.said_all
    for each in result.connections:
        assert each.accepted
        assert each.ended_at is not None
        assert [text for _, text in each.replies] == [b"2"] * len(each.sent_at) + [b"last words"]
    assert heard[:20] == [bytes([place, n]) for place in (0, 1) for n in range(10)]


async def test_frames_are_sent_in_real_time_and_not_before_they_are_spoken():
    async with serving(answer_each) as port:
        load = load_for(port, Talker((0,), skipped_frames=4), Talker((0,), pace=10.0), seconds=0.19)
        result = await generated(load)
    real_time = next(each for each in result.connections if each.talker == 0)
    assert real_time.first_frame == 4
    assert len(real_time.sent_at) == 6
    for number, sent_at in enumerate(real_time.sent_at):
        assert sent_at >= load.begins_at + (number + 1) * FRAME_S
    assert sum(len(each.sent_at) for each in result.connections if each.talker == 1) > 60
    assert len(result.late_s) == sum(len(each.sent_at) for each in result.connections)
    assert min(result.late_s) >= 0


async def test_who_is_refused_comes_back_when_told_to():
    asked = []

    async def refuse(request):
        asked.append(request.path)
        await request.reject(503, extra_headers=[(b"Retry-After", b"1")], body=b"full")

    async with serving(refuse) as port:
        result = await generated(load_for(port, Talker((0,)), seconds=1.7))
    assert {(each.status, each.refused) for each in result.connections} == {(503, True)}
    assert result.connections[1].began_at - result.connections[0].answered_at >= 1
    assert len(set(asked)) == len(result.connections)


async def test_a_connection_that_the_server_ends_is_dropped_and_its_talker_comes_back():
    async def hang_up(request):
        socket = await request.accept()
        await socket.get_message()
        await socket.aclose(1011)

    async with serving(hang_up) as port:
        result = await generated(load_for(port, Talker((0,)), seconds=1.7))
    assert len(result.connections) > 1
    assert all(each.dropped for each in result.connections)


async def test_where_nobody_listens_there_is_no_answer():
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    result = await generated(load_for(port, Talker((0,)), seconds=0.2))
    assert [(each.status, each.dropped) for each in result.connections] == [(0, False)]


async def test_who_vanishes_says_no_goodbye():
    async with serving(answer_each) as port:
        result = await generated(load_for(port, Talker((0,), vanishes=(True, False)), seconds=0.5))
    gone, stayed = result.connections[:2]
    assert gone.said_all
    assert gone.goodbye_at is None
    assert not gone.dropped
    assert stayed.goodbye_at is not None


async def test_the_deaf_one_reads_nothing_and_its_frames_are_read_all_the_same():
    heard = []
    async with serving(partial(answer_each, heard=heard)) as port:
        talker = Talker((0,), reads=False, beside=masked_frame(TEXT, b"beside"))
        result = await generated(load_for(port, talker, seconds=0.15, last_words_s=0.2))
    assert result.connections[0].accepted
    assert result.connections[0].replies == []
    assert heard.count("beside") == len(result.connections[0].sent_at)


@pytest.mark.parametrize("count", [1, 2])
async def test_processes_share_the_talkers_between_them(count):
    async with serving(answer_each) as port:
        with Generators(LIBRARY, count) as generators:
            talkers = [Talker((0,), starts_s=0.01 * number) for number in range(5)]
            load = load_for(port, *talkers, seconds=0.2)
            with trio.fail_after(20):
                result = await trio.to_thread.run_sync(generators.generate, load)
    assert {each.talker for each in result.connections} == set(range(5))
    assert {each.session for each in result.connections} == {0}
    assert result.messages > 0
    assert result.cpu_s > 0


@pytest.mark.parametrize("busy", [False, True], ids=["between loads", "within one"])
async def test_a_generator_that_is_killed_is_an_error_and_waited_for_no_longer(busy):
    async with serving(answer_each) as port:
        with Generators(LIBRARY, 1) as generators:
            load = load_for(port, Talker((0,)), seconds=30.0)
            (pid,) = generators.pids
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(end_after, 0.3 if busy else 0.0, pid)
                    await trio.sleep(0.0 if busy else 0.3)
                    with pytest.raises(GeneratorError, match="ended by itself"):
                        await trio.to_thread.run_sync(generators.generate, load, abandon_on_cancel=True)


async def end_after(seconds, pid):
    await trio.sleep(seconds)
    os.kill(pid, signal.SIGKILL)


async def test_a_generator_that_cannot_start_is_an_error_and_waited_for_no_longer():
    long = FramedSession((bytes(2**20),), 1.0, 16000)
    multiprocessing.set_executable("/bin/false")
    try:
        with trio.fail_after(20), pytest.raises(GeneratorError, match="ended by itself"):
            await trio.to_thread.run_sync(Generators([long]).__enter__, abandon_on_cancel=True)
    finally:
        multiprocessing.set_executable(sys.executable)
