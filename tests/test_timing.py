"""The harness against a fake clock and a fake asynchronous device, whose true times are known exactly."""

import gc
import itertools
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paper_repro.timing import machine as machines
from paper_repro.timing import measure, median_interval, ratio, summarise
from paper_repro.timing.harness import MIN_ROUNDS
from paper_repro.timing.machine import Load, Reading, load, parse_gpu, slowed

LAUNCH = 0.001  # seconds that giving the device work takes; the work itself goes on behind one's back


class Device:
    """A clock that only moves when something happens, and a queue of work that runs beside it."""

    def __init__(self) -> None:
        self.now, self.busy_until = 0.0, 0.0
        self.log: list[str] = []

    def clock(self) -> float:
        self.log.append("clock")
        return self.now

    def sync(self) -> None:
        self.log.append("sync")
        self.now = max(self.now, self.busy_until)

    def kernel(self, name: str, seconds: float) -> Callable[[], None]:
        def launch() -> None:
            self.log.append(name)
            self.now += LAUNCH
            self.busy_until = max(self.busy_until, self.now) + seconds

        return launch


class Quiet(machines.Machine):
    """A machine on which nothing else happens. ``busy``: the reading, counted from 0, after which others show up."""

    def __init__(self, busy: int | None = None, states: tuple[dict, dict] = ({}, {})) -> None:
        self.busy, self.states = busy, iter(states)
        self.reads = itertools.count()

    def read(self) -> Reading:
        number = next(self.reads)
        others = 1e6 if self.busy is not None and number > self.busy else 0.0
        return Reading(wall_s=float(number), own_cpu_s=0.0, busy_cpu_s=others, throttle_events=0)

    def state(self) -> dict:
        return next(self.states)


WORK = {"big": 2.0, "small": 0.01}


def run(device: Device, sync: Callable[[], None] | None = None, **settings):
    competitors = {name: device.kernel(name, seconds) for name, seconds in WORK.items()}
    chosen = {"rounds": 8, "machine": Quiet(), "block_s": 0.5, "sync": sync or device.sync} | settings
    return measure(competitors, clock=device.clock, **chosen)


def true_times(found) -> bool:
    """Whether what was measured is what the device did: seconds per call, one by one and in a block."""
    for name, seconds in WORK.items():
        single, piled = LAUNCH + seconds, (LAUNCH + found[name].inner * seconds) / found[name].inner
        if not np.allclose(found[name].call_s, single, rtol=1e-9) or not np.allclose(found[name].block_s, piled):
            return False
    return True


def test_times_are_seconds_per_call_of_finished_work():
    found = run(Device())
    assert true_times(found)
    assert found["big"].inner == 1 and found["small"].inner == 50  # the fewest calls that last half a second
    assert all(len(found[name].block_s) == 8 for name in WORK)


def test_negative_control_without_sync_the_times_are_wrong():
    assert not true_times(run(Device(), sync=lambda: None))


def test_sync_comes_right_before_each_reading_of_the_clock_and_not_within():
    device = Device()
    run(device, inner=3, rounds=6)
    log = device.log
    readings = [place for place, event in enumerate(log) if event == "clock"]
    overall = {readings[0], readings[1 + 2 * len(WORK)], readings[-1]}  # start, end of calibration, end
    readings = [place for place in readings if place not in overall]
    assert len(readings) == 2 * len(WORK) * (1 + 6 * (3 + 1))  # calibration; three single calls and a block per round
    for start, stop in zip(readings[::2], readings[1::2], strict=True):
        assert log[start - 1] == log[stop - 1] == "sync"
        calls = log[start + 1 : stop - 1]
        assert len(calls) in (1, 3) and len(set(calls)) == 1 and calls[0] in WORK


def test_warm_up_is_untimed_and_on_thrown_away_state():
    device, state = Device(), {"step": 7}
    seen = []

    def step() -> None:
        seen.append(state["step"])
        slow = len(seen) <= 4  # compilation, autotuning
        device.now += 100.0 if slow else 1.0
        state["step"] += 1

    def snapshot() -> Callable[[], None]:
        saved = dict(state)
        return lambda: state.update(saved)

    chosen = {"rounds": 6, "inner": 2, "warmup": 4, "snapshots": [snapshot]}
    found = measure({"step": step}, clock=device.clock, machine=Quiet(), **chosen)
    assert seen[:5] == [7, 8, 9, 10, 7]  # the first call after warm-up starts where the first of all did
    assert found["step"].block_s == [1.0] * 6 and found["step"].call_s == [[1.0, 1.0]] * 6
    assert found.clocks == {"warmup_s": 400.0, "rounds_s": 6 * 5.0}


