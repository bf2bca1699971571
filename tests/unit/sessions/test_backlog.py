import pytest
import trio

from trio_stt.dialects.events import Audio, Close, Flush, Ping
from trio_stt.sessions.backlog import MAX_EVENTS, AudioRun, Backlog


def audio(position: int, count: int) -> Audio:
    return Audio(bytes(2 * count), position, count)


@pytest.fixture
def backlog() -> Backlog:
    return Backlog(max_ahead_samples=1000, max_run_samples=400)


async def test_audio_frames_come_out_together_up_to_a_bound(backlog):
    frames = [audio(100 * n, 100) for n in range(6)]
    for frame in frames:
        await backlog.put(frame)
    assert (await backlog.take()).frames == tuple(frames[:4])
    assert (await backlog.take()).frames == tuple(frames[4:])
    assert backlog.samples == 0


async def test_other_events_keep_their_place_among_the_audio(backlog):
    sent = [audio(0, 10), Flush("a"), audio(10, 10), Ping(1)]
    for event in sent:
        await backlog.put(event)
    taken = [await backlog.take() for _ in range(4)]
    assert [item.frames[0] if isinstance(item, AudioRun) else item for item in taken] == sent


async def test_the_writer_waits_while_too_much_audio_waits(backlog, autojump_clock):
    await backlog.put(audio(0, 1000))
    assert backlog.full
    with trio.move_on_after(1) as scope:
        await backlog.put(audio(1000, 1))
    assert scope.cancelled_caught
    await backlog.take()
    with trio.fail_after(1):
        await backlog.put(audio(1000, 1))
    assert backlog.samples == 1


async def test_the_writer_waits_while_too_many_events_wait(backlog, autojump_clock):
    for _ in range(MAX_EVENTS):
        await backlog.put(Ping())
    with trio.move_on_after(1) as scope:
        await backlog.put(Ping())
    assert scope.cancelled_caught


async def test_finish_wakes_a_waiting_writer_and_drops_what_it_holds(backlog, autojump_clock):
    await backlog.put(audio(0, 1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backlog.put, audio(1000, 5))
        await trio.sleep(1)
        backlog.finish(Close(1001))
    assert (await backlog.take()).frames == (audio(0, 1000),)
    assert await backlog.take() == Close(1001)
    assert await backlog.take() == Close(1001)


async def test_a_waiting_reader_is_woken(backlog, autojump_clock):
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with trio.fail_after(5):
                assert await backlog.take() == Ping(3)

        nursery.start_soon(read)
        await trio.sleep(1)
        await backlog.put(Ping(3))


async def test_it_knows_since_when_audio_waits(backlog, autojump_clock):
    assert backlog.oldest_arrival is None
    await trio.sleep(3)
    began = trio.current_time()
    await backlog.put(audio(0, 10))
    await trio.sleep(2)
    await backlog.put(audio(10, 10))
    assert backlog.oldest_arrival == began
    assert (await backlog.take()).arrived_at == began
    assert backlog.oldest_arrival is None


async def test_audio_waits_for_more_until_patience_ends(backlog, autojump_clock):
    async with trio.open_nursery() as nursery:

        async def speak():
            for n in range(4):
                await backlog.put(audio(10 * n, 10))
                await trio.sleep(0.1)

        nursery.start_soon(speak)
        run = await backlog.take(trio.current_time() + 0.25)
        assert [frame.position for frame in run.frames] == [0, 10, 20]
        assert trio.current_time() == pytest.approx(run.arrived_at + 0.25)


@pytest.mark.parametrize("event", [Flush("a"), Close(1000)])
async def test_nothing_but_audio_waits_for_more(backlog, autojump_clock, event):
    await backlog.put(audio(0, 10))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def interrupt():
            await trio.sleep(0.1)
            if isinstance(event, Close):
                backlog.finish(event)
            else:
                await backlog.put(event)

        nursery.start_soon(interrupt)
        assert isinstance(await backlog.take(began + 60), AudioRun)
        assert await backlog.take(began + 60) == event
    assert trio.current_time() == pytest.approx(began + 0.1)


async def test_a_whole_run_waits_for_nothing(backlog, autojump_clock):
    began = trio.current_time()
    await backlog.put(audio(0, 400))
    await backlog.take(began + 60)
    assert trio.current_time() == began
