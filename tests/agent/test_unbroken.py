"""What is not broken off when it is cancelled."""

import asyncio

import pytest

from agent.unbroken import unbroken


def test_it_goes_on_while_it_is_cancelled_however_often_and_the_canceller_is_told_then():
    async def test() -> None:
        may_end, ended = asyncio.Event(), []

        async def work() -> None:
            await may_end.wait()
            ended.append(True)

        task = asyncio.create_task(unbroken(work()))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    asyncio.run(test())


def test_what_comes_of_it_is_returned_or_raised():
    async def fails() -> None:
        raise OSError("a reason")

    async def test() -> None:
        assert await unbroken(asyncio.sleep(0, "done")) == "done"
        with pytest.raises(OSError, match="a reason"):
            await unbroken(fails())

    asyncio.run(test())


def test_a_failure_beside_a_cancellation_is_its_cause():
    async def test() -> None:
        may_end = asyncio.Event()

        async def fails() -> None:
            await may_end.wait()
            raise OSError("a reason")

        task = asyncio.create_task(unbroken(fails()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert isinstance(caught.value.__cause__, OSError)

    asyncio.run(test())
