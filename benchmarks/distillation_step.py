"""What teachers in the loop cost is what arithmetic says, and how many a step draws one from does not matter.

Training steps of a ResNet-8 of width 16 (128 images of 32 x 32: bound by computation) with 1 to 8 teachers of its own
architecture take turns. Exit code 1 unless, by 95 % intervals over rounds,

- drawing one of n teachers takes as long for any n: the interval of the slope over n contains 0
- a step takes 1 + X m c_t / c_b times what it takes without teachers, within 5 %: for one teacher, a window of
  X = 0.25, one of n drawn, and an ensemble of n, which is thereby affine in n
- a teacher's forward pass takes at most 1.05 times that of the model alone

A ratio misses its limit when its whole interval does. The C library is told to keep freed memory; see trainer_overhead.

    python -m benchmarks.distillation_step [--rounds 30] [--threads N] [--device cpu] [--precision fp32]
"""

import argparse
import sys

import torch

from benchmarks.trainer_overhead import keep_freed_memory
from paper_repro.timing.kd_step import time_kd_steps

MODEL, BATCH = "resnet8-w16", 128
SIZES = (1, 2, 4, 8)
LIMIT = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    keep_freed_memory()
    found = time_kd_steps(
        MODEL, MODEL, batch=BATCH, draws=SIZES, ensembles=SIZES, precision=arguments.precision,
        rounds=arguments.rounds, threads=arguments.threads, device=arguments.device,
    )  # fmt: skip
    values = {metric["name"]: metric["value"] for metric in found["metrics"]}
    missed = []
    for name, value in values.items():
        if name.endswith(("/low", "/high")):
            continue
        low, high = values[f"{name}/low"], values[f"{name}/high"]
        reached = meets(name, low, high)
        verdict = {None: "", True: "  reached", False: "  MISSED"}[reached]
        print(f"{name:24} {value:9.5f}  95 % [{low:.5f}, {high:.5f}]{verdict}")
        if reached is False:
            missed.append(name)
    disturbed = sum(bool(flags) for flags in found["protocol"]["flags"]["plain/step"])
    print(f"{arguments.device}, {arguments.threads} threads, {arguments.rounds} rounds ({disturbed} flagged)")
    return int(bool(missed))


def meets(name: str, low: float, high: float) -> bool | None:
    """Whether the interval of a metric is compatible with what is promised of it; None where nothing is."""
    if name == "slope/sampled":
        return low <= 0 <= high
    if name.startswith("agreement/"):
        return low <= 1 + LIMIT and high >= 1 - LIMIT
    if name == "forward_ratio":
        return low <= 1 + LIMIT
    return None


if __name__ == "__main__":
    sys.exit(main())
