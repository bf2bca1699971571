"""A state machine whose system is instances that share a bus, in a Trio thread with a clock of its own."""

import threading

import trio
from hypothesis.stateful import RuleBasedStateMachine
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.unit.sessions.calls import Instance
from trio_stt.sessions.memory_bus import Memory


class TrioMachine(RuleBasedStateMachine):
    """`do` is how a rule acts; a subclass that has its own `teardown` calls this one last."""

    INSTANCES = 1

    def __init__(self) -> None:
        super().__init__()
        self.clock = MockClock()
        ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve, ready), kwargs={"clock": self.clock})
        self._thread.start()
        ready.wait()

    async def _serve(self, ready: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.memory = Memory(ttl_s=3600)
        self.instances = [Instance(self.memory) for _ in range(self.INSTANCES)]
        self._over = trio.Event()
        async with trio.open_nursery() as nursery:
            for instance in self.instances:
                nursery.start_soon(instance.run)
            await wait_all_tasks_blocked()
            ready.set()
            await self._over.wait()
            nursery.cancel_scope.cancel()

    def do(self, action) -> None:
        """Runs `action` and lets everything that follows from it happen."""

        async def run() -> None:
            result = action()
            if result is not None:
                await result
            await wait_all_tasks_blocked()

        trio.from_thread.run(run, trio_token=self._token)

    def teardown(self) -> None:
        self._token.run_sync_soon(self._over.set)
        self._thread.join()
