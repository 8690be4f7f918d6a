"""Time several functions against each other, fairly.

One turn of one competitor is ``calls timed one by one`` (latency) and ``one block of calls`` (throughput); a round is
one turn of each. Rounds are interleaved in one process, in a seeded order and then in its reverse, so that drift of
the machine meets all alike. The device is synchronised before each reading of the clock. Warm-up and calibration run
on state that is thrown away. Every sample is kept, with what the machine was doing; none is dropped.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from paper_repro.timing.machine import Load, Machine, load, slowed

Mode = Literal["both", "latency", "throughput"]
Clock = Callable[[], float]
Sync = Callable[[], None]
MIN_ROUNDS = 6  # the fewest that give a 95 % interval of a median


@dataclass(frozen=True)
class Samples:
    """Raw timings of one competitor; the first axis of every list is the round.

    ``call_s``: seconds of each call timed on its own [rounds][calls] (empty in mode 'throughput'). ``block_s``:
    seconds per call, a block's time over its ``inner`` calls [rounds] (empty in mode 'latency'). ``position``: the
    competitor's place in the round. ``other_cores``: cores kept busy by others. ``flags``: what was wrong, if anything.
    """

    inner: int
    call_s: list[list[float]] = field(default_factory=list)
    block_s: list[float] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    other_cores: list[float] = field(default_factory=list)
    flags: list[list[str]] = field(default_factory=list)

    @property
    def latency_s(self) -> list[float]:
        """Median seconds of a call, one per round."""
        return [median(calls) for calls in self.call_s]


@dataclass(frozen=True)
class Measurement(Mapping[str, Samples]):
    """Samples by competitor, how they were taken, and the machine before and after.

    ``clocks``: seconds spent on warm-up and calibration, and on the rounds.
    """

    samples: dict[str, Samples]
    protocol: dict[str, Any]
    machine: dict[str, Any]
    clocks: dict[str, float]

    def __getitem__(self, name: str) -> Samples:
        return self.samples[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


def measure(
    competitors: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    inner: int | None = None,
    block_s: float = 0.2,
    budget_s: float | Mapping[str, float] | None = None,
    warmup: int = 3,
    latency_calls: int = 20,
    mode: Mode | Mapping[str, Mode] = "both",
    sync: Sync | None = None,
    snapshots: Sequence[Callable[[], Callable[[], None]]] = (),
    clock: Clock = time.perf_counter,
    machine: Machine | None = None,
    seed: int = 0,
) -> Measurement:
    """Time ``competitors`` over ``rounds`` interleaved rounds.

    ``inner``: calls per block; None calibrates it, for each competitor, to the fewest that last ``block_s`` seconds:
    one call of a big model, many of a small one. ``latency_calls``: at most so many calls are timed singly per round.
    Where ``inner`` is 1, call and block are the same thing, and one call is timed for both. ``budget_s``: seconds that
    the rounds of one competitor may take, warm-up aside; rounds are cut, for all alike and not below ``MIN_ROUNDS``,
    to keep to it, and the protocol says so. ``warmup``: untimed calls of each competitor before anything is timed.
    ``sync``: waits for the device. ``snapshots``: each copies some state and returns what puts it back; taken before
    warm-up and put back before the first round. ``clock`` is in seconds.

    Raises ValueError for no competitor, or a count below 1.
    """
    if not competitors or min(rounds, warmup, latency_calls, 1 if inner is None else inner) < 1:
        raise ValueError("measure needs a competitor, and rounds, warmup, latency_calls and inner of at least 1")
    machine, sync = machine or Machine(), sync or _nothing
    modes: dict[str, Mode] = {name: mode if isinstance(mode, str) else mode[name] for name in competitors}
    stopwatch = _Stopwatch(clock, sync)

    started = clock()
    calls, seconds = {}, {}
    with _throw_away(snapshots):
        for name, function in competitors.items():
            calls[name], seconds[name] = _calibrate(function, stopwatch, warmup, inner, block_s)
        sync()
    turn_s = {name: _turn_s(seconds[name], calls[name], latency_calls, modes[name]) for name in competitors}
    kept_rounds = _affordable(rounds, turn_s, budget_s)

    samples = {name: Samples(inner=calls[name]) for name in competitors}
    before, begun = machine.state(), clock()
    with _no_garbage_collection():
        for order in _orders(list(competitors), kept_rounds, seed):
            gc.collect(1)  # what the last round left; a full collection would take longer than many a block
            for position, name in enumerate(order):
                _turn(competitors[name], samples[name], modes[name], latency_calls, stopwatch, machine)
                samples[name].position.append(position)
    finished, after = clock(), machine.state()

    throttled = slowed(before, after)
    if throttled:  # which rounds it hit cannot be told from two readings, so it is said of all
        for flags in (flags for one in samples.values() for flags in one.flags if "throttled" not in flags):
            flags.append("throttled")
    protocol = {
        "rounds": kept_rounds,
        "rounds_asked": rounds,
        "inner": calls,
        "mode": modes,
        "block_s": block_s,
        "latency_calls": latency_calls,
        "warmup_calls": warmup,
        "sync": "before and after every timed call and block",
        "order": "interleaved by round; seeded shuffle, then its reverse",
        "order_seed": seed,
        "state_restored_after_warmup": len(snapshots),
    }
    return Measurement(
        samples,
        protocol,
        {"before": before, "after": after, "throttled": throttled},
        {"warmup_s": begun - started, "rounds_s": finished - begun},
    )


@dataclass(frozen=True)
class _Stopwatch:
    clock: Clock
    sync: Sync

    def __call__(self, function: Callable[[], Any], calls: int) -> float:
        """Seconds that ``calls`` calls take until the device has finished them."""
        self.sync()
        start = self.clock()
        for _ in range(calls):
            function()
        self.sync()
        return self.clock() - start


def _calibrate(
    function: Callable[[], Any], stopwatch: _Stopwatch, warmup: int, inner: int | None, block_s: float
) -> tuple[int, float]:
    """Warm up; return calls per block and about how many seconds a call takes."""
    for _ in range(warmup - 1):
        function()
    elapsed, calls = stopwatch(function, 1), 1  # the last warm-up call: enough to know that a call is a block
    if inner is not None:
        return inner, elapsed
    while elapsed < block_s / 4 and calls < 2**30:
        calls *= 2
        elapsed = stopwatch(function, calls)
    per_call = elapsed / calls
    return max(1, math.ceil(block_s / per_call)) if per_call > 0 else calls, per_call


def _turn(
    function: Callable[[], Any],
    samples: Samples,
    mode: Mode,
    latency_calls: int,
    stopwatch: _Stopwatch,
    machine: Machine,
) -> None:
    if samples.inner > 1:  # the caches should hold this competitor and not the one before it; nothing for one long call
        function()
    before = machine.read()
    if mode == "both" and samples.inner == 1:
        samples.block_s.append(stopwatch(function, 1))
        samples.call_s.append([samples.block_s[-1]])
    else:
        if mode != "throughput":
            single = min(samples.inner, latency_calls)
            samples.call_s.append([stopwatch(function, 1) for _ in range(single)])
        if mode != "latency":
            samples.block_s.append(stopwatch(function, samples.inner) / samples.inner)
    during: Load = load(before, machine.read())
    samples.other_cores.append(during.other_cores)
    samples.flags.append(list(during.flags))


def _turn_s(seconds: float, inner: int, latency_calls: int, mode: Mode) -> float:
    """About how long a turn lasts."""
    if inner == 1:
        return seconds
    single, block = min(inner, latency_calls), inner
    return seconds * (1 + (single if mode != "throughput" else 0) + (block if mode != "latency" else 0))


def _affordable(rounds: int, turn_s: Mapping[str, float], budget_s: float | Mapping[str, float] | None) -> int:
    budgets = budget_s if isinstance(budget_s, Mapping) else dict.fromkeys(turn_s, budget_s)
    for name, seconds in turn_s.items():
        budget = budgets.get(name)
        if budget is not None and seconds * rounds > budget:
            rounds = max(min(rounds, MIN_ROUNDS), int(budget / seconds))
    return rounds


def _orders(names: list[str], rounds: int, seed: int) -> Iterator[list[str]]:
    """An order for each round: a random one, then its reverse, then the next random one."""
    rng, order = random.Random(seed), names
    for number in range(rounds):
        order = order[::-1] if number % 2 else rng.sample(names, len(names))
        yield order


@contextmanager
def _throw_away(snapshots: Sequence[Callable[[], Callable[[], None]]]) -> Iterator[None]:
    restores = [snapshot() for snapshot in snapshots]
    try:
        yield
    finally:
        for restore in reversed(restores):
            restore()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _nothing() -> None:
    pass
