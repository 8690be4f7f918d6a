"""Training steps with teachers in the loop: on a fake clock, by which each part takes a known time, and for real."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.distillation_step import meets
from paper_repro.distill.kd import Window
from paper_repro.errors import UserError
from paper_repro.results.schema import Metric
from paper_repro.timing import Machine, kd_step, measure
from paper_repro.timing.kd_step import PART, Lab, metrics_of, slope, time_kd_steps
from paper_repro.timing.machine import Reading

STEP_S, FORWARD_S, BATCH, CLASSES = 3.0, 1.0, 4, 10
SIZES = (1, 2, 4)


def values_of(metrics):
    return {metric["name"]: metric["value"] for metric in metrics}


class Fake:
    """A world in which only the student's steps, the teachers' forward passes and the loader take time."""

    def __init__(self, logits: tuple[int, ...]) -> None:
        self.now, self.logits = 0.0, logits
        self.asked: list[int] = []

    def build(self, name: str, classes: int) -> nn.Module:
        world = self

        class Model(nn.Linear):
            def forward(self, _: torch.Tensor) -> torch.Tensor:
                world.now += STEP_S if self.training else FORWARD_S
                if not self.training:
                    world.asked.append(id(self))
                return super().forward(torch.ones(*world.logits[:-1], 3))

        return Model(3, classes)

    def executor(self, threads: int) -> "Fake":
        return self

    def __enter__(self) -> "Fake":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, sleep, seconds: float):
        due = self.now + seconds

        class Coming:
            def result(_) -> None:
                self.now = max(self.now, due)

        return Coming()


class Quiet(Machine):
    """A machine that is not asked how it is."""

    def read(self) -> Reading:
        return Reading(0.0, 0.0, 0.0, 0)

    def state(self) -> dict:
        return {}


@pytest.fixture
def world(request, monkeypatch):
    fake = Fake(getattr(request, "param", (BATCH, CLASSES)))
    monkeypatch.setattr(kd_step.zoo, "build", fake.build)
    monkeypatch.setattr(kd_step, "ThreadPoolExecutor", fake.executor)
    monkeypatch.setattr(kd_step, "measure", partial(measure, clock=lambda: fake.now))
    return fake


SHAPES = {"classes": (BATCH, CLASSES), "tokens": (BATCH, 6, CLASSES)}
either = pytest.mark.parametrize("world", SHAPES.values(), ids=SHAPES, indirect=True)


def timed(**changes):
    settings = {"batch": BATCH, "draws": SIZES, "ensembles": SIZES, "rounds": 6, "machine": Quiet(), "threads": 1}
    return time_kd_steps("mlp", "resnet8-w4", **settings | changes)


@either
def test_each_competitor_takes_the_time_of_its_parts(world):
    found = timed()
    expected = {
        "plain/step": 3.0, "full/step": 4.0, "window-0.25/step": 3.25, "sampled-2/step": 4.0, "sampled-4/step": 4.0,
        "ensemble-2/step": 5.0, "ensemble-4/step": 7.0, "teacher/forward": 1.0, "bare/forward": 1.0,
        "loader-plain/step": 6.0, "loader-full/step": 6.0,
    }  # fmt: skip
    samples = {name: values for name, values in found["samples"].items() if name.endswith(("/step", "/forward"))}
    assert samples == {name: [seconds] * 6 for name, seconds in expected.items()}
    metrics = values_of(found["metrics"])
    for name, seconds in expected.items():
        assert metrics[f"{name}_s"] == metrics[f"{name}_s/low"] == metrics[f"{name}_s/high"] == seconds
    overheads = {
        "full": 4 / 3, "window-0.25": 3.25 / 3, "sampled-2": 4 / 3, "sampled-4": 4 / 3, "ensemble-2": 5 / 3,
        "ensemble-4": 7 / 3,
    }  # fmt: skip
    for name, overhead in overheads.items():
        assert metrics[f"overhead/{name}"] == pytest.approx(overhead) == metrics[f"predicted/{name}"]
        assert metrics[f"agreement/{name}"] == pytest.approx(1.0)
    assert metrics["cost_ratio"] == pytest.approx(1 / 3) and metrics["forward_ratio"] == 1.0
    assert metrics["slope/sampled"] == pytest.approx(0, abs=1e-9) and metrics["slope/ensemble"] == pytest.approx(1)
    assert metrics["overhead/loader"] == 1.0 and found["protocol"]["loader_s"] == 1.5 * 4.0
    told = {name for name in metrics if name.startswith("overhead/") and not name.endswith(("/low", "/high"))}
    assert told == {f"overhead/{name}" for name in (*overheads, "loader")}


def test_a_teacher_dearer_than_the_wait_is_not_hidden(world, monkeypatch):
    monkeypatch.setattr(kd_step, "LOADER", 0.8)
    found = timed()
    assert found["samples"]["loader-plain/step"] == pytest.approx([3.2] * 6)
    assert values_of(found["metrics"])["overhead/loader"] == pytest.approx(4 / 3.2)


def test_what_the_pool_adds_to_a_forward_pass_shows(world, monkeypatch):
    ask = kd_step.TeacherPool._ask

    def slow(pool, number, inputs):
        world.now += 0.5
        return ask(pool, number, inputs)

    monkeypatch.setattr(kd_step.TeacherPool, "_ask", slow)
    metrics = values_of(timed()["metrics"])
    assert metrics["forward_ratio"] == pytest.approx(1.5) and metrics["cost_ratio"] == pytest.approx(0.5)
    assert metrics["overhead/full"] == pytest.approx(4.5 / 3)


def test_without_other_sizes_there_is_no_slope(world):
    found = timed(draws=(1,), ensembles=(2,))
    names = values_of(found["metrics"])
    assert "slope/ensemble" in names and "slope/sampled" not in names and "ensemble-4/step" not in found["samples"]


# ---------------------------------------------------------------------------------------------------------------------
# Statistics of samples with a known answer


def test_metrics_pair_the_rounds():
    plain = np.array([1.0, 2.0, 4.0, 8.0, 3.0, 5.0])  # a machine that slows down and recovers
    known = {"plain": 1.0, "full": 1.54, "window-0.25": 1.12, "sampled-2": 1.6, "ensemble-2": 2.0, "ensemble-4": 3.0}
    samples = {f"{name}/step": times * plain for name, times in known.items()}
    samples |= {"teacher/forward": 0.5 * plain, "bare/forward": 0.4 * plain}
    samples |= {"loader-plain/step": 2 * plain, "loader-full/step": 2.1 * plain}
    found = values_of(metrics_of(samples, draws=(2,), ensembles=(1, 2, 4)))
    expected = {
        "cost_ratio": 0.5, "forward_ratio": 1.25, "overhead/full": 1.54, "predicted/full": 1.5,
        "agreement/full": 1.54 / 1.5, "predicted/window-0.25": 1.125, "agreement/window-0.25": 1.12 / 1.125,
        "predicted/sampled-2": 1.5, "predicted/ensemble-4": 3.0, "agreement/ensemble-4": 1.0, "overhead/loader": 1.05,
        "slope/sampled": (1.6 - 1.54) / 0.5,
    }  # fmt: skip
    for name, value in expected.items():
        for limit in ("", "/low", "/high"):  # the machine's drift is in no quotient
            assert found[name + limit] == pytest.approx(value), name
    assert found["plain/step_s"] == 3.5 and (found["plain/step_s/low"], found["plain/step_s/high"]) == (1.0, 8.0)


def test_a_slope_is_in_forward_passes_and_its_interval_is_over_rounds():
    rng = np.random.default_rng(0)
    base, forward = rng.uniform(1, 2, 15), rng.uniform(0.2, 0.4, 15)
    exact = slope({n: base + 0.7 * n * forward for n in (1, 2, 4, 8)}, forward)
    assert exact == pytest.approx((0.7, 0.7, 0.7, 15))
    noisy = slope({n: base + rng.normal(0, 0.05, 15) for n in (1, 2, 4, 8)}, forward)
    assert noisy.low < 0 < noisy.high and noisy.high - noisy.low < 0.2


def test_the_benchmark_misses_what_lies_outside_with_its_whole_interval():
    assert meets("slope/sampled", -0.01, 0.02) and not meets("slope/sampled", 0.01, 0.02)
    assert meets("agreement/full", 1.04, 1.07) and meets("agreement/ensemble-8", 0.9, 0.96)
    assert not meets("agreement/full", 1.06, 1.07) and not meets("agreement/window-0.25", 0.9, 0.94)
    assert meets("forward_ratio", 0.5, 1.2) and not meets("forward_ratio", 1.06, 1.2)
    assert meets("overhead/full", 2.0, 3.0) is None


# ---------------------------------------------------------------------------------------------------------------------
# What is timed


def asked_in(world, function, calls):
    before = len(world.asked)
    for _ in range(calls):
        function()
    return world.asked[before:]


def test_steps_ask_the_teachers_that_they_should(world):
    lab = Lab("mlp", "mlp", 4, BATCH, "fp32", "cpu", 0)
    names = [id(teacher) for teacher in lab.teachers]
    assert asked_in(world, lab.step(None), 3) == []
    assert asked_in(world, lab.step(lab.pool(1)), 3) == names[:1] * 3
    assert asked_in(world, lab.step(lab.pool(4)), 2) == names * 2
    assert asked_in(world, lab.run(lab.pool(1), Window(end=1 / PART)), 2) == names[:1] * 2
    drawn = asked_in(world, lab.step(lab.pool(4, draw=1)), 40)
    assert len(drawn) == 40 and set(drawn) == set(names)


@either
def test_a_step_trains_the_student_on_labels_and_teacher_and_leaves_the_teachers(world):
    def change(teacher: bool) -> torch.Tensor:
        lab = Lab("mlp", "mlp", 1, BATCH, "fp32", "cpu", 0)
        before, teachers = lab.student.weight.detach().clone(), lab.teachers[0].weight.clone()
        lab.step(lab.pool(1) if teacher else None)()
        assert torch.equal(teachers, lab.teachers[0].weight) and lab.student.weight.grad is None
        assert lab.labels.shape == (np.prod(world.logits[:-1]),)
        return lab.student.weight.detach() - before

    alone, taught = change(False), change(True)
    assert alone.abs().sum() > 0 and taught.abs().sum() > 0 and not torch.allclose(alone, taught)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_result_is_what_a_record_takes(precision):
    threads = torch.get_num_threads()
    settings = {"batch": 2, "draws": (1, 2), "ensembles": (1, 2), "rounds": 6, "block_s": 0.005, "threads": 1}
    found = time_kd_steps("mlp", "resnet8-w4", precision=precision, **settings)
    assert torch.get_num_threads() == threads
    assert set(found) == {"metrics", "samples", "cost", "protocol", "clocks"}
    assert len({Metric(**metric).name for metric in found["metrics"]}) == len(found["metrics"])
    steps = ("plain", "full", "window-0.25", "sampled-2", "ensemble-2", "loader-plain", "loader-full")
    names = [*(f"{name}/step" for name in steps), "teacher/forward", "bare/forward"]
    assert {name for name in found["samples"] if not name.endswith("/predicted")} == {
        *names, *(f"{name}_other_cores" for name in names)
    }  # fmt: skip
    asking = [name for name in names if name.endswith("/step") and not name.startswith(("plain", "loader"))]
    assert {name for name in found["samples"] if name.endswith("/predicted")} == {
        name.replace("/step", "/predicted") for name in asking
    }
    assert all(len(values) == 6 for values in found["samples"].values())
    assert all(min(found["samples"][name]) > 0 for name in names)
    assert min(found["samples"]["loader-plain/step"]) >= 0.9 * found["protocol"]["loader_s"]  # it does wait
    assert found["cost"]["student/params"] == sum(p.numel() for p in kd_step.zoo.build("mlp", 10).parameters())
    assert found["protocol"]["threads"] == 1 and found["protocol"]["timed"].endswith("sgd; batches lie on the device")


@pytest.mark.parametrize(
    ("student", "teacher", "changes", "message"),
    [
        ("mlp", "bag", {}, "'mlp' maps 3 x 32 x 32 pixels to 10 classes, 'bag' 128 tokens to 2"),
        ("bert-base", "bert-base-mlm", {}, "'bert-base-mlm' 128 tokens to 30522; choose two models of one task"),
        ("mlp", "mlp", {"precision": "fp8"}, "no precision 'fp8'"),
        ("mlp", "mlp", {"ensembles": (0,)}, "no teacher to ask"),
        ("mlp", "mlp", {"draws": (0,)}, "no teacher to ask"),
    ],
)
def test_what_cannot_be_timed_is_refused(student, teacher, changes, message):
    with pytest.raises(UserError, match=message):
        time_kd_steps(student, teacher, batch=2, **changes)
