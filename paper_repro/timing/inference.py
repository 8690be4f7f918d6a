"""What a student and a teacher cost per example, at random weights and on synthetic input.

Neither weights nor pixels change what a forward pass costs, so that the papers' own architectures can be timed
without their weights. Only the forward pass is timed: inputs lie on the device already and outputs stay there;
decoding and tokenisation are not in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paper_repro import seeds, zoo
from paper_repro.cascade.curves import amortised_cost as amortised
from paper_repro.errors import UserError
from paper_repro.stats import Interval
from paper_repro.timing.harness import Measurement, Samples, measure
from paper_repro.timing.machine import Machine
from paper_repro.timing.memory import peak_memory
from paper_repro.timing.summary import ratio, summarise, with_limits
from paper_repro.timing.torch_hooks import device_sync, pinned_threads
from paper_repro.train.predict import DTYPES, autocast
from paper_repro.zoo.registry import resolve

__all__ = ["Subject", "amortised", "time_models", "time_pair"]

SPLIT = "synthetic"
Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Subject:
    """A model to time. ``inputs(n)`` makes n examples on the CPU; ``flops`` is per example, None where unknown."""

    name: str
    model: nn.Module
    inputs: Callable[[int], Inputs]
    batch_size: int
    flops: float | None = None


def time_pair(
    student: str,
    teacher: str,
    *,
    device: str | torch.device = "cpu",
    student_batch: int = 8,
    teacher_batch: int = 1,
    precision: str = "fp32",
    rounds: int = 7,
    threads: int | None = None,
    block_s: float = 0.5,
    budget_s: float | None = 100.0,
    warmup: int = 2,
    num_classes: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Time two zoo models side by side; see ``time_models`` for what is returned.

    A ``*_batch`` is the batch of the throughput measurement (latency is at batch 1), halved until it fits the memory
    of a GPU. ``num_classes``: None is what the zoo lists for each. Raises UserError for a name that the zoo does
    not have, a device that is not there and an unknown precision.
    """
    device = _device(device)
    subjects = {}
    for role, name, batch_size in (("student", student, student_batch), ("teacher", teacher, teacher_batch)):
        subjects[role] = _from_zoo(role, name, batch_size, num_classes, seed)
    return time_models(
        subjects, device=device, precision=precision, rounds=rounds, threads=threads, block_s=block_s,
        budget_s=budget_s, warmup=warmup, seed=seed,
    )  # fmt: skip


def _from_zoo(role: str, name: str, batch_size: int, num_classes: int | None, seed: int) -> Subject:
    classes = num_classes or resolve(name, {})[0].num_classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, "timing weights", role=role))
        model = zoo.build(name, classes)
    drawn = seeds.derive(seed, "timing input", role=role)
    flops = zoo.cost(name, classes)["flops_per_example"]
    return Subject(name, model, lambda n: zoo.inputs(name, n, seed=drawn), batch_size, flops)


def time_models(
    subjects: Mapping[str, Subject],
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    rounds: int = 7,
    threads: int | None = None,
    block_s: float = 0.5,
    budget_s: float | None = None,
    warmup: int = 2,
    seed: int = 0,
    machine: Machine | None = None,
) -> dict[str, Any]:
    """Time models, given by role ("student", "teacher"), interleaved in this process.

    Returns the parts of one result record as plain dictionaries. ``metrics``, per role, named ``<role>/<what>``:
    latency_s (batch 1; median over rounds, with /low /high of its 95 % interval, /q25 /q75, /cv, /flagged rounds),
    throughput_per_s (likewise), flops (per example), params, peak_memory_bytes (weights and the largest extra use
    during one batch). With a student and a teacher also ``speedup/latency`` and ``speedup/throughput``: teacher's
    seconds over student's, per round, median with /low /high. ``samples``: <role>/latency_s and
    <role>/seconds_per_example, one per round; <role>/latency_call_s, every call, round after round;
    <role>/<kind>_other_cores, one per round. ``protocol``, ``cost`` and ``clocks`` go into the record's fields of
    these names. ``threads``: None is as many as torch has now. ``budget_s``: as in ``measure``, for each model and
    kind of measurement.
    """
    device = _device(device)
    if precision not in DTYPES:
        raise UserError(f"There is no precision '{precision}'; choose one of: {', '.join(DTYPES)}.")
    threads = threads or torch.get_num_threads()
    with pinned_threads(threads), torch.inference_mode(), autocast(precision, device):
        prepared = {role: _prepare(subject, device) for role, subject in subjects.items()}
        competitors = {}
        for role, one in prepared.items():
            if one.batch_size == 1:
                competitors[f"{role}/both"] = one.call(1)
            else:
                competitors[f"{role}/latency"] = one.call(1)
                competitors[f"{role}/throughput"] = one.call(one.batch_size)
        modes: dict[str, Any] = {name: name.rpartition("/")[2] for name in competitors}
        found = measure(
            competitors,
            rounds=rounds,
            block_s=block_s,
            budget_s=budget_s,
            warmup=warmup,
            latency_calls=100,
            mode=modes,
            sync=device_sync(device),
            machine=machine or Machine(gpu=device.type == "cuda"),
            seed=seed,
        )
    return _report(subjects, prepared, found, device, precision, threads)


