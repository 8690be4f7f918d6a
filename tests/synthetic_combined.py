"""Made-up but plausible records of the combined experiment, for whatever reads results. Needs no torch.

The cells are those of the tier's configuration. In this world an arm is ``GAIN`` more accurate than plain training, the
teacher ``TEACHER`` more; a cascade loses ``LOST`` of that and defers ``DEFERRED``; a network is ``FASTER["net"]`` times
and an n-gram student ``FASTER["ngrams"]`` times as fast as the teacher.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from synthetic_titans import CODE, ENVIRONMENT

from paper_repro.config import sha256_key
from paper_repro.paths import REPO
from paper_repro.results import Metric, Record, Store

GAIN = {
    "plain": 0.0, "kd": 0.02, "kd-half": 0.018, "majority": 0.001, "kd+majority": 0.022, "sparse": -0.01,
    "sparse+kd": 0.005, "sparse+kd+corpus": 0.025, "kd+corpus": 0.03,
}  # fmt: skip
PLAIN, TEACHER, LOST, DEFERRED, GAINED = 0.85, 0.08, 0.003, 0.2, 0.002
FASTER = {"teacher": 1.0, "net": 8.0, "ngrams": 400.0, "ngrams+corpus": 320.0}
TEACHER_S, SINGLE_S = 900.0, 0.02  # seconds of training, and of one example
POINTS = np.linspace(0, 1, 5)
N_TEST = 25_000


def write_combined(root: Path, tier: str = "cpu", seeds: int = 4) -> None:
    """Write ``combined_records`` under ``root``."""
    for record in combined_records(tier, seeds):
        Store(root).write(record)


def combined_records(tier: str = "cpu", seeds: int = 4) -> list[Record]:
    """Students and timings of a tier; at most ``seeds`` repetitions."""
    path = REPO / "experiments" / "configs" / "combined" / f"{tier}.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = []
    for task in config["tasks"]:
        for seed in range(min(seeds, config["seeds"])):
            found += [_student(tier, task, arm, seed) for arm in task["arms"]]
        found += [_timing(tier, task, seed) for seed in range(min(seeds, config["timed_seeds"]))]
    return found


def pace(student: str, deferred: float = 0.0) -> float:
    """Throughput over the teacher's."""
    return 1 / (1 / FASTER[student] + deferred)


def served(arm: dict[str, Any]) -> str:
    """What timings call an arm's student."""
    return f"{arm['student']}+corpus" if arm["student"] == "ngrams" and arm.get("corpus") else str(arm["student"])


def _student(tier: str, task: dict[str, Any], arm: dict[str, Any], seed: int) -> Record:
    dataset, name = task["taught"]["dataset"], arm["name"]
    rng = np.random.default_rng(zlib.crc32(f"{dataset} {name} {seed}".encode()))
    teacher = PLAIN + TEACHER
    right = PLAIN + GAIN[name] + rng.normal(0, 0.001)
    summoned = teacher - LOST + rng.normal(0, 0.0005)
    labels = 300.0 if "kd" in arm else 0.0
    of_test = {
        "accuracy": right, "teacher_accuracy": teacher, "cascade/accuracy": summoned,
        "cascade/lost": teacher - summoned, "cascade/deferred": DEFERRED + rng.normal(0, 0.01),
        "cascade/missed": teacher - summoned + GAINED, "cascade/gained": GAINED,
    }  # fmt: skip
    of_training = {"seconds": 30.0 + seed, "teacher_training_seconds": TEACHER_S, "labelling_seconds": labels}
    metrics = [Metric(name=key, value=value, unit="fraction", split="test", n=N_TEST) for key, value in of_test.items()]
    metrics += [Metric.of_training(key, value, "s") for key, value in of_training.items()]
    curve = teacher + (right - teacher) * POINTS**2
    return _record(
        tier, "student", dataset, task["students"][arm["student"]]["spec"].get("model", "dan"), name,
        {"run": {"arm": arm}}, seed, metrics, {"curve/fraction": POINTS.tolist(), "curve/accuracy": curve.tolist()},
    )  # fmt: skip


def _timing(tier: str, task: dict[str, Any], seed: int) -> Record:
    timed = [arm for arm in task["arms"] if arm.get("timed")]
    speeds = {"teacher": 1.0} | {served(arm): pace(served(arm)) for arm in timed}
    speeds |= {f"{arm['name']}+teacher": pace(served(arm), DEFERRED) for arm in timed}
    metrics = []
    for name, value in speeds.items():
        value *= 1 + 0.01 * seed
        numbers = {
            f"{name}/latency_s": SINGLE_S / value, f"{name}/latency_s/high": 1.1 * SINGLE_S / value,
            f"{name}/throughput_per_s": value / SINGLE_S, f"{name}/throughput_per_s/low": 0.9 * value / SINGLE_S,
            f"{name}/weights_bytes": 9e7 / value,
        }  # fmt: skip
        if name != "teacher":
            numbers[f"speedup/{name}/throughput"] = value
        if name.endswith("+teacher"):
            numbers[f"{name}/deferred"] = DEFERRED
        metrics += [Metric(name=key, value=number, unit="1", split="test") for key, number in numbers.items()]
    return _record(tier, "timing", task["taught"]["dataset"], "all", "cpu", {}, seed, metrics, {})


def _record(
    tier: str, experiment: str, dataset: str, model: str, method: str, params: dict[str, Any], seed: int,
    metrics: list[Metric], samples: dict[str, list[float]],
) -> Record:  # fmt: skip
    key = sha256_key([tier, experiment, dataset, model, method, params, seed])
    return Record(
        paper="combined", experiment=experiment, tier=tier, dataset=dataset, model=model, method=method, params=params,
        seed=seed, key=key, metrics=metrics, samples=samples, clocks={"train_s": 30.0, "total_s": 40.0},
        environment=[ENVIRONMENT], code=CODE,
    )  # fmt: skip
