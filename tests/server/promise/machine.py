"""Whatever happens to a speaker's connections, instances and bus, in whatever order: hypothesis chooses."""

from __future__ import annotations

import threading

import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from trio.testing import MockClock

from tests.server.promise.world import MODEL_RATE, World

INSTANCES = 3
PLACES = st.integers(0, INSTANCES - 1)
SHARES = st.sampled_from([0.0, 0.5, 1.0])


class Promise(RuleBasedStateMachine):
    """Each rule is something that happens in a `World`, which lives in a Trio run of its own, in a thread."""

    @initialize(seed=st.integers(0, 2**16), rate=st.sampled_from([MODEL_RATE, MODEL_RATE, 8000, 11_025]))
    def begin(self, seed: int, rate: int) -> None:
        self.clock = MockClock()
        self.is_broken = False
        ready = threading.Event()
        self.failure: BaseException | None = None

        async def live() -> None:
            self.token = trio.lowlevel.current_trio_token()
            try:
                self.world = World(self.clock, seed=seed, instances=INSTANCES, rate=rate)
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.world.run)
                    ready.set()
            finally:
                ready.set()

        def run() -> None:
            try:
                trio.run(live, clock=self.clock)
            except BaseException as error:  # noqa: BLE001  (raised where the example is run)
                self.failure = error

        self.thread = threading.Thread(target=run)
        self.thread.start()
        ready.wait()

    def do(self, act, *arguments, **named) -> None:
        """Has something happen, and everything that follows from it at once; the promise must hold all the same."""

        async def happen() -> None:
            waited_for = act(*arguments, **named)
            await (self.world.pass_time(0) if waited_for is None else waited_for)
            self.world.check()

        try:
            trio.from_thread.run(happen, trio_token=self.token)
        except BaseException:
            self.is_broken = True
            raise

    # ── what the speaker does ────────────────────────────────────────────────────────────────────────────────────

    @rule(blocks=st.integers(10, 60))
    def speak(self, blocks: int) -> None:
        self.do(self.world.speak, blocks)

    @rule(blocks=st.sampled_from([150, 300]))
    def speak_long(self, blocks: int) -> None:
        self.do(self.world.speak, blocks)

    @rule(blocks=st.integers(10, 200))
    def speak_at_once(self, blocks: int) -> None:
        self.do(self.world.speak, blocks, at_once=True)

    @rule(seconds=st.sampled_from([0.137, 0.4, 1.0]))
    def be_silent(self, seconds: float) -> None:
        self.do(self.world.be_silent, seconds)

    @rule()
    def finalize(self) -> None:
        self.do(self.world.finalize)

    @rule(partials=st.booleans())
    def configure(self, partials: bool) -> None:
        self.do(self.world.configure, partials)

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.2, 2.0, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.do(self.world.pass_time, seconds)

    # ── what befalls the network ─────────────────────────────────────────────────────────────────────────────────

    @rule(requests=st.booleans(), answers=st.booleans())
    def hold_up(self, requests: bool, answers: bool) -> None:
        self.do(self.world.hold_up, requests=requests, answers=answers)

    @precondition(lambda self: self.world.network.holds_up_requests or self.world.network.holds_up_answers)
    @rule(messages=st.integers(1, 6))
    def deliver(self, messages: int) -> None:
        self.do(self.world.deliver, messages)

    @rule(kept=SHARES, tell_client=st.booleans(), tell_server=st.booleans())
    def cut(self, kept: float, tell_client: bool, tell_server: bool) -> None:
        self.do(self.world.cut, kept, tell_client=tell_client, tell_server=tell_server)

    # ── what befalls the instances ───────────────────────────────────────────────────────────────────────────────

    def place(self, place: int, in_use: bool) -> int:
        found = self.world.place_in_use() if in_use else None
        return place if found is None else found

    @rule(place=PLACES, in_use=st.booleans(), kept=SHARES, told=st.booleans())
    def kill(self, place: int, in_use: bool, kept: float, told: bool) -> None:
        self.do(self.world.kill, self.place(place, in_use), kept, told=told)

    @rule(place=PLACES)
    def restart(self, place: int) -> None:
        self.do(self.world.restart, place)

    @rule(place=PLACES, in_use=st.booleans())
    def freeze(self, place: int, in_use: bool) -> None:
        self.do(self.world.freeze, self.place(place, in_use))

    @rule(place=PLACES)
    def thaw(self, place: int) -> None:
        self.do(self.world.thaw, place)

    @rule(place=PLACES, in_use=st.booleans())
    def drain(self, place: int, in_use: bool) -> None:
        self.do(self.world.drain, self.place(place, in_use))

    @rule(place=PLACES, in_use=st.booleans(), slowness=st.sampled_from([0.0, 0.3, 2.0]))
    def slow_down(self, place: int, in_use: bool, slowness: float) -> None:
        self.do(self.world.slow_down, self.place(place, in_use), slowness)

    # ── what befalls the bus ─────────────────────────────────────────────────────────────────────────────────────

    @rule(forget=st.booleans())
    def lose_bus(self, forget: bool) -> None:
        self.do(self.world.lose_bus, forget=forget)

    @rule()
    def find_bus(self) -> None:
        self.do(self.world.find_bus)

    @rule(place=PLACES, in_use=st.booleans(), delay_s=st.sampled_from([0.0, 0.05, 0.2]))
    def delay_bus(self, place: int, in_use: bool, delay_s: float) -> None:
        self.do(self.world.delay_bus, self.place(place, in_use), delay_s)

    @rule(place=PLACES, in_use=st.booleans())
    def lose_next_answer(self, place: int, in_use: bool) -> None:
        self.do(self.world.lose_next_answer, self.place(place, in_use))

    @rule(place=PLACES, in_use=st.booleans())
    def cut_from_bus(self, place: int, in_use: bool) -> None:
        self.do(self.world.cut_from_bus, self.place(place, in_use))

    @rule(place=PLACES)
    def mend_bus_of(self, place: int) -> None:
        self.do(self.world.mend_bus_of, place)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.is_broken:
                self.do(self.world.finish)
        finally:
            self.token.run_sync_soon(self.world.end)
            self.thread.join()
        if self.failure is not None:
            raise self.failure