@dataclass(frozen=True)
class _Prepared:
    """A model on its device. ``batch_size`` is the one that fitted; ``peak_bytes`` None where it cannot be known."""

    subject: Subject
    device: torch.device
    batch_size: int
    params: int
    peak_bytes: int | None
    finite: bool

    def call(self, batch_size: int) -> Callable[[], Any]:
        return _bound(self.subject, batch_size, self.device)


def _bound(subject: Subject, batch_size: int, device: torch.device) -> Callable[[], Any]:
    inputs = tuple(value.to(device) for value in subject.inputs(batch_size))
    return lambda: subject.model(*inputs)


def _prepare(subject: Subject, device: torch.device) -> _Prepared:
    """Move the model, find the batch that fits, and learn the peak of memory from its first call."""
    model = subject.model.to(device).eval()
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    params, batch_size = sum(parameter.numel() for parameter in model.parameters()), subject.batch_size
    sync = device_sync(device)
    while True:
        try:
            call = _bound(subject, batch_size, device)
            with peak_memory(device) as extra:
                output = call()
                sync()
            break
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise UserError(f"{subject.name} does not fit into {device}'s memory; time it elsewhere.") from None
            batch_size //= 2
            torch.cuda.empty_cache()
    peak = extra[0] + weights if extra else None
    return _Prepared(subject, device, batch_size, params, peak, bool(torch.isfinite(output).all()))


def _report(
    subjects: Mapping[str, Subject],
    prepared: Mapping[str, _Prepared],
    found: Measurement,
    device: torch.device,
    precision: str,
    threads: int,
) -> dict[str, Any]:
    metrics: list[dict[str, Any]] = []
    samples: dict[str, list[float]] = {}
    cost: dict[str, float | None] = {}
    for role, one in prepared.items():
        latency, block = _kind(found, role, "latency"), _kind(found, role, "throughput")
        per_example = [seconds / one.batch_size for seconds in block.block_s]
        samples |= {
            f"{role}/latency_s": latency.latency_s,
            f"{role}/latency_call_s": [seconds for calls in latency.call_s for seconds in calls],
            f"{role}/latency_other_cores": latency.other_cores,
            f"{role}/seconds_per_example": per_example,
            f"{role}/throughput_other_cores": block.other_cores,
        }
        metrics += _series(f"{role}/latency_s", "s", latency.latency_s, latency.flags)
        metrics += _series(f"{role}/throughput_per_s", "1/s", [1 / seconds for seconds in per_example], block.flags)
        for name, value, unit in (
            ("flops", one.subject.flops, "FLOP"),
            ("params", one.params, "parameters"),
            ("peak_memory_bytes", one.peak_bytes, "byte"),
        ):
            metrics.append(_metric(f"{role}/{name}", value, unit))
            cost[f"{role}/{name}"] = value
    if {"student", "teacher"} <= set(prepared):
        for kind, series in (("latency", "latency_s"), ("throughput", "seconds_per_example")):
            speedup = ratio(samples[f"teacher/{series}"], samples[f"student/{series}"])
            metrics += with_limits(f"speedup/{kind}", "ratio", speedup)
    protocol = found.protocol | {
        "models": {role: subject.name for role, subject in subjects.items()},
        "weights": "random",
        "input": "synthetic, on the device",
        "timed": "forward pass only: no decoding, tokenisation or transfer",
        "mode_of_model": "eval, inference_mode, eager",
        "device": str(device),
        "precision": precision,
        "threads": threads,
        "batch_sizes": {role: {"latency": 1, "throughput": one.batch_size} for role, one in prepared.items()},
        "output_finite": {role: one.finite for role, one in prepared.items()},
        "machine": found.machine,
        "flags": {name: one.flags for name, one in found.items()},
        "flops_convention": "2 per multiply-accumulate",
    }
    return {"metrics": metrics, "samples": samples, "cost": cost, "protocol": protocol, "clocks": found.clocks}


def _kind(found: Measurement, role: str, kind: str) -> Samples:
    return found[f"{role}/both"] if f"{role}/both" in found else found[f"{role}/{kind}"]


def _series(name: str, unit: str, values: list[float], flags: list[list[str]]) -> list[dict[str, Any]]:
    summary = summarise(values, flags)
    metrics = with_limits(name, unit, Interval(*summary[:3], summary.n))
    for part in ("q25", "q75", "median_unflagged"):
        metrics.append(_metric(f"{name}/{part}", getattr(summary, part), unit, summary.n))
    metrics.append(_metric(f"{name}/cv", summary.cv, "ratio", summary.n))
    metrics.append(_metric(f"{name}/flagged", summary.flagged, "rounds", summary.n))
    return metrics


def _metric(name: str, value: float | None, unit: str, n: int | None = None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "split": SPLIT, "n": n}


def _device(device: str | torch.device) -> torch.device:
    """``device``, if it is there."""
    try:
        wanted = torch.device(device)
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError):
        raise UserError(f"There is no device '{device}' here; choose another, such as 'cpu'.") from None
    return wanted
