"""How much memory a piece of work needs at its peak."""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[list[int]]:
    """Yields a list that then holds how many bytes this process had in use at the peak, beyond those in use before.

    On Linux by the kernel's high-water mark of this process, reset first; the list stays empty elsewhere.
    """
    found: list[int] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    resident = _reset_high_water() if device.type == "cpu" else None
    yield found
    high = _status_bytes("VmHWM") if resident is not None else None
    if resident is not None and high is not None:
        found.append(max(high - resident, 0))


def _reset_high_water() -> int | None:
    """Set this process's high-water mark of memory to what it uses now, and return that; None where impossible.

    What was freed goes back to the system first (glibc keeps it): else a model that reuses it seems to need nothing.
    """
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
