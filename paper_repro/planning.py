"""What a run that nobody has started yet would cost: hours, memory, disk and money from FLOPs or known step times."""

from typing import Any, NamedTuple


class Assumptions(NamedTuple):
    """What turns FLOPs into hours and money where nothing can be measured; printed with every plan."""

    devices: int = 8
    peak_tflops: float = 312.0  # A100, dense bf16, vendor's figure
    utilisation: float = 0.3  # share of the peak that small convolutional and encoder models reach (our assumption)
    money_per_device_hour: float = 2.0  # US dollars (our assumption)

    def hours(self, flops: float) -> float:
        """GPU-hours of so many FLOPs."""
        return flops / 3600 / (self.peak_tflops * 1e12 * self.utilisation)


ASSUMPTIONS = Assumptions()


def row(
    task: str, role: str, model: str, *, runs: int, hours: float, params: float, copies_on_disk: int,
    assumptions: Assumptions = ASSUMPTIONS, note: str = "",
) -> dict[str, Any]:  # fmt: skip
    """One line of a plan. ``hours``: GPU-hours of all runs; ``params``: parameters of the model, fp32.

    Memory is weights, gradients and two moments; activations come on top.
    """
    weights = 4 * params  # bytes
    return {
        "task": task,
        "role": role,
        "model": model,
        "runs": runs,
        "gpu_hours": hours,
        "wall_hours": hours / assumptions.devices,
        "memory_gb": 4 * weights / 1e9,
        "disk_gb": copies_on_disk * weights / 1e9,
        "money_usd": hours * assumptions.money_per_device_hour,
        "assumes": f"{assumptions.peak_tflops:g} TFLOP/s at {assumptions.utilisation:.0%}, "
        f"{assumptions.money_per_device_hour:g} USD per GPU-hour{note}",
    }
