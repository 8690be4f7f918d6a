"""Made-up but plausible records of Reduce, Reuse, Recycle, for whatever reads results. Needs no torch.

In this world an arm is worth ``saving`` times its steps, and a teacher's forward pass ``RATIO`` of a step; so its
speed-up is known: saving / (1 + share * teachers * ratio).
"""

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from synthetic_titans import CODE, ENVIRONMENT

from paper_repro.config import sha256_key
from paper_repro.results import Metric, Record, Store


class Arm(NamedTuple):
    """What an arm's steps are worth, the share that asks, how many teachers these ask, and whom."""

    saving: float
    share: float = 0.0
    teachers: int = 0
    teacher: str = ""


class World(NamedTuple):
    """A task. A teacher is its architecture, its quality, and c_t / c_b."""

    dataset: str
    model: str
    durations: tuple[float, ...]
    arms: dict[str, Arm]
    teachers: dict[str, tuple[str, float, float]]
    step_s: float
    steps_of_duration: int


IMAGE = World(
    "cifar10-jpeg", "resnet8-w8", (1, 2, 4, 8),
    {
        "ce": Arm(1.0), "ce-aug": Arm(0.8), "smooth": Arm(1.02), "kd": Arm(1.55, 1, 1, "same"),
        "kd-half": Arm(1.5, 0.5, 1, "same"), "kd-quarter": Arm(1.25, 0.25, 1, "same"),
        "kd-half-fade": Arm(1.48, 0.5, 1, "same"), "kd-every2": Arm(1.45, 0.5, 1, "same"),
        "kd-mse": Arm(1.5, 1, 1, "same"), "kd-reversed": Arm(1.4, 1, 1, "same"), "kd-worst": Arm(1.1, 1, 1, "worst"),
        "kd-wide": Arm(1.6, 1, 1, "wide"), "kd-big": Arm(1.7, 1, 1, "big"), "kd-cached": Arm(1.65, 1, 0, "big"),
        "kd-sampled": Arm(1.6, 1, 1), "kd-ensemble": Arm(1.65, 1, 4),
    },
    {
        "worst": ("resnet8-w2", 0.60, 0.15), "same": ("resnet8-w8", 0.76, 0.4), "wide": ("resnet8-w16", 0.80, 0.6),
        "deep": ("resnet14-w8", 0.79, 0.6), "big": ("resnet20-w16", 0.86, 1.2),
    },
    0.02, 352,
)  # fmt: skip
LANGUAGE = World(
    "imdb", "mlm", (500, 1000, 2000, 3000),
    {
        "ce": Arm(1.0), "kd": Arm(1.35, 1, 1, "same"), "kd-20": Arm(1.25, 0.2, 1, "same"),
        "kd-35": Arm(1.35, 0.35, 1, "same"), "kd-50": Arm(1.38, 0.5, 1, "same"), "kd-big": Arm(1.5, 1, 1, "big"),
        "kd-big-35": Arm(1.45, 0.35, 1, "big"), "kd-35-fade": Arm(1.3, 0.35, 1, "same"),
        "kd-positions": Arm(1.1, 1, 1, "same"), "kd-everywhere": Arm(1.2, 1, 1, "same"),
        "kd-worst": Arm(1.05, 1, 1, "worst"),
    },
    {"worst": ("mlm", 5.4, 0.35), "same": ("mlm", 3.9, 0.35), "big": ("mlm", 3.5, 0.9)},
    0.05, 1,
)  # fmt: skip
WORLDS = (IMAGE, LANGUAGE)
SINGLE = ("ce-aug", "kd-mse", "kd-reversed", "kd-positions")  # run for the middle duration alone
PAIRS = {("resnet50", "resnet50"): 0.33, ("resnet50", "resnet101"): 0.6, ("bert-base-mlm", "bert-base-mlm"): 0.35,
         ("bert-base-mlm", "bert-large-mlm"): 1.1, ("resnet8-w8", "resnet8-w8"): 0.4}  # fmt: skip
GLUE = {"cola": 0.2, "sst2": 0.82, "mrpc": 0.78, "stsb": 0.7, "rte": 0.55}


def write_recycle(root: Path, tier: str = "cpu", **options: Any) -> None:
    """Write ``recycle_records`` under ``root``."""
    for record in recycle_records(tier, **options):
        Store(root).write(record)


def recycle_records(tier: str = "cpu", seeds: int = 4, changes: Mapping[str, Arm] | None = None) -> list[Record]:
    """Teachers, labels, students, GLUE and timings. ``changes``: what arms are worth instead, in both tasks."""
    found = []
    for world in WORLDS:
        arms = {name: (changes or {}).get(name, arm) for name, arm in world.arms.items()}
        found += [*_teachers(tier, world), *_students(tier, world, arms, seeds)]
    return [*found, *_glue(tier, seeds), *(_timing(tier, *pair, ratio) for pair, ratio in PAIRS.items())]


def quality(world: World, duration: float) -> dict[str, float]:
    """Accuracy and loss after ``duration`` of plain steps."""
    if world is IMAGE:
        accuracy = 0.82 - 0.28 * duration**-0.6
        return {"accuracy": accuracy, "loss": 2.4 - 2 * accuracy}
    loss = 3.4 + 2.2 * (duration / 500) ** -0.4
    return {"accuracy": 0.75 - 0.1 * loss, "loss": loss}


