"""What the machine was doing: its clocks and temperatures, and how much CPU other processes took.

Nothing here is polled while something is timed (polling nvidia-smi slows the run it watches): the state is read
before the first and after the last round, and the CPU counters between rounds.
"""

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

CONTENDED = 0.05  # flag when others used more than this share of all cores (our choice)
SLOWED = 0.9  # flag when a clock fell below this share of what it was before (our choice)
_CPU = Path("/sys/devices/system/cpu")
_GPU_FIELDS = {
    "sm_mhz": "clocks.sm",
    "sm_mhz_max": "clocks.max.sm",
    "temperature_c": "temperature.gpu",
    "power_w": "power.draw",
    "throttle_mask": "clocks_throttle_reasons.active",
}
# NVML's clock-event bits: software power cap, hardware slowdown, software thermal, hardware thermal, power brake
_GPU_THROTTLES = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


class Reading(NamedTuple):
    """Counters that only grow: seconds, CPU seconds of this process, CPU seconds of all, throttle events."""

    wall_s: float
    own_cpu_s: float
    busy_cpu_s: float
    throttle_events: int


class Load(NamedTuple):
    """Between two readings: ``other_cores`` is the mean number of cores that other processes kept busy.

    Others are everything but this process: its children, the kernel and, on a virtual machine, time stolen by
    neighbours. Known to +- ``resolution_cores``: the kernel counts in ticks (10 ms), so a short window says little.
    """

    other_cores: float
    resolution_cores: float
    flags: tuple[str, ...]


class Machine:
    """The real machine; tests put another in its place. ``gpu`` asks nvidia-smi too, where there is one."""

    def __init__(self, gpu: bool = False) -> None:
        self.gpu = gpu

    def read(self) -> Reading:
        """The counters now: some 0.1 ms, so for use between timed blocks."""
        fields = psutil.cpu_times()._asdict()
        idle = sum(fields.get(name, 0.0) for name in ("idle", "iowait"))
        counted_twice = sum(fields.get(name, 0.0) for name in ("guest", "guest_nice"))  # Linux has them in user, nice
        busy = sum(fields.values()) - idle - counted_twice
        return Reading(time.perf_counter(), time.process_time(), busy, _throttle_events())

    def state(self) -> dict[str, Any]:
        """Clocks (MHz), temperature (degrees Celsius), load. A quantity the machine does not tell is None."""
        frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
        state: dict[str, Any] = {
            "cpu_mhz": frequency.current if frequency else None,
            "cpu_mhz_max": (frequency.max or None) if frequency else None,
            "cpu_temperature_c": _cpu_temperature(),
            "cpu_throttle_events": _throttle_events() if _throttle_files() else None,
            "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        }
        if self.gpu:
            state["gpus"] = _gpus()
        return state


def load(before: Reading, after: Reading, cores: int | None = None) -> Load:
    """What happened between two readings. Flags: 'contended' (beyond what ticks can feign), 'throttled'."""
    cores = cores or os.cpu_count() or 1
    wall = max(after.wall_s - before.wall_s, 1e-9)
    other = max((after.busy_cpu_s - before.busy_cpu_s) - (after.own_cpu_s - before.own_cpu_s), 0.0) / wall
    resolution = cores * _tick_s() / wall
    flags = []
    if other - resolution > CONTENDED * cores:
        flags.append("contended")
    if after.throttle_events > before.throttle_events:
        flags.append("throttled")
    return Load(other, resolution, tuple(flags))


def slowed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether two ``Machine.state`` tell of throttling: a clock that fell, or a GPU that says so itself."""
    pairs = [(before.get("cpu_mhz"), after.get("cpu_mhz"))]
    masks = []
    for first, last in zip(before.get("gpus") or [], after.get("gpus") or [], strict=False):
        pairs.append((first.get("sm_mhz"), last.get("sm_mhz")))
        masks += [int(gpu["throttle_mask"], 16) for gpu in (first, last) if gpu.get("throttle_mask")]
    return any(a and b and b < SLOWED * a for a, b in pairs) or any(mask & _GPU_THROTTLES for mask in masks)


@functools.cache
def _throttle_files() -> tuple[Path, ...]:
    return tuple(sorted(_CPU.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")))


def _throttle_events() -> int:
    try:
        return sum(int(path.read_text(encoding="ascii")) for path in _throttle_files())
    except (OSError, ValueError):
        return 0


def _tick_s() -> float:
    try:
        return 1.0 / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError):
        return 0.01


def _cpu_temperature() -> float | None:
    """The hottest sensor."""
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((sensor.current for group in sensors.values() for sensor in group), default=None)


def _gpus() -> list[dict[str, Any]] | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS.values())}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [parse_gpu(line.split(",")) for line in text.splitlines() if line.strip()]


def parse_gpu(cells: Sequence[str]) -> dict[str, Any]:
    """One line of nvidia-smi; what a device does not support ('[N/A]') becomes None."""
    found: dict[str, Any] = {}
    for name, cell in zip(_GPU_FIELDS, cells, strict=True):
        text = cell.strip()
        try:
            found[name] = hex(int(text, 16)) if name == "throttle_mask" else float(text)
        except ValueError:
            found[name] = None
    return found
