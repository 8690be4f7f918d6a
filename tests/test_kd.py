"""Distillation added to a task's loss: distances worked by hand, windows, and pools of teachers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from paper_repro.distill.kd import Distillation, Window, kd_loss
from paper_repro.distill.losses import distillation
from paper_repro.distill.pool import TeacherPool
from paper_repro.errors import UserError

CLASSES = 5


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def divergence(p, q):
    return float((p * (p.log() - q.log())).sum())


# ---------------------------------------------------------------------------------------------------------------------
# The distance


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["kl", "kl-reversed"])
def test_divergences_are_those_of_the_formula(kind, temperature):
    student, teacher = logits(3, CLASSES), logits(3, CLASSES, seed=1)
    q, p = ((z / temperature).softmax(-1) for z in (student, teacher))
    of, to = (p, q) if kind == "kl" else (q, p)
    rows = [divergence(of[i], to[i]) for i in range(3)]
    found = kd_loss(student, teacher, kind, temperature=temperature)
    assert float(found) == pytest.approx(temperature**2 * np.mean(rows), rel=1e-5)


def test_mse_is_the_mean_over_examples_and_classes():
    student, teacher = logits(4, CLASSES), logits(4, CLASSES, seed=1)
    assert float(kd_loss(student, teacher, "mse")) == pytest.approx(float(((student - teacher) ** 2).mean()), rel=1e-5)


def test_the_gradient_of_kl_is_that_of_soft_cross_entropy():
    student, teacher = logits(6, CLASSES).requires_grad_(), logits(6, CLASSES, seed=1).requires_grad_()
    labels = torch.zeros(6, dtype=torch.int64)
    (ours,) = torch.autograd.grad(kd_loss(student, teacher, "kl", temperature=3.0), student)
    (theirs,) = torch.autograd.grad(distillation(student, teacher, labels, a=0.0, b=1.0, temperature=3.0), student)
    assert torch.allclose(ours, theirs, atol=1e-6)
    kd_loss(student, teacher, "kl-reversed").backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


@given(st.sampled_from(["kl", "kl-reversed", "mse"]), st.floats(0.3, 5.0), st.integers(0, 50))
def test_a_distance_is_zero_for_the_teacher_itself_and_positive_for_others(kind, temperature, seed):
    teacher = logits(2, CLASSES, seed=seed)
    assert float(kd_loss(teacher, teacher, kind, temperature=temperature)) == pytest.approx(0.0, abs=1e-6)
    assert float(kd_loss(teacher + logits(2, CLASSES, seed=seed + 1), teacher, kind, temperature=temperature)) > 0


@pytest.mark.parametrize("kind", ["kl", "kl-reversed", "mse"])
def test_of_tokens_only_those_that_count_do(kind):
    student, teacher = logits(2, 4, CLASSES), logits(2, 4, CLASSES, seed=1)
    where = torch.tensor([[True, True, False, False], [True, False, False, False]])
    rows = (
        torch.stack([student[0, 0], student[0, 1], student[1, 0]]),
        torch.stack([teacher[0, 0], teacher[0, 1], teacher[1, 0]]),
    )
    expected = float(kd_loss(*rows, kind))
    assert float(kd_loss(student, teacher, kind, where=where)) == pytest.approx(expected)
    spoilt = teacher.masked_fill(~where.unsqueeze(-1), 1e4)  # what is not looked at may be anything
    assert float(kd_loss(student, spoilt, kind, where=where)) == pytest.approx(expected)
    none = kd_loss(student.requires_grad_(), teacher, kind, where=torch.zeros_like(where))
    none.backward()
    assert none.item() == 0 and student.grad.abs().sum() == 0


@pytest.mark.parametrize("kind", ["kl", "kl-reversed"])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_over_positions_every_entry_of_the_vocabulary_has_a_distribution(kind, temperature):
    student, teacher = logits(2, 4, 3), logits(2, 4, 3, seed=1)
    where = torch.tensor([[True, True, True, False], [True, True, False, False]])
    total = 0.0
    for sequence, length in ((0, 3), (1, 2)):
        for entry in range(3):
            q, p = ((z[sequence, :length, entry] / temperature).softmax(0) for z in (student, teacher))
            total += divergence(p, q) if kind == "kl" else divergence(q, p)
    options = {"temperature": temperature, "axis": "positions"}
    found = kd_loss(student.requires_grad_(), teacher, kind, where=where, **options)
    assert found.item() == pytest.approx(temperature**2 * total / 5, rel=1e-4)
    found.backward()
    assert torch.isfinite(student.grad).all() and (student.grad[~where] == 0).all()
    student, everywhere = student.detach(), torch.ones_like(where)
    assert float(kd_loss(student, teacher, kind, where=everywhere, **options)) == pytest.approx(
        float(kd_loss(student, teacher, kind, **options)), rel=1e-5
    )
    assert float(kd_loss(student, teacher, kind, where=~everywhere, **options)) == 0


def test_what_does_not_fit_together_is_one_sentence():
    with pytest.raises(UserError, match="must tell the same classes apart"):
        kd_loss(logits(2, 3), logits(2, 4))
    with pytest.raises(UserError, match=r"positions that count have shape \[3\], not \[2\]"):
        kd_loss(logits(2, 3), logits(2, 3), where=torch.ones(3, dtype=torch.bool))
    for shape, kind in (((2, 3), "kl"), ((2, 4, 3), "mse")):
        with pytest.raises(UserError, match="needs logits"):
            kd_loss(logits(*shape), logits(*shape), kind, axis="positions")


# ---------------------------------------------------------------------------------------------------------------------
# When


def active(window, total):
    return [step for step in range(total) if window.active(step, total)]


def test_a_window_is_its_part_of_the_steps():
    assert active(Window(), 5) == [0, 1, 2, 3, 4]
    assert active(Window(end=0.0), 5) == []
    assert active(Window(start=0.2, end=0.5), 10) == [2, 3, 4]
    assert active(Window(start=0.35, end=0.8, every=3), 20) == [7, 10, 13]
    assert active(Window(every=4), 10) == [0, 4, 8]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 5), st.floats(0, 1), st.integers(1, 200))
def test_a_window_costs_its_share_of_teacher_steps(a, b, every, fade, total):
    window = Window(start=min(a, b), end=max(a, b), every=every, fade=fade)
    steps = active(window, total)
    assert window.steps(total) == len(steps)
    assert abs(len(steps) - (window.end - window.start) * total / every) <= 1 + 1 / every
    assert all(window.start <= step / total < window.end for step in steps)
    assert all(0 < window.strength(step, total) <= 1 for step in steps)


def test_fading_ends_without_a_jump():
    window = Window(end=0.5, fade=0.4)
    strengths = [window.strength(step, 100) for step in range(100)]
    assert strengths[:31] == [1.0] * 31 and strengths[50:] == [0.0] * 50
    assert np.allclose(np.diff(strengths[30:51]), -0.05)
    assert Window(end=0.5).strength(49, 100) == 1.0  # the authors' code: from one step to the next


@pytest.mark.parametrize("fields", [{"start": 0.6, "end": 0.5}, {"every": 0}, {"end": 1.5}, {"fade": -1}])
def test_a_window_that_is_none_is_refused(fields):
    with pytest.raises(ValidationError):
        Window(**fields)


def test_the_loss_is_weighted_inside_the_window_and_the_tasks_outside():
    student, teacher = logits(4, CLASSES), logits(4, CLASSES, seed=1)
    task = torch.tensor(2.0)
    apart = float(kd_loss(student, teacher, "kl", temperature=2.0))
    kd = Distillation(temperature=2.0, task_weight=0.3, kd_weight=0.8, window=Window(end=0.5))
    assert float(kd.add(task, student, teacher, 0, 10)) == pytest.approx(0.3 * 2.0 + 0.8 * apart)
    assert kd.add(task, student, teacher, 5, 10) is task
    faded = kd.model_copy(update={"window": Window(end=0.5, fade=1.0)})
    assert float(faded.add(task, student, teacher, 4, 10)) == pytest.approx((1 - 0.2 * 0.7) * 2.0 + 0.2 * 0.8 * apart)


# ---------------------------------------------------------------------------------------------------------------------
# Whom


class Constant(nn.Module):
    """A teacher that gives one number, and remembers in which mode it was asked."""

    def __init__(self, value, classes=CLASSES):
        super().__init__()
        self.value, self.classes, self.asked = nn.Parameter(torch.tensor(float(value))), classes, 0
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        self.asked += 1
        assert not self.training and not torch.is_grad_enabled()
        return self.dropout(self.value * torch.ones(len(x), self.classes))


def test_an_ensemble_is_the_mean_of_logits():
    pool = TeacherPool([Constant(1), Constant(2), Constant(6)])
    assert torch.equal(pool.at(0)(torch.zeros(2, 1)), torch.full((2, CLASSES), 3.0))
    assert not any(parameter.requires_grad for teacher in pool.teachers for parameter in teacher.parameters())
    pool.teachers[0].train()
    pool.at(1)(torch.zeros(2, 1))  # Constant refuses to be asked in train mode


def test_one_of_n_costs_one_forward_pass_and_each_has_its_turn():
    teachers = [Constant(value) for value in range(4)]
    pool = TeacherPool(teachers, draw=1, seed=3)
    before = torch.random.get_rng_state()
    values = [float(pool.at(step)(torch.zeros(1, 1))[0, 0]) for step in range(400)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert sum(teacher.asked for teacher in teachers) == 400
    assert all(70 <= teacher.asked <= 130 for teacher in teachers)  # 100 expected, 3.5 standard deviations
    assert values == [pool.chosen(step)[0] for step in range(400)]
    assert [pool.chosen(step) for step in (7, 3)] == [TeacherPool(teachers, 1, seed=3).chosen(step) for step in (7, 3)]
    assert values != [TeacherPool(teachers, 1, seed=4).chosen(step)[0] for step in range(400)]


def test_m_of_n_are_different_teachers_and_ranks_share_a_draw_unless_told():
    teachers = [Constant(value) for value in range(4)]
    for step in range(20):
        assert len(set(TeacherPool(teachers, 2).chosen(step))) == 2
    of_rank = [
        [TeacherPool(teachers, 1, per=per, rank=rank).chosen(step) for step in range(20)]
        for per in ("step", "rank")
        for rank in (0, 1)
    ]
    assert of_rank[0] == of_rank[1] == of_rank[2] != of_rank[3]


@pytest.mark.parametrize(
    ("teachers", "draw", "message"),
    [([], None, "no teacher"), ([Constant(1)], 2, "draw 1 to 1"), ([Constant(1)], 0, "draw 1 to 1")],
)
def test_a_pool_that_cannot_be_asked_is_refused(teachers, draw, message):
    with pytest.raises(UserError, match=message):
        TeacherPool(teachers, draw)


def test_teachers_of_different_classes_are_no_ensemble():
    with pytest.raises(UserError, match="same classes apart"):
        TeacherPool([Constant(1), Constant(1, classes=3)]).at(0)(torch.zeros(2, 1))
