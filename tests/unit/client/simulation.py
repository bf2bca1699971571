"""A resuming client, three instances, a bus and the network between them, moved step by step; and what must hold."""

from collections import deque
from random import Random

from tests.unit.client.model_server import Bus, Instance, Link
from trio_stt.client.resume_events import Ended, EndReason, Lost, Restarted
from trio_stt.client.resuming_client import ResumingClient
from trio_stt.dialects.events import Ack, Close, StreamRequest, Transcript

REQUEST = StreamRequest("anna", "call-1", encoding="mulaw", sample_rate=1)
INSTANCES = 3


class PromiseBrokenError(AssertionError):
    """What the client was told is not what docs/resume.md promises."""


class Simulation:
    def __init__(
        self,
        seed: int,
        client_class: type[ResumingClient] = ResumingClient,
        *,
        live: bool = True,
        with_bus: bool = True,
    ) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.truth = bytearray()
        self.client = client_class(["ws://model"], REQUEST, random=self.random, now=0.0, live=live)
        self.live = live
        self.bus = Bus() if with_bus else None
        self.started = 0
        self.beginnings: dict[str, int] = {}
        self.instances = [self._new_instance() for _ in range(INSTANCES)]
        self.links: dict[int, tuple[Link, Instance]] = {}
        self.finals: list[Transcript] = []
        self.losses: list[Lost] = []
        self.losses_without_bus: list[Lost] = []  # a stored final may yet turn up
        self.answers: list[str | int | None] = []
        self.asked: deque[str] = deque()
        self.ended: Ended | None = None

    def _new_instance(self) -> Instance:
        self.started += 1
        return Instance(f"i{self.started}", self.bus, self.random, self.truth, self.beginnings)

    # ── what may happen ──

    def speak(self, samples: bytes) -> None:
        if self.client.ended is not None:
            return
        if not self.live:
            samples = samples[: self.client.room_samples]
        self.truth += samples
        self.client.add(samples)

    def finalize(self) -> None:
        if self.client.ended is None:
            self.asked.append(f"f{len(self.asked)}")
            self.client.finalize(self.asked[-1])

    def configure(self) -> None:
        if self.client.ended is None:
            self.client.configure(partials=False)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for instance in self.instances:
            if not instance.frozen:
                instance.beat()
        self.client.tick(self.now)
        attempt = self.client.next_attempt(self.now)
        if attempt is not None:
            instance = self.random.choice(self.instances)
            link = Link(attempt.number, "resume=true" in attempt.url)
            self.links[attempt.number] = (link, instance)
            instance.links.append(link)
        for number, (link, _) in self.links.items():
            if not self.client.is_wanted(number):
                link.over_for_client = True

    def send(self, messages: int) -> None:
        """The client sends; one message is not taken off it by the network that another one needs."""
        for number, (link, _) in self.links.items():
            for _ in range(messages):
                message = self.client.next_message(number)
                if message is None:
                    break
                if not link.broken:
                    link.to_server.append(message)

    def arrive_at_server(self, messages: int) -> None:
        for link, instance in list(self.links.values()):
            if instance.frozen or instance.dead:
                continue
            if not link.upgraded:
                if link.broken:
                    continue  # it knows that nobody waits for the answer
                link.upgraded = True
                if not link.resumes:
                    instance.begin(link)
                    self._replace_older(link)
                self.client.opened(link.number, self.now)
            for _ in range(messages):
                if link.to_server:
                    resumed = link.number in instance.conversations
                    instance.handle(link)
                    if not resumed and link.number in instance.conversations:
                        self._replace_older(link)
            if link.over_for_client and not link.to_server and self.random.random() < 0.5:
                instance.lose(link)

    def _replace_older(self, newer: Link) -> None:
        """Over the bus every instance learns that this client came again."""
        for link, instance in self.links.values():
            bus_tells = self.bus is not None and self.bus.up and not instance.frozen and not instance.dead
            if link is not newer and bus_tells:
                instance.replace(link)

    def arrive_at_client(self, messages: int) -> None:
        for link, _ in list(self.links.values()):
            for _ in range(messages):
                if not link.to_client or not link.upgraded:
                    break
                message = link.to_client.popleft()
                if isinstance(message, int):
                    link.over_for_client = True
                    self.client.closed(link.number, self.now, Close(message))
                else:
                    self.client.received(link.number, self.now, message)
                    self._note_beginning(link.number)
                self.check_events(link)

    def _note_beginning(self, number: int) -> None:
        """Where the stream on this connection began is the client's choice, made when `ready` came."""
        link, instance = self.links[number]
        if not link.resumes and self.client.is_wanted(number) and number in instance.conversations:
            self.beginnings[instance.conversations[number].stream_id] = self.client.stream_begins_at

    def kill(self, place: int) -> None:
        dead, self.instances[place] = self.instances[place], self._new_instance()
        dead.dead = True
        for link in dead.links:
            self._cut(link, Random.random(self.random))
            self._hang_up(link)

    def freeze(self, place: int) -> None:
        self.instances[place].frozen = True

    def freeze_in_use(self, seconds: float) -> None:
        """What the client has just sent, such as `resume`, may arrive when it has long given up."""
        for link, instance in self.links.values():
            if self.client.is_wanted(link.number):
                instance.frozen = True
        self.pass_time(seconds)
        self.pass_time(0.2)

    def revive(self, place: int) -> None:
        instance = self.instances[place]
        if instance.frozen:
            instance.frozen = False
            if self.bus is not None and self.bus.up:
                instance.bring_up_to_date()

    def cut(self, kept: float, told: bool) -> None:
        """The network loses the connection in use, with what was on its way; `told`: the client learns it at once."""
        for link, _ in self.links.values():
            if self.client.is_wanted(link.number):
                self._cut(link, kept)
                link.over_for_server = True
                if told:
                    self._hang_up(link)

    def go_away(self) -> None:
        for link, instance in self.links.values():
            if not instance.frozen and not link.over_for_server:
                instance.go_away(link)

    def depart(self) -> None:
        for link, instance in self.links.values():
            if not instance.frozen and not link.over_for_server:
                instance.depart(link)

    def end_windows(self) -> None:
        for link, instance in self.links.values():
            if not instance.frozen and not instance.dead and link.over_for_server:
                instance.end_what_nobody_resumed(link)

    def lose_bus(self) -> None:
        if self.bus is not None:
            self.bus.up = False

    def restore_bus(self, empty: bool) -> None:
        if self.bus is not None and not self.bus.up:
            if empty:
                self.bus.empty()
            self.bus.up = True
            for instance in self.random.sample(self.instances, len(self.instances)):
                if not instance.frozen:
                    instance.bring_up_to_date()

    def _cut(self, link: Link, kept: float) -> None:
        link.broken = True
        for queue in (link.to_server, link.to_client):
            while len(queue) > 0 and self.random.random() > kept:
                queue.pop()

    def _hang_up(self, link: Link) -> None:
        if not link.upgraded:
            self.client.failed(link.number, self.now)
        elif not link.over_for_client:
            link.to_client.append(1006)

    # ── what must hold ──

    def check_events(self, link: Link | None = None) -> None:
        """`link`: over which a message has just come."""
        while (event := self.client.next_event()) is not None:
            match event:
                case Transcript():
                    self.finals.append(event)
                case Lost():
                    if not self.live:
                        raise PromiseBrokenError(f"{event}, though the source could wait")
                    if not self._could_not_read_finals(link):
                        self.losses.append(event)
                    else:
                        self.losses_without_bus.append(event)
                case Ack(from_finalize=True):
                    self.answers.append(event.id)
                case Restarted():
                    raise PromiseBrokenError("a new stream, though every token is good")
                case Ended():
                    self.ended = event
        self.check(self.client.acked)

    def _could_not_read_finals(self, link: Link | None) -> bool:
        if link is None or not self.client.is_wanted(link.number):
            return False
        conversation = self.links[link.number][1].conversations.get(link.number)
        return conversation is not None and conversation.resumed_without_bus

    def check(self, until: int) -> None:
        """Speech before `until` lies in exactly one final, unless it was lost."""
        reached = 0
        held = bytearray(len(self.truth))
        for final in self.finals:
            if final.start_sample < reached:
                raise PromiseBrokenError(f"{final.segment_id} begins before {reached}")
            reached = final.end_sample
            held[final.start_sample : final.end_sample] = b"\1" * (final.end_sample - final.start_sample)
        for loss in self.losses:
            if any(held[loss.from_sample : loss.to_sample]):
                raise PromiseBrokenError(f"{loss} was captioned")
            held[loss.from_sample : loss.to_sample] = b"\1" * (loss.to_sample - loss.from_sample)
        for loss in self.losses_without_bus:
            held[loss.from_sample : loss.to_sample] = b"\1" * (loss.to_sample - loss.from_sample)
        for position in range(until):
            if self.truth[position] and not held[position]:
                raise PromiseBrokenError(f"sample {position} before {until} is in no final")

    def finish(self) -> None:
        """Everything heals, the client ends its stream, and all that it said is there."""
        self.restore_bus(empty=False)
        for place in range(INSTANCES):
            self.revive(place)
        if self.client.ended is None:
            self.client.end()
        for _ in range(400):
            if self.client.ended is not None:
                break
            self.pass_time(0.2)
            for _ in range(4):
                self.send(100)
                self.arrive_at_server(100)
                self.arrive_at_client(1000)
        self.check_events()
        if self.ended is None or self.ended.reason is not EndReason.FINISHED:
            raise PromiseBrokenError(f"the stream ended with {self.ended}")
        self.check(len(self.truth))
        if self.answers != list(self.asked):
            raise PromiseBrokenError(f"{list(self.asked)} were asked for, {self.answers} answered")


