"""What teachers in the loop add to a training step (Blakeney et al., arXiv 2211.00683v1).

c_b is the student's step, c_t one forward pass of a teacher. Which steps ask how many teachers decides the cost; the
abstract says O(n) for an ensemble and O(1) for one of n drawn at random, the rest is arithmetic:

    whole run c_b + c_t    window of X: c_b + X c_t    ensemble of n: c_b + n c_t    1 of n drawn: c_b + c_t, for any n

Random weights and input: a step's time does not depend on them. Pool, window and loss are those of ``distill``.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from paper_repro import seeds, zoo
from paper_repro.distill.kd import Distillation, Window
from paper_repro.distill.pool import TeacherPool
from paper_repro.errors import UserError
from paper_repro.stats import Interval
from paper_repro.timing.harness import measure
from paper_repro.timing.machine import Machine
from paper_repro.timing.summary import Rounds, median_interval, ratio, with_limits
from paper_repro.timing.torch_hooks import device_sync, pinned_threads
from paper_repro.train import TrainConfig, make_optimizer
from paper_repro.train.predict import DTYPES, autocast
from paper_repro.zoo.registry import resolve

RECIPES = {  # the optimisers that the papers' models are trained with; the rates keep random weights finite
    "image": TrainConfig(steps=1, global_batch=1, optimizer="sgd", lr=1e-4, schedule="constant"),
    "text": TrainConfig(steps=1, global_batch=1, optimizer="adamw", lr=1e-6, schedule="constant"),
}
PART = 4  # steps of the window's competitor, of which one asks the teacher: the smallest run with X = 0.25
WINDOW = f"window-{1 / PART:g}"
LOADER = 1.5  # a loader-bound run gets a batch only after this many times a step with a teacher (our choice)


def time_kd_steps(
    student: str,
    teacher: str,
    *,
    batch: int,
    draws: Sequence[int] = (1, 2, 4),
    ensembles: Sequence[int] = (1, 2, 4),
    precision: str = "fp32",
    rounds: int = 7,
    block_s: float = 0.3,
    threads: int | None = None,
    device: str = "cpu",
    machine: Machine | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Time training steps of ``student`` without and with teachers of the architecture ``teacher``, interleaved.

    ``batch``: examples of a step. ``draws`` and ``ensembles``: from how many teachers one is drawn, and the logits of
    how many are averaged; 1 is "full" in both cases, and always timed. ``threads``: None is as many as torch has now.

    Returns the parts of one result record. ``samples``, one per round, seconds of a step: ``plain/step``; ``full/step``
    with one teacher at each step; ``window-0.25/step``; ``sampled-N/step`` and ``ensemble-N/step`` for N > 1;
    ``loader-plain/step`` and ``loader-full/step``, which wait for data. Seconds of a forward pass over one batch:
    ``teacher/forward``, as the pool asks it, and ``bare/forward``, the model alone. ``<competitor>/predicted``, seconds
    of a step by that round's parts, c_b + X m c_t. ``<name>_other_cores``.

    ``metrics``, medians with /low and /high: of all seconds; ``cost_ratio`` c_t / c_b; ``overhead/<competitor>``, over
    plain's; ``predicted/<competitor>``, 1 + X m c_t / c_b for m forward passes in X of the steps, which leaves out what
    the loss itself costs; ``agreement/<competitor>``, measured over predicted; ``forward_ratio``, teacher over bare;
    ``slope/sampled`` and ``slope/ensemble``, what one more teacher adds to a step in forward passes (0 and 1 are
    expected); ``overhead/loader``, loader-full over loader-plain (1 where a teacher hides behind the wait).

    Raises UserError for an unknown precision, models of different inputs or classes, and teachers fewer than 1.
    """
    if precision not in DTYPES:
        raise UserError(f"There is no precision '{precision}'; choose one of: {', '.join(DTYPES)}.")
    threads = threads or torch.get_num_threads()
    lab = Lab(student, teacher, max(1, *draws, *ensembles), batch, precision, device, seed)
    full = lab.step(lab.pool(1))
    competitors: dict[str, Callable[[], Any]] = {
        "plain/step": lab.step(None),
        "full/step": full,
        f"{WINDOW}/step": lab.run(lab.pool(1), Window(end=1 / PART)),
        **{f"sampled-{n}/step": lab.step(lab.pool(n, draw=1)) for n in draws if n != 1},
        **{f"ensemble-{n}/step": lab.step(lab.pool(n)) for n in ensembles if n != 1},
        "teacher/forward": lab.forward(lab.pool(1)),
        "bare/forward": lab.bare,
    }
    options: dict[str, Any] = {
        "block_s": block_s, "warmup": 1, "mode": "throughput", "sync": device_sync(device),
        "machine": machine or Machine(gpu=torch.device(device).type == "cuda"), "seed": seed,
    }  # fmt: skip
    with pinned_threads(threads):
        trial = measure({"full": full}, rounds=1, **options)
        wait_s = LOADER * trial["full"].block_s[0]
        with ThreadPoolExecutor(1) as loader:
            fetch = partial(loader.submit, time.sleep, wait_s)
            competitors["loader-plain/step"] = lab.step(None, fetch)
            competitors["loader-full/step"] = lab.step(lab.pool(1), fetch)
            found = measure(competitors, rounds=rounds, **options)
    samples = {name: one.block_s for name, one in found.items()}
    samples[f"{WINDOW}/step"] = [seconds / PART for seconds in samples[f"{WINDOW}/step"]]
    protocol = found.protocol | {
        "timed": f"forward, loss, backward, {lab.recipe.optimizer}; batches lie on the device",
        "teachers": "random weights of their own, in eval mode, without gradients",
        "one_call": f"a step or a forward pass; of {WINDOW} a run of {PART} steps, of which samples are a step's mean",
        "loader": "a thread that has the next batch loader_s after a step took its own; it waits, as for storage",
        "loader_s": wait_s,
        "batch_size": batch,
        "input": "synthetic",
        "weights": "random",
        "device": device,
        "precision": precision,
        "threads": threads,
        "machine": found.machine,
        "flags": {name: one.flags for name, one in found.items()},
    }
    cost = {f"{role}/{key}": value for role, name in (("student", student), ("teacher", teacher))
            for key, value in zoo.cost(name).items()}  # fmt: skip
    clocks = found.clocks | {"warmup_s": found.clocks["warmup_s"] + sum(trial.clocks.values())}
    all_samples = samples | {f"{name}_other_cores": one.other_cores for name, one in found.items()}
    all_samples |= {f"{name}/predicted": list(values) for name, values in predicted(samples, draws, ensembles).items()}
    metrics = metrics_of(samples, draws, ensembles)
    return {"metrics": metrics, "samples": all_samples, "cost": cost, "protocol": protocol, "clocks": clocks}


