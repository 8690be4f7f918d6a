"""The harness agrees with torch.utils.benchmark within 5 % on a fixed model: per block, and per call.

Both time the same small network on the same input, taking turns, on equally many threads. Printed is the ratio of
seconds (ours over theirs), the median over turns with its 95 % interval. Exit code 1 unless the whole interval of
each lies within 5 %: run it on a quiet machine, and with more turns where the interval is too wide.

    python -m benchmarks.timing_agreement [--turns 25] [--threads N] [--device cpu]
"""

import argparse
import sys

import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.benchmark import Timer

from paper_repro.timing import device_sync, measure, pinned_threads, ratio, summarise
from paper_repro.timing.machine import Machine

LIMIT = 0.05
BLOCK_S = 0.2


def fixed_model(device: str) -> tuple[nn.Module, torch.Tensor]:
    """A perceptron of a few milliseconds, so that neither clock nor launch matters; weights and input are fixed."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1024))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 32)
    return model.to(device).eval(), torch.randn(64, 1024, generator=generator).to(device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    threads, device = arguments.threads, arguments.device

    model, batch = fixed_model(device)
    theirs = Timer("model(batch)", globals={"model": model, "batch": batch}, num_threads=threads)
    block: list[tuple[float, float]] = []
    call: list[tuple[float, float]] = []
    flagged = 0
    with torch.inference_mode(), pinned_threads(threads):
        for turn in track(range(arguments.turns), "turns", console=Console(stderr=True)):
            reference = theirs.blocked_autorange(min_run_time=BLOCK_S).median if turn % 2 else None
            found = measure(
                {"model": lambda: model(batch)}, rounds=1, block_s=BLOCK_S, latency_calls=100,
                sync=device_sync(device), machine=Machine(),
            )["model"]  # fmt: skip
            if reference is None:
                reference = theirs.blocked_autorange(min_run_time=BLOCK_S).median
            block.append((found.block_s[0], reference))
            call.append((found.latency_s[0], reference))
            flagged += bool(found.flags[0])

    print(f"{device}, {threads} threads, {arguments.turns} turns ({flagged} flagged as disturbed)")
    agree = [agreement("per block", block), agreement("per call", call)]
    return 0 if all(agree) else 1


def agreement(name: str, pairs: list[tuple[float, float]]) -> bool:
    """Print and judge pairs of seconds, (ours, theirs), one per turn."""
    ours, theirs = zip(*pairs, strict=True)
    quotient = ratio(ours, theirs)
    within = quotient.low >= 1 - LIMIT and quotient.high <= 1 + LIMIT
    milliseconds = 1e3 * summarise(ours).median, 1e3 * summarise(theirs).median
    print(
        f"{name}: {milliseconds[0]:.3f} ms against {milliseconds[1]:.3f} ms, ratio {quotient.estimate:.4f} "
        f"[{quotient.low:.4f}, {quotient.high:.4f}]: {'within' if within else 'NOT within'} {LIMIT:.0%}"
    )
    return within


if __name__ == "__main__":
    sys.exit(main())