def test_state_is_restored_when_warm_up_fails():
    state = [1]

    def snapshot() -> Callable[[], None]:
        return lambda: state.__setitem__(0, 1)

    def fails() -> None:
        state[0] = 2
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        measure({"fails": fails}, rounds=1, snapshots=[snapshot], machine=Quiet())
    assert state == [1]


def test_competitors_are_interleaved_in_a_seeded_order_and_its_reverse():
    def orders(seed: int) -> list[tuple[str, ...]]:
        names = ["a", "b", "c", "d"]
        device = Device()
        log: list[str] = []
        found = measure(
            {name: lambda name=name: log.append(name) for name in names},  # type: ignore[misc]
            rounds=10, inner=1, warmup=1, seed=seed, clock=device.clock, machine=Quiet(),
        )  # fmt: skip
        rounds = [tuple(log[start : start + 4]) for start in range(4, len(log), 4)]
        for number, order in enumerate(rounds):
            assert [found[name].position[number] for name in order] == [0, 1, 2, 3]
        return rounds

    rounds = orders(seed=0)
    assert len(rounds) == 10 and all(sorted(order) == ["a", "b", "c", "d"] for order in rounds)
    assert all(rounds[i + 1] == rounds[i][::-1] for i in range(0, 10, 2))
    assert len(set(rounds[::2])) > 1
    assert rounds == orders(seed=0) != orders(seed=1)


def test_modes():
    found = run(Device(), mode={"big": "throughput", "small": "latency"}, latency_calls=5)
    assert found["big"].call_s == [] and len(found["big"].block_s) == 8
    assert found["small"].block_s == [] and [len(calls) for calls in found["small"].call_s] == [5] * 8
    assert found["small"].latency_s == pytest.approx([LAUNCH + 0.01] * 8)


def test_one_long_call_serves_as_call_and_as_block():
    device = Device()
    found = run(device, rounds=6, warmup=1)
    assert device.log.count("big") == 1 + 6
    assert found["big"].block_s == [calls[0] for calls in found["big"].call_s]


def test_budget_cuts_the_rounds_of_all_but_not_below_those_an_interval_needs():
    def rounds(budget) -> int:
        found = run(Device(), rounds=20, budget_s=budget)
        assert {len(one.block_s) for one in found.values()} == {found.protocol["rounds"]}
        assert found.protocol["rounds_asked"] == 20
        return found.protocol["rounds"]

    assert rounds(None) == rounds(1000.0) == rounds({"small": 1000.0}) == 20
    assert rounds(2.001 * 10 + 1e-6) == rounds({"big": 2.001 * 10 + 1e-6}) == 10
    assert rounds(1.0) == MIN_ROUNDS


