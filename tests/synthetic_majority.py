"""Made-up but plausible records of Majority Kernels, for whatever reads results. Needs no torch.

The cells are those of the tier's configuration. In this world the accuracy of plain training grows by ``SLOPE`` with
the logarithm of its steps, and its training loss falls as one over them; an arm is ``GAIN`` more accurate, more so with
few examples, at ``LOSS`` times the training loss. So a gap at equal training loss is known: gain + SLOPE ln(LOSS).
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from synthetic_titans import CODE, ENVIRONMENT

from paper_repro.config import sha256_key
from paper_repro.paths import REPO
from paper_repro.results import Metric, Record, Store

GAIN = {
    "mk2": 0.02, "mk3": 0.022, "mk4": 0.024, "mk8": 0.015, "noise": 0.016, "swa": 0.004, "ema": 0.003,
    "dropout": 0.012, "stopped": 0.002, "mk2-lr": -0.01, "mk2-lrk": 0.015, "const2-lr": -0.02, "const2-lrk": 0.002,
    "const2": 0.003, "plain-slow": -0.02, "plain-small": 0.001, "mk2-identical": 0.004, "mk2-scaled": 0.018,
    "mk2-network": 0.019, "mk2-unit": 0.012, "mk2-element": 0.006, "mk2-uniform": 0.02, "mk2-one-hot": 0.014,
    "mk2-hidden": 0.019, "simplex2": 0.021, "simplex2-apart": 0.018, "ensemble4": 0.022, "selected4": -0.25,
    "selected4-tuned": 0.006,
}  # fmt: skip
FEW, MANY = 1.6, 0.2  # times the gain, with fewer and with more examples than the main size
LOSS = {"mk2": 1.5, "mk4": 2.0}  # times the training loss of plain
SLOPE = 0.02
PLAIN = {"digits": 0.9, "cifar10-jpeg": 0.45, "trec-coarse": 0.7}
FLOPS = {"mlp": 35_000.0, "resnet8-w8": 3_000_000.0, "transformer": 10_000_000.0}
COST = {"ensemble4": 5.0, "selected4": 3.7, "selected4-tuned": 3.95}  # times the FLOPs of plain training
SPREAD = {"mk2": 1.0, "mk4": 1.7}


def write_majority(root: Path, tier: str = "cpu", seeds: int = 4) -> None:
    """Write ``majority_records`` under ``root``."""
    for record in majority_records(tier, seeds):
        Store(root).write(record)


def majority_records(tier: str = "cpu", seeds: int = 4) -> list[Record]:
    """Students and timings of a tier; at most ``seeds`` repetitions."""
    path = REPO / "experiments" / "configs" / "majority" / f"{tier}.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    students = [record for task in config["tasks"] for record in _students(tier, task, seeds)]
    return students + [_timing(tier, one, batch) for one in config["timing"] for batch in one["batches"]]


def factor(task: dict[str, Any], size: int) -> float:
    """By how much a gain is larger at a number of examples than at the main one."""
    main = task["sizes"][0]
    return 1.0 if size == main else FEW if size < main else MANY


def _students(tier: str, task: dict[str, Any], seeds: int) -> Iterator[Record]:
    for arm in task["arms"]:
        for number, rate in enumerate(task["rates"] if "rate_of" not in arm else []):
            metrics = [Metric(name=name, value=value, unit="1", split="train") for name, value in rate.items()]
            accuracy = 0.5 + 0.1 * (rate["lr"] == 0.1)
            metrics.append(Metric(name="accuracy", value=accuracy, unit="1", split="validation"))
            yield _record(tier, "tuning", (task["dataset"], task["student"]["model"], arm["name"]), number, metrics, {})
        for size in task["sizes"] if arm.get("mapped") else task["sizes"][:1]:
            for share in arm.get("durations", [1.0]):
                name = arm["name"] + ("" if share == 1 else f":{share:g}")
                name += "" if size == task["sizes"][0] else f"@{size}"
                for seed in range(min(seeds, task["seeds"])):
                    traced = share == 1 and seed < arm.get("traced", 0)
                    metrics = _metrics(task, arm["name"], size, share, seed)
                    samples = _trace(task, arm["name"], seed) if traced else {}
                    cell = (task["dataset"], task["student"]["model"], name)
                    yield _record(tier, "student", cell, seed, metrics, samples)


def _metrics(task: dict[str, Any], arm: str, size: int, share: float, seed: int) -> list[Metric]:
    together = np.random.default_rng([seed, size])
    own = np.random.default_rng([zlib.crc32(arm.replace("mk1", "plain").encode()), seed, size, int(100 * share)])
    luck = 0.01 * together.normal() + 0.003 * own.normal()
    few = size / max(task["sizes"])
    plain = PLAIN.get(task["dataset"], 0.5) + 0.04 * np.log(few) + SLOPE * np.log(share)
    loss = 0.02 * few / share * LOSS.get(arm, 1.0)
    steps = task["student"]["train"]["steps"] * task["student"]["train"]["global_batch"]
    cost = FLOPS.get(task["student"]["model"], 1e6) * steps * share * COST.get(arm, 1.0)
    test = {"accuracy": plain + GAIN.get(arm, 0.0) * factor(task, size) + luck, "loss": 1.0}
    if "resnet" in task["student"]["model"]:
        test["accuracy_running"] = test["accuracy"] - 0.03 * arm.startswith("mk2")
    train = {"accuracy": 1 - 0.4 * few, "loss": loss}
    training = {
        "training_flops": cost, "seconds": share * COST.get(arm, 1.0) * float(own.lognormal(0, 0.05)), "lr": 0.1,
        "weight_decay": 5e-4,
        "different_keys": 0.0, "folding_difference": 0.0, "optimizer_runs": 1.0, "log_top_eigenvalue": 3.0 + luck,
    }  # fmt: skip
    return [
        *(Metric(name=name, value=value, unit="1", split="test", n=1000) for name, value in test.items()),
        *(Metric(name=name, value=value, unit="1", split="train", n=size) for name, value in train.items()),
        *(Metric(name=name, value=value, unit="1", split="train") for name, value in training.items()),
    ]


def _trace(task: dict[str, Any], arm: str, seed: int) -> dict[str, Any]:
    steps = np.arange(7) * task["student"]["train"]["steps"] // 6
    luck = np.exp(0.1 * np.random.default_rng([zlib.crc32(arm.encode()), seed]).normal(size=7))
    past = steps / steps[-1]
    layers = {} if arm not in SPREAD else {
        f"spread/{layer}": SPREAD[arm] * (1 + i) * np.exp(-2 * past) for i, layer in enumerate(("a", "b", "head"))
    }  # fmt: skip
    return layers | {
        "step": steps.astype(float), "spread": SPREAD.get(arm, 0.0) * np.exp(-2 * past) * luck,
        "top_eigenvalue": (4 + 40 * past * (1 if arm == "plain" else 0.5)) * luck,
        "train_loss": 2.3 * np.exp(-4 * past) * luck,
    }  # fmt: skip


def _timing(tier: str, one: dict[str, Any], batch: int) -> Record:
    values = {"plain/step_s": 0.01, "plain/forward_s": 0.003, "folded/forward_s": 0.003, "folded_ratio": 1.0}
    samples = {"plain/step": np.full(7, 0.01), "plain/forward": np.full(7, 0.003), "folded/forward": np.full(7, 0.003)}
    memory = {}
    for k in one["ks"]:
        overhead = 1 + 0.5 * k / batch
        values |= {f"mk{k}/step_s": 0.01 * overhead, f"overhead/mk{k}": overhead}
        samples[f"mk{k}/step"] = np.full(7, 0.01 * overhead)
        memory[f"memory_ratio/mk{k}"] = 0.5 + 0.5 * k
    metrics = [
        Metric(name=f"{name}{end}", value=value * (1 + shift), unit="1", split="synthetic", n=7)
        for name, value in values.items()
        for end, shift in (("", 0.0), ("/low", -0.02), ("/high", 0.02))
    ] + [Metric(name=name, value=value, unit="ratio", split="train") for name, value in memory.items()]
    device = "cuda" if tier == "gpu" else "cpu"
    return _record(tier, "timing", ("synthetic", one["model"], f"{device}-batch{batch}"), 0, metrics, samples)


def _record(
    tier: str, experiment: str, cell: tuple[str, str, str], seed: int, metrics: list[Metric], samples: dict[str, Any]
) -> Record:
    dataset, model, method = cell
    return Record(
        paper="majority", experiment=experiment, tier=tier, dataset=dataset, model=model, method=method, seed=seed,
        key=sha256_key([tier, experiment, *cell, seed]), metrics=metrics, samples=samples,
        clocks={"train_s": 20.0, "total_s": 23.0}, protocol={"threads": 2}, environment=[ENVIRONMENT], code=CODE,
        started_at="2026-01-01T00:00:00+00:00", finished_at="2026-01-01T00:00:23+00:00",
    )  # fmt: skip
