"""Latency and throughput of deployed classifiers, from raw examples to logits: students, teachers and cascades.

Real weights on real examples: what a cascade costs depends on what it defers. Competitors are interleaved round by
round in one process on one thread, tokenisers too, so that a ratio compares work and not how well it is shared out.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

from paper_repro.cascade.served import Served, Summoning
from paper_repro.distill.export import Student
from paper_repro.timing.harness import measure
from paper_repro.timing.machine import Machine
from paper_repro.timing.summary import median_interval, ratio, with_limits
from paper_repro.timing.torch_hooks import device_sync, pinned_threads

THREADS = 1


def time_served(
    subjects: Mapping[str, Served], raw: Any, *, singles: int, reference: str = "teacher", rounds: int = 6,
    block_s: float = 0.3, device: str = "cpu", machine: Machine | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Time ``subjects`` on the examples ``raw`` [N]: all in one call (throughput), and the first ``singles`` one by one
    (latency).

    Returns the parts of one result record. ``samples``, seconds per example, one per round: ``<name>/latency`` and
    ``<name>/throughput``. ``metrics``, medians with /low and /high: ``<name>/latency_s``, ``<name>/throughput_per_s``,
    and over the ``reference`` in the same rounds ``speedup/<name>/latency`` and ``speedup/<name>/throughput``; of a
    cascade ``<name>/deferred``, the share of ``raw``; ``<name>/weights_bytes``, counted.
    """
    competitors: dict[str, Callable[[], Any]] = {}
    alone = [raw[row : row + 1] for row in range(min(singles, len(raw)))]
    for name, one in subjects.items():
        competitors[f"{name}/throughput"] = lambda one=one: one.logits(raw)  # type: ignore[misc]
        competitors[f"{name}/latency"] = lambda one=one: [one.logits(single) for single in alone]  # type: ignore[misc]
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        with pinned_threads(THREADS):
            found = measure(  # the first warm-up call may compile or load; the last says how many make a block
                competitors, rounds=rounds, block_s=block_s, warmup=2, mode="throughput", sync=device_sync(device),
                machine=machine or Machine(gpu=device != "cpu"), seed=seed,
            )  # fmt: skip
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    count = {"throughput": len(raw), "latency": len(alone)}
    samples = {
        name: [seconds / count[name.rpartition("/")[2]] for seconds in one.block_s] for name, one in found.items()
    }
    metrics = []
    for name, one in subjects.items():
        latency, block = np.array(samples[f"{name}/latency"]), np.array(samples[f"{name}/throughput"])
        metrics += with_limits(f"{name}/latency_s", "s", median_interval(latency), "test")
        metrics += with_limits(f"{name}/throughput_per_s", "1/s", median_interval(1 / block), "test")
        for kind in ("latency", "throughput") if name != reference else ():
            faster = ratio(samples[f"{reference}/{kind}"], samples[f"{name}/{kind}"])
            metrics += with_limits(f"speedup/{name}/{kind}", "ratio", faster, "test")
        if isinstance(one, Summoning):
            share = len(one.answers(raw)[1]) / len(raw)
            metrics.append(_metric(f"{name}/deferred", share, "fraction", len(raw)))
        metrics.append(_metric(f"{name}/weights_bytes", weights_bytes(one), "byte"))
    protocol = found.protocol | {
        "timed": "raw examples in memory to logits: tokenising or resizing, batching, models",
        "latency": f"mean over {len(alone)} examples, each alone",
        "batch_size": len(raw),
        "input": "real",
        "weights": "trained",
        "device": device,
        "threads": THREADS,
        "machine": found.machine,
        "flags": {name: one.flags for name, one in found.items()},
    }
    samples |= {f"{name}_other_cores": one.other_cores for name, one in found.items()}
    return {"metrics": metrics, "samples": samples, "cost": {}, "protocol": protocol, "clocks": found.clocks}


def weights_bytes(served: Served) -> float:
    """Bytes of weights, and of an n-gram student's vocabulary, that a deployed classifier holds."""
    if isinstance(served, Summoning):
        return weights_bytes(served.student) + weights_bytes(served.teacher)
    if isinstance(served, Student):
        return float(sum(file.stat().st_size for file in served.folder.iterdir()))
    model = served.model  # type: ignore[attr-defined]
    assert isinstance(model, nn.Module)
    return float(sum(value.nbytes for value in (*model.parameters(), *model.buffers())))


def _metric(name: str, value: float, unit: str, n: int | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "split": "test", "n": n}
