"""One drill: people talk on a fleet, something is done to it, and what they saw is counted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import trio
from attrs import Factory, define, frozen

from trio_stt.bench.speech import Clip
from trio_stt.bench.word_errors import WordErrors, total, word_errors
from trio_stt.drill.bad_network import BadNetwork
from trio_stt.drill.checker import disorder, miscounted, visible_errors
from trio_stt.drill.crowd import CrowdAnswers, crowd
from trio_stt.drill.drilled_fleet import DrilledFleet, drilled_fleet
from trio_stt.drill.script import Script
from trio_stt.drill.speaker import Speaker
from trio_stt.drill.troubles import Act, Blow, Trouble

IN_A_CALL = 4
"""Speakers in one call, who hear each other."""

START_SPREAD_S = 1.0


@frozen
class Drill:
    """What is done. Stalls and catch-up: what is allowed, in seconds, of 99 in 100; None: nothing was promised."""

    name: str
    act: Act
    stall_p99_s: float | None = None
    from_blow: bool = False
    """A stall begins with the blow, as nobody is told that an instance is frozen."""
    most_interruptions: int | None = None
    bad_network: bool = False
    crowd: bool = False


@define
class Outcome:
    """What was seen in one drill."""

    drill: Drill
    speakers: list[Speaker]
    blows: list[Blow] = Factory(list)
    crowd: CrowdAnswers | None = None

    @property
    def faults(self) -> list[str]:
        """Against the promise on order."""
        return [f"{each.name}: {fault}" for each in self.speakers for fault in disorder(each.events, each.name)]

    @property
    def miscounted_samples(self) -> int:
        """Samples of phrases that do not lie in exactly one final."""
        return sum(bad for each in self.speakers for _, bad in miscounted(each.script.phrases, each.finals))

    @property
    def errors(self) -> list[str]:
        """What users would have noticed."""
        return [f"{each.name}: {error}" for each in self.speakers for error in visible_errors(each.events)]

    @property
    def words(self) -> WordErrors:
        """Of all that was said."""
        return total(word_errors(each.script.clip.words, each.words) for each in self.speakers)

    def stalls_s(self) -> list[float]:
        """From each loss of a connection, or the blow that caused it, to the next that was ready."""
        if not self.drill.from_blow:
            return [ready - lost for each in self.speakers for lost, ready in each.stalls()]
        frozen = [blow.at for blow in self.blows if blow.what == "frozen"]
        return [
            ready - max((at for at in frozen if at <= lost), default=lost)
            for each in self.speakers
            for lost, ready in each.stalls()
        ]

    def added_delays_s(self, undisturbed: Outcome) -> list[float]:
        """Of each phrase that a stall touched: how much later its caption came than undisturbed."""
        added = []
        for speaker, before in zip(self.speakers, undisturbed.speakers, strict=True):
            stalls = speaker.stalls()
            delays = zip(speaker.script.phrases, speaker.caption_delays(), before.caption_delays(), strict=True)
            for (begin, end), delay, usual in delays:
                if delay is None or usual is None:
                    continue
                came_at = speaker.spoken_at(end) + delay
                if any(lost <= came_at and ready >= speaker.spoken_at(begin) for lost, ready in stalls):
                    added.append(delay - usual)
        return added


async def run_drill(
    drill: Drill,
    scripts: Sequence[Script],
    clips: list[Clip],
    *,
    instances: int,
    model: Path,
    seed: int,
    logs_to: Path | None,
    say: Callable[[str], None],
) -> Outcome:
    """Starts a fleet of `instances`, lets the scripts be said while `drill.act` goes on, and stops the fleet.

    `say` is told what happens. Raises `FleetError`, `GeneratorError`. May be cancelled: the fleet is stopped first.
    """
    dice = random.Random(seed)
    speakers = [
        Speaker(f"speaker-{number}", f"call-{number // IN_A_CALL}", script) for number, script in enumerate(scripts)
    ]
    seconds = max(script.clip.seconds for script in scripts)
    async with drilled_fleet(instances, model, logs_to) as fleet:
        trouble = Trouble(fleet, instances, seconds, dice)
        outcome = Outcome(drill, speakers, trouble.blows)
        say(f"{drill.name}: {instances} instances are ready, {len(speakers)} people talk for {seconds:.0f} s")
        async with trio.open_nursery() as background:
            url = fleet.url
            if drill.bad_network:
                network = BadNetwork(fleet.host, fleet.port, dice, trouble.note)
                await background.start(network.run)
                url = network.url
            async with trio.open_nursery() as talking:
                for number, speaker in enumerate(speakers):
                    talking.start_soon(_speak, speaker, url, START_SPREAD_S * number / len(speakers))
                if drill.crowd:
                    talking.start_soon(_crowd, outcome, fleet, clips, seconds)
                background.start_soon(drill.act, trouble)
            background.cancel_scope.cancel()
    return outcome


async def _speak(speaker: Speaker, url: str, after_s: float) -> None:
    await trio.sleep(after_s)
    await speaker.run(url)


async def _crowd(outcome: Outcome, fleet: DrilledFleet, clips: list[Clip], seconds: float) -> None:
    await trio.sleep(START_SPREAD_S + 1)  # behind those who are to be kept
    outcome.crowd = await crowd(clips, fleet.host, fleet.port, await fleet.limit(), seconds - START_SPREAD_S - 1)