def test_garbage_is_not_collected_while_the_clock_runs():
    seen = []
    measure({"a": lambda: seen.append(gc.isenabled())}, rounds=2, inner=1, warmup=1, machine=Quiet())
    assert seen == [True, False, False] and gc.isenabled()
    gc.disable()
    try:
        measure({"a": lambda: None}, rounds=1, inner=1, machine=Quiet())
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"warmup": 0}, {"inner": 0}, {"latency_calls": 0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        run(Device(), **wrong)
    with pytest.raises(ValueError, match="competitor"):
        measure({}, rounds=1)


# --- the machine -------------------------------------------------------------------------------------------------


def test_contended_rounds_are_flagged_and_kept():
    found = run(Device(), machine=Quiet(busy=2), rounds=6)  # two readings per turn: the second turn is disturbed
    flags = [flag for one in found.values() for flag in one.flags]
    assert sorted(flags) == [[]] * 11 + [["contended"]]
    assert all(len(one.block_s) == len(one.other_cores) == 6 for one in found.values())


def test_a_clock_that_fell_flags_every_round():
    found = run(Device(), machine=Quiet(states=({"cpu_mhz": 3000.0}, {"cpu_mhz": 1700.0})))
    assert found.machine["throttled"] and all(one.flags == [["throttled"]] * 8 for one in found.values())
    assert found.machine["before"] == {"cpu_mhz": 3000.0}


@pytest.mark.parametrize(
    ("others_s", "events", "flags"),
    [(0.0, 0, ()), (0.02, 0, ()), (0.9, 0, ("contended",)), (-0.3, 0, ()), (0.0, 1, ("throttled",))],
)
def test_load_is_what_others_took_beyond_ticks(others_s, events, flags):
    before = Reading(10.0, 3.0, 100.0, 5)
    after = Reading(11.0, 4.5, 100.0 + 1.5 + others_s, 5 + events)
    found = load(before, after, cores=2)
    assert found == Load(pytest.approx(max(others_s, 0.0)), pytest.approx(0.02), flags)


def test_a_short_window_is_not_flagged_for_one_tick():
    assert load(Reading(0, 0, 0, 0), Reading(0.02, 0, 0.02, 0), cores=2).flags == ()


def test_load_sees_another_process_and_not_this_one():
    machine = machines.Machine()

    def spin(seconds: float) -> None:
        end = machine.read().own_cpu_s + seconds
        while machine.read().own_cpu_s < end:
            pass

    before = machine.read()
    code = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    after = machine.read()
    other_s = load(before, after).other_cores * (after.wall_s - before.wall_s)
    assert other_s > 0.4
    before = machine.read()
    spin(0.3)
    after = machine.read()
    busy, own = after.busy_cpu_s - before.busy_cpu_s, after.own_cpu_s - before.own_cpu_s
    assert busy >= own - 0.05 and own == pytest.approx(0.3, abs=0.1)


def test_slowed():
    gpu = {"sm_mhz": 1900.0, "throttle_mask": "0x0"}
    assert not slowed({"cpu_mhz": 3000.0, "gpus": [gpu]}, {"cpu_mhz": 2900.0, "gpus": [gpu]})
    assert not slowed({"cpu_mhz": None}, {"cpu_mhz": None}) and not slowed({}, {})
    assert not slowed({"gpus": [gpu]}, {"gpus": [gpu | {"throttle_mask": "0x1"}]})  # idle
    assert slowed({"gpus": [gpu]}, {"gpus": [gpu | {"sm_mhz": 1100.0}]})
    assert slowed({"gpus": [gpu]}, {"gpus": [gpu | {"throttle_mask": "0x40"}]})  # hot
    assert not slowed({"gpus": None}, {"gpus": None})


def test_nvidia_smi_line():
    found = parse_gpu(["1980", " 1980", " 41", " 120.52", " 0x0000000000000004"])
    assert found == {
        "sm_mhz": 1980.0, "sm_mhz_max": 1980.0, "temperature_c": 41.0, "power_w": 120.52, "throttle_mask": "0x4",
    }  # fmt: skip
    assert parse_gpu(["[N/A]"] * 5) == dict.fromkeys(found)


def test_state_of_this_machine_is_plain_data():
    state = machines.Machine(gpu=True).state()
    assert set(state) == {
        "cpu_mhz", "cpu_mhz_max", "cpu_temperature_c", "cpu_throttle_events", "load_1min", "gpus",
    }  # fmt: skip


# --- statistics --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(5, 0), (6, 1), (7, 1), (9, 2), (15, 4), (30, 10)])  # textbook table at 95 %
def test_median_interval_is_between_the_tabulated_order_statistics(n, k):
    found = median_interval(list(range(1, n + 1)))
    assert found.estimate == (n + 1) / 2 and found.n == n
    if k == 0:
        assert np.isnan([found.low, found.high]).all()
    else:
        assert (found.low, found.high) == (k, n + 1 - k)


def test_median_interval_covers_skewed_timings():
    rng = np.random.default_rng(0)
    for n in (7, 15):
        draws = 1 + rng.exponential(size=(4000, n))
        found = [median_interval(row) for row in draws]
        covered = np.mean([one.low <= 1 + np.log(2) <= one.high for one in found])
        assert covered > 0.94


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30), st.floats(0.1, 10.0))
def test_ratio_of_a_multiple_is_that_multiple_whatever_the_drift(values, factor):
    found = ratio(np.array(values) * factor, values)
    assert found.estimate == pytest.approx(factor)
    if len(values) >= 6:
        assert found.low == pytest.approx(factor) == found.high


def test_summary_counts_flagged_rounds_and_keeps_them():
    values = [1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0]
    flags = [[], [], [], [], ["contended"], ["contended"], ["contended"]]
    found = summarise(values, flags)
    assert (found.median, found.q25, found.q75, found.n, found.flagged) == (1.0, 1.0, 9.0, 7, 3)
    assert found.median_unflagged == 1.0 and (found.low, found.high) == (1.0, 9.0) and found.noisy
    assert not summarise([1.0] * 7).noisy
    assert np.isnan(summarise([1.0], [["throttled"]]).median_unflagged)


@pytest.mark.parametrize("wrong", [[], [1.0, float("nan")], [[1.0]]])
def test_statistics_refuse_nonsense(wrong):
    with pytest.raises(ValueError, match="non-empty"):
        median_interval(wrong)
    with pytest.raises(ValueError, match="paired"):
        ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="flags"):
        summarise([1.0, 2.0], [[]])


def test_harness_needs_no_torch():
    timing = "import sys, paper_repro.timing as timing; timing.measure({'a': int}, rounds=1, block_s=1e-4)"
    code = f"{timing}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