def metrics_of(
    samples: Mapping[str, Rounds], draws: Sequence[int] = (), ensembles: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """The metrics of ``time_kd_steps`` from its samples, seconds [rounds] by name. A slope takes two sizes."""
    metrics = []
    for name, values in samples.items():
        metrics += with_limits(f"{name}_s", "s", median_interval(values))
    plain, forward = (np.asarray(samples[name], dtype=float) for name in ("plain/step", "teacher/forward"))
    metrics += with_limits("cost_ratio", "ratio", ratio(forward, plain))
    metrics += with_limits("forward_ratio", "ratio", ratio(forward, samples["bare/forward"]))
    for name, seconds in predicted(samples, draws, ensembles).items():
        step = samples[f"{name}/step"]
        metrics += with_limits(f"overhead/{name}", "ratio", ratio(step, plain))
        metrics += with_limits(f"predicted/{name}", "ratio", ratio(seconds, plain))
        metrics += with_limits(f"agreement/{name}", "ratio", ratio(step, seconds))
    metrics += with_limits("overhead/loader", "ratio", ratio(samples["loader-full/step"], samples["loader-plain/step"]))
    for kind, sizes in (("sampled", draws), ("ensemble", ensembles)):
        by_size = {1: samples["full/step"], **{n: samples[f"{kind}-{n}/step"] for n in sizes if n != 1}}
        if len(by_size) > 1:
            metrics += with_limits(f"slope/{kind}", "ratio", slope(by_size, forward))
    return metrics


def predicted(
    samples: Mapping[str, Rounds], draws: Sequence[int] = (), ensembles: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """Seconds of a step [rounds] of each competitor that asks a teacher, from c_b and c_t of the same round."""
    plain, forward = (np.asarray(samples[name], dtype=float) for name in ("plain/step", "teacher/forward"))
    asked = {"full": 1.0, WINDOW: 1 / PART, **{f"sampled-{n}": 1.0 for n in draws if n != 1}}
    asked |= {f"ensemble-{n}": float(n) for n in ensembles if n != 1}
    return {name: plain + forwards * forward for name, forwards in asked.items()}


def slope(steps: Mapping[int, Rounds], forward: Rounds) -> Interval:
    """What one more teacher adds to a step, in forward passes: per round by least squares, the median over rounds.

    ``steps``: seconds of a step [rounds] by the number of teachers; ``forward``: of one forward pass [rounds].
    """
    sizes = np.array(list(steps), dtype=float)
    return ratio(np.polyfit(sizes, np.array(list(steps.values()), dtype=float), 1)[0], forward)


class Lab:
    """A student, teachers of one architecture, one batch on the device, and functions to time.

    All steps train one student with one optimiser. Raises UserError where the models do not go together.
    """

    def __init__(
        self, student: str, teacher: str, teachers: int, batch: int, precision: str, device: str, seed: int
    ) -> None:
        entry, other = (resolve(name, {})[0] for name in (student, teacher))
        if (entry.input, entry.num_classes) != (other.input, other.num_classes):
            raise UserError(
                f"'{student}' maps {entry.input} to {entry.num_classes} classes, '{teacher}' {other.input} to "
                f"{other.num_classes}; choose two models of one task."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derive(seed, "timing weights"))
            self.student = zoo.build(student, entry.num_classes).to(device).train()
            self.teachers = [zoo.build(teacher, entry.num_classes).to(device) for _ in range(teachers)]
        self.inputs = zoo.inputs(student, batch, seed=seeds.derive(seed, "timing input"), device=device)
        self.precision = autocast(precision, torch.device(device))
        self.recipe = RECIPES["image" if entry.modality == "image" else "text"]
        self.optimizer = make_optimizer(self.student, self.recipe)
        self.seed = seed
        self.pool(teachers)
        predictions = self.bare().shape[:-1]  # one for an example, or for each of its tokens
        self.labels = torch.arange(math.prod(predictions), device=device) % entry.num_classes

    def pool(self, n: int, draw: int | None = None) -> TeacherPool:
        """The first ``n`` teachers, of which a step asks ``draw`` (None: all)."""
        return TeacherPool(self.teachers[:n], draw, seed=self.seed)

    def forward(self, pool: TeacherPool) -> Callable[[], Tensor]:
        """One forward pass as a training step asks for it."""

        def ask() -> Tensor:
            with self.precision:
                return pool.at(0)(*self.inputs)

        return ask

    def bare(self) -> Tensor:
        """One forward pass of a teacher as one writes it by hand."""
        with torch.no_grad(), self.precision:
            return self.teachers[0](*self.inputs)

    def step(self, pool: TeacherPool | None, fetch: Callable[[], Future[None]] | None = None) -> Callable[[], None]:
        """One training step after another, each of which asks ``pool``.

        With ``fetch`` it begins as it takes a batch, which is when the next is asked for, and ends when that is there.
        """
        numbers = count()

        def one() -> None:
            following = fetch() if fetch is not None else None
            self._train(pool, next(numbers), Distillation(), 0, 1)
            if following is not None:
                following.result()

        return one

    def run(self, pool: TeacherPool, window: Window) -> Callable[[], None]:
        """A run of ``PART`` steps, of which those inside ``window`` ask ``pool``."""
        kd = Distillation(window=window)

        def all_steps() -> None:
            for step in range(PART):
                self._train(pool if window.active(step, PART) else None, step, kd, step, PART)

        return all_steps

    def _train(self, pool: TeacherPool | None, number: int, kd: Distillation, step: int, total: int) -> None:
        with self.precision:
            logits = self.student(*self.inputs)
            loss = F.cross_entropy(logits.float().flatten(0, -2), self.labels)
            if pool is not None:
                loss = kd.add(loss, logits, pool.at(number)(*self.inputs), step, total)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