def cost(world: World, arm: str, of: Arm) -> float:
    """Seconds of a step over the baseline's."""
    pool = [ratio for _, _, ratio in world.teachers.values()]
    ratio = world.teachers[of.teacher][2] if of.teacher else float(np.mean(pool))
    return 1 + of.share * of.teachers * ratio


def _teachers(tier: str, world: World) -> Iterator[Record]:
    for name, (model, value, _) in world.teachers.items():
        accuracy, loss = (value, 2.4 - 2 * value) if world is IMAGE else (0.75 - 0.1 * value, value)
        metrics = [_metric(metric, v, "test") for metric, v in (("accuracy", accuracy), ("loss", loss))]
        yield _record(tier, "teacher", (world.dataset, model, name), 0, [*metrics, _metric("seconds", 300.0, "train")])
    if world is IMAGE:
        metrics = [_metric("rows", 45_000, "train"), _metric("seconds", 28.0, "train")]
        yield _record(tier, "labels", (world.dataset, world.teachers["big"][0], "big"), 0, metrics)


def _students(tier: str, world: World, arms: Mapping[str, Arm], seeds: int) -> Iterator[Record]:
    middle = world.durations[len(world.durations) // 2]
    for name, arm in arms.items():
        durations = (middle,) if name in SINGLE else world.durations
        for duration in (*durations, 5) if world is IMAGE and name == "ce" else durations:
            for seed in range(seeds):
                together = np.random.default_rng([seed, int(duration)])
                own = np.random.default_rng([zlib.crc32(name.encode()), seed, int(duration)])
                luck = 0.004 * together.normal() + 0.002 * own.normal()
                values = quality(world, duration * arm.saving)
                steps = duration * world.steps_of_duration
                plain = steps * world.step_s * float(own.lognormal(0, 0.01))
                training = {
                    "seconds": plain * cost(world, name, arm), "teacher_seconds": plain * (cost(world, name, arm) - 1),
                    "training_flops": 1e9 * plain * cost(world, name, arm),
                    "cpu_seconds": plain, "steps": steps, "teacher_passes": steps * arm.share * arm.teachers, "lr": 0.1,
                    "teacher_training_seconds": 300.0 * bool(arm.share),
                    "labelling_seconds": 28.0 * (name == "kd-cached"),
                }  # fmt: skip
                metrics = [_metric("accuracy", values["accuracy"] + luck, "test")]
                metrics += [_metric("loss", values["loss"] - 2 * luck, "test")]
                metrics += [_metric(metric, value, "train") for metric, value in training.items()]
                cell = (world.dataset, world.model, f"{name}@{duration:g}")
                yield _record(tier, "student", cell, seed, metrics)


def _glue(tier: str, seeds: int) -> Iterator[Record]:
    for place, arm in enumerate(("ce", "kd", "kd-35", "kd-big")):
        for task, score in GLUE.items():
            for seed in range(seeds):
                luck = 0.01 * np.random.default_rng([zlib.crc32(task.encode()), seed]).normal()
                metrics = [_metric("score", score + 0.01 * place + luck, "validation")]
                yield _record(tier, "glue", (task, LANGUAGE.model, f"{arm}@2000"), seed, metrics)


def _timing(tier: str, student: str, teacher: str, ratio: float) -> Record:
    values = {"cost_ratio": ratio, "forward_ratio": 1.01, "slope/sampled": 0.0, "slope/ensemble": 1.0}
    asked = {"full": 1.0, "window-0.25": 0.25} | {f"sampled-{n}": 1.0 for n in (2, 4)}
    samples = {"plain/step": np.full(7, 1.0)}
    for name, forwards in (asked | {f"ensemble-{n}": float(n) for n in (2, 4)}).items():
        predicted = 1 + forwards * ratio
        samples |= {f"{name}/step": np.full(7, 1.01 * predicted), f"{name}/predicted": np.full(7, predicted)}
        values |= {f"overhead/{name}": 1.01 * predicted, f"predicted/{name}": predicted, f"agreement/{name}": 1.01}
    values["overhead/loader"] = 1.0
    metrics = [
        _metric(f"{name}{end}", value + shift, "test")
        for name, value in values.items()
        for end, shift in (("", 0.0), ("/low", -0.02), ("/high", 0.02))
    ]
    device = "cuda" if tier == "gpu" else "cpu"
    return _record(tier, "timing", ("synthetic", f"{student}|{teacher}", device), 0, metrics, samples)


def _metric(name: str, value: float, split: str) -> Metric:
    return Metric(name=name, value=value, unit="1", split=split)


def _record(
    tier: str, experiment: str, cell: tuple[str, str, str], seed: int, metrics: list[Metric],
    samples: dict[str, Any] | None = None,
) -> Record:  # fmt: skip
    dataset, model, method = cell
    return Record(
        paper="recycle", experiment=experiment, tier=tier, dataset=dataset, model=model, method=method, seed=seed,
        key=sha256_key([tier, experiment, *cell, seed]), metrics=metrics, samples=samples or {},
        clocks={"train_s": 20.0, "total_s": 23.0}, protocol={"threads": 2}, environment=[ENVIRONMENT], code=CODE,
        started_at="2026-01-01T00:00:00+00:00", finished_at="2026-01-01T00:00:23+00:00",
    )  # fmt: skip