def run_at_random(simulation: Simulation, steps: int, *, overflows: bool = False) -> None:
    """Lets `steps` things happen, then heals and checks; by the simulation's own random numbers."""
    random = simulation.random
    for _ in range(steps):
        match random.choices(range(15), [8, 10, 10, 10, 10, 1, 1, 1, 1.5, 3, 0.5, 0.5, 0.7, 1, 2])[0]:
            case 0:
                longest = 60 if overflows else 8
                simulation.speak(bytes([random.random() < 0.7]) * random.randint(1, longest))
            case 1:
                simulation.pass_time(random.choice([0.05, 0.2, 0.6]))
            case 2:
                simulation.send(random.randint(1, 5))
            case 3:
                simulation.arrive_at_server(random.randint(1, 5))
            case 4:
                simulation.arrive_at_client(random.randint(1, 8))
            case 5:
                simulation.kill(random.randrange(INSTANCES))
            case 6:
                simulation.freeze(random.randrange(INSTANCES))
            case 7:
                simulation.lose_bus()
            case 8:
                simulation.restore_bus(empty=random.random() < 0.3)
            case 9:
                simulation.revive(random.randrange(INSTANCES))
            case 10:
                simulation.go_away()
            case 11:
                simulation.depart()
            case 12:
                simulation.cut(random.random(), random.random() < 0.5)
            case 13:
                random.choice([simulation.finalize, simulation.configure, simulation.end_windows])()
            case 14:
                simulation.freeze_in_use(random.choice([0.5, 1.6, 2.1]))
    simulation.finish()
