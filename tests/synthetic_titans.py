"""Made-up but plausible Titans records, for whatever reads results: figures, notebooks, report. Needs no torch.

Examples have a difficulty that teacher and students share; the cells are those of the tier's configuration.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from paper_repro.config import sha256_key
from paper_repro.paths import REPO
from paper_repro.results import Metric, Record, Store

FRACTIONS = np.linspace(0, 1, 21)
SKILL = {"resnet8-w8": 1.1, "resnet8-w16": 1.5, "bag": 1.6, "transformer": 1.7, "mlp": 1.6}
GAIN = {"md": 0.02, "md-rho0.6": 0.015, "ce+kd": 0.02, "ce+kd-t4": 0.03, "ce": -0.05, "md-alpha1": -0.03}
ENVIRONMENT = {
    "python": "3.12.3", "system": "Linux", "machine": "x86_64", "cpu": "Example CPU", "cores": 2,
    "memory_bytes": 25_000_000_000, "packages": {"torch": "2.11.0", "numpy": "2.2.0"}, "threads": 1,
}  # fmt: skip
CODE = {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "source_sha256": "ab" * 32}


def write_titans(root: Path, tier: str = "cpu", seeds: int = 16, examples: int = 2000) -> None:
    """Write students, teachers and timings of ``tier`` under ``root``; at most ``seeds`` repetitions each."""
    store = Store(root)
    for record in titans_records(tier, seeds, examples):
        store.write(record)


def titans_records(tier: str = "cpu", seeds: int = 16, examples: int = 2000) -> list[Record]:
    """The records of ``write_titans``."""
    config = yaml.safe_load((REPO / "experiments" / "configs" / "titans" / f"{tier}.yaml").read_text(encoding="utf-8"))
    settings = {name: config[name] for name in ("keep_fraction", "rho", "epsilon", "delta")}
    found = []
    for task in config["tasks"]:
        dataset, teacher = task["dataset"], task["teacher"]["model"]
        world = _World(dataset, examples)
        metrics = [_metric("accuracy", world.teacher.mean(), split) for split in ("train", "validation", "test")]
        found.append(_record(tier, "teacher", dataset, teacher, "teacher", 0, metrics))
        for student in task["students"]:
            model = student["spec"]["model"]
            for method in config["methods"]:
                repetitions = student["decisive_seeds"] if method.get("decisive") else method["seeds"]
                for seed in range(min(seeds, repetitions)):
                    metrics, samples = world.student(model, method["name"], seed, settings)
                    params = {"settings": settings}
                    found.append(
                        _record(tier, "student", dataset, model, method["name"], seed, metrics, samples, params)
                    )
    return found + [_timing(tier, pair["student"], pair["teacher"]) for pair in config["timing"]]


class _World:
    """One test set, with its teacher."""

    def __init__(self, dataset: str, n: int) -> None:
        rng = np.random.default_rng(zlib.crc32(dataset.encode()))
        self.ease, self.n = rng.normal(size=n), n
        self.teacher = rng.random(n) < _sigmoid(2.6 + 1.6 * self.ease)
        self.easy = self.ease + 0.4 * rng.normal(size=n) > -0.8
        self.inside = rng.random(n) < 0.5

    def student(
        self, model: str, method: str, seed: int, settings: dict[str, float]
    ) -> tuple[list[Metric], dict[str, Any]]:
        rng = np.random.default_rng([zlib.crc32(model.encode()), seed])  # methods of a repetition share their noise
        skill = SKILL.get(model, 1.3) + GAIN.get(method, 0.0) + 0.03 * rng.normal()
        special = 0.2 * np.where(self.inside, 1, -3) * (1 + (method == "cd3")) if method.startswith("cd") else 0.0
        own = np.random.default_rng([zlib.crc32(method.encode()), seed])  # and each has a little of its own
        draw = 0.97 * rng.random(self.n) + 0.03 * own.random(self.n)
        right = draw < _sigmoid(skill + special + 1.3 * self.ease)
        margin = _sigmoid(
            1.2 * self.ease + special + 0.8 * right + 0.6 * rng.normal(size=self.n) + 0.1 * own.normal(size=self.n)
        )
        scores = {"margin": margin, "random": np.zeros(self.n), "oracle": 1.0 * right - self.teacher}
        if method != "cd3":
            scores["max_prob"] = margin + 0.02 * rng.normal(size=self.n)
            scores["entropy"] = margin + 0.06 * rng.normal(size=self.n)
        scores["head"] = margin + 0.03 * rng.normal(size=self.n)
        values: dict[str, float] = {"accuracy": right.mean(), "teacher_accuracy": self.teacher.mean()}
        samples: dict[str, Any] = {"curve/fraction": FRACTIONS}
        for name, score in scores.items():
            curve = _curve(score, right, self.teacher)
            values[f"auc/{name}"] = _area(curve)
            samples[f"curve/{name}"] = _at(curve, FRACTIONS)
        easy = _curve(margin[self.easy], right[self.easy], self.teacher[self.easy])
        samples["curve_in_domain/margin"] = _at(easy, FRACTIONS)
        samples["curve_cost/margin"] = 0.12 + 1 - FRACTIONS
        values["auc_in_domain/margin"] = _area(easy)
        kept = margin >= np.quantile(margin, 1 - settings["keep_fraction"])
        for rule in ("margin", "head"):
            values[f"fraction_at_80/{rule}"] = kept.mean() + 0.004 * rng.normal()
            values[f"accuracy_at_80/{rule}"] = np.where(kept, right, self.teacher).mean()
        values["accuracy_at_80_test_threshold/margin"] = values["accuracy_at_80/margin"] + 0.0005 * rng.normal()
        values["deferred/teacher_accuracy"], values["deferred/student_accuracy"] = (
            self.teacher[~kept].mean(),
            right[~kept].mean(),
        )
        for share in (10, 30, 50, 70, 90):
            at_home = share / 100 * kept[self.easy].mean() + (1 - share / 100) * kept[~self.easy].mean()
            values[f"cost/easy_share_{share}"] = 0.12 + 1 - at_home
        parts = {"easy": self.easy, "hard": ~self.easy, "in_classes": self.inside, "out_classes": ~self.inside}
        values |= {f"accuracy_{name}": right[part].mean() for name, part in parts.items()}
        shift = 0.1 * float(method.rpartition("alpha")[2]) if "alpha" in method else 0.0
        values |= {"auroc_easy": 0.8 + shift / 10, "margin_hard": margin[~self.easy].mean() - shift}
        at_rho = margin >= settings["rho"]
        values |= {"fraction_at_rho": at_rho.mean(), "accuracy_at_rho": np.where(at_rho, right, self.teacher).mean()}
        values["kept_hard_at_rho"] = at_rho[~self.easy].mean() - shift
        predicted = self.inside ^ (own.random(self.n) < 0.1)
        values |= {
            "class_rule/fraction": predicted.mean(),
            "class_rule/accuracy": np.where(predicted, right, self.teacher).mean(),
        }
        values["margin_at_class_fraction"] = _at(_curve(margin, right, self.teacher), np.array([predicted.mean()]))[0]
        rho = np.quantile(margin, rng.uniform(0.45, 0.6))
        accuracy = np.where(margin >= rho, right, self.teacher).mean()
        values |= {
            "calibrated/threshold": rho,
            "calibrated/fraction": (margin >= rho).mean(),
            "calibrated/accuracy": accuracy,
        }
        values["calibrated/teacher_gap"] = self.teacher.mean() - accuracy
        return [_metric(name, value) for name, value in values.items()], samples


def _timing(tier: str, student: str, teacher: str) -> Record:
    rng = np.random.default_rng(7)
    slow, fast = 4.0 * rng.lognormal(0, 0.02, 7), 0.05 * rng.lognormal(0, 0.03, 7)
    values = {"student/flops": 3e8, "teacher/flops": 3e11, "student/params": 4e6, "teacher/params": 4.8e8}
    values |= {f"{role}/latency_s": float(np.median(s)) for role, s in (("student", fast), ("teacher", slow))}
    for kind, ratios in (("latency", slow / fast), ("throughput", 2 * slow / fast)):
        for suffix, value in (("", np.median(ratios)), ("/low", ratios.min()), ("/high", ratios.max())):
            values[f"speedup/{kind}{suffix}"] = float(value)
    metrics = [_metric(name, value, "synthetic", "ratio") for name, value in values.items()]
    samples = {"teacher/latency_s": slow, "student/latency_s": fast}
    return _record(tier, "timing", "synthetic", f"{student}|{teacher}", "cpu", 0, metrics, samples)


def _record(
    tier: str, experiment: str, dataset: str, model: str, method: str, seed: int, metrics: list[Metric],
    samples: dict[str, Any] | None = None, params: dict[str, Any] | None = None,
) -> Record:  # fmt: skip
    return Record(
        paper="titans", experiment=experiment, tier=tier, dataset=dataset, model=model, method=method, seed=seed,
        key=sha256_key([tier, experiment, dataset, model, method, seed]), metrics=metrics, samples=samples or {},
        params=params or {}, clocks={"train_s": 20.0, "total_s": 23.0}, environment=[ENVIRONMENT], code=CODE,
        started_at="2026-01-01T00:00:00+00:00", finished_at="2026-01-01T00:00:23+00:00",
    )  # fmt: skip


def _metric(name: str, value: float, split: str = "test", unit: str = "fraction") -> Metric:
    return Metric(name=name, value=float(value), unit=unit, split=split)


def _curve(score: np.ndarray, student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    if np.ptp(score) == 0:
        return np.linspace(teacher.mean(), student.mean(), len(score) + 1)
    gain = (1.0 * student - teacher)[np.argsort(-score, kind="stable")]
    return (teacher.sum() + np.concatenate([[0], np.cumsum(gain)])) / len(score)


def _area(curve: np.ndarray) -> float:
    return float((curve[:-1] + curve[1:]).mean() / 2)


def _at(curve: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    return np.interp(fractions, np.linspace(0, 1, len(curve)), curve)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
