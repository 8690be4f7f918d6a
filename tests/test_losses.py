"""The Titans losses against values worked by hand, and their invariants."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paper_repro.distill import losses

LOGITS = torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)], [math.log(0.4), math.log(0.35), math.log(0.25)]])
TEACHER = torch.tensor([[math.log(0.9), math.log(0.05), math.log(0.05)], [math.log(0.5), math.log(0.3), math.log(0.2)]])
LABELS = torch.tensor([0, 2])
H_TEACHER_0 = -(0.9 * math.log(0.7) + 0.05 * math.log(0.2) + 0.05 * math.log(0.1))
H_TEACHER_1 = -(0.5 * math.log(0.4) + 0.3 * math.log(0.35) + 0.2 * math.log(0.25))

logits_pair = st.tuples(
    arrays("float64", (6, 5), elements=st.floats(-8, 8)), arrays("float64", (6, 5), elements=st.floats(-8, 8))
)


def test_standard_distillation_is_the_cross_entropy_to_the_teacher() -> None:
    loss = losses.distillation(LOGITS, TEACHER, LABELS, a=0.0, b=1.0)
    assert loss.item() == pytest.approx((H_TEACHER_0 + H_TEACHER_1) / 2, rel=1e-6)


def test_label_weight_alone_is_plain_cross_entropy() -> None:
    loss = losses.distillation(LOGITS, TEACHER, LABELS, a=1.0, b=0.0)
    assert loss.item() == pytest.approx(-(math.log(0.7) + math.log(0.25)) / 2, rel=1e-6)


def test_temperature_scales_both_softmaxes_and_the_loss() -> None:
    loss = losses.distillation(LOGITS, TEACHER, LABELS, a=0.1, b=0.9, temperature=4.0)
    divergence = F.kl_div((LOGITS / 4).log_softmax(1), (TEACHER / 4).softmax(1), reduction="batchmean")
    teacher_entropy = torch.distributions.Categorical(logits=TEACHER / 4).entropy().mean()
    expected = 0.1 * F.cross_entropy(LOGITS, LABELS) + 0.9 * 16 * (divergence + teacher_entropy)
    torch.testing.assert_close(loss, expected)


def test_smoothed_label_by_hand() -> None:
    target = losses.smoothed_label(torch.tensor([1]), 4, alpha=0.4)
    torch.testing.assert_close(target, torch.tensor([[0.1, 0.7, 0.1, 0.1]]))


def test_margin_based_by_hand() -> None:
    """Teacher margins are 0.85 and 0.2: at rho 0.4 the first is easy, the second gets its smoothed label."""
    easy = losses.easy_by_margin(TEACHER, rho=0.4)
    assert easy.tolist() == [True, False]
    loss = losses.margin_based(LOGITS, TEACHER, LABELS, easy, alpha=0.3)
    hard = -(0.1 * math.log(0.4) + 0.1 * math.log(0.35) + 0.8 * math.log(0.25))
    assert loss.item() == pytest.approx((H_TEACHER_0 + hard) / 2, rel=1e-6)


def test_easy_is_strict() -> None:
    logits = torch.zeros(1, 2)  # margin exactly 0
    assert not losses.easy_by_margin(logits, rho=0.0).any()
    assert losses.easy_by_margin(logits, rho=-1e-6).all()


def test_class_specific_by_hand() -> None:
    """Label 0 is in-domain, label 2 is not."""
    loss = losses.class_specific(LOGITS, TEACHER, LABELS, torch.tensor([True, True, False]), alpha=0.0)
    assert loss.item() == pytest.approx((H_TEACHER_0 - math.log(0.25)) / 2, rel=1e-6)


def test_abstain_target_by_hand() -> None:
    target = losses.abstain_target(TEACHER, LABELS, torch.tensor([True, True, False]))
    expected = torch.tensor([[0.9 / 0.95, 0.05 / 0.95, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(target, expected)


def test_gatekeeper_by_hand() -> None:
    """The first example is right (class 0), the second is wrong (predicts 0, label 2)."""
    loss = losses.gatekeeper(LOGITS, LABELS, alpha=0.25)
    q = [0.4, 0.35, 0.25]
    to_uniform = sum(p * math.log(p * 3) for p in q)
    assert loss.item() == pytest.approx((0.25 * -math.log(0.7) + 0.75 * to_uniform) / 2, rel=1e-5)


def test_gatekeeper_pushes_a_wrong_answer_towards_uniform() -> None:
    logits = LOGITS[1:].clone().requires_grad_()
    losses.gatekeeper(logits, LABELS[1:], alpha=0.5).backward()
    stepped = (logits - 0.1 * logits.grad).detach().softmax(1)
    assert losses.margin(stepped) < losses.margin(LOGITS[1:].softmax(1))


@given(alpha=st.floats(0, 1), num_classes=st.integers(2, 20))
def test_smoothed_label_is_a_distribution_with_margin_one_minus_alpha(alpha: float, num_classes: int) -> None:
    target = losses.smoothed_label(torch.arange(num_classes), num_classes, alpha)
    torch.testing.assert_close(target.sum(1), torch.ones(num_classes))
    torch.testing.assert_close(losses.margin(target), torch.full((num_classes,), 1 - alpha))


@given(logits_pair)
def test_margin_based_interpolates_between_its_two_teachers(pair: tuple) -> None:
    """All easy: standard distillation. None easy and alpha 0: plain training."""
    student, teacher = map(torch.from_numpy, pair)
    labels = torch.arange(6) % 5
    everything = losses.margin_based(student, teacher, labels, torch.ones(6, dtype=torch.bool), alpha=0.4)
    torch.testing.assert_close(everything, losses.distillation(student, teacher, labels, a=0.0, b=1.0))
    nothing = losses.margin_based(student, teacher, labels, torch.zeros(6, dtype=torch.bool), alpha=0.0)
    torch.testing.assert_close(nothing, F.cross_entropy(student, labels), check_dtype=False)


@given(logits_pair)
def test_losses_do_not_depend_on_the_order_of_the_batch_or_a_shift_of_the_logits(pair: tuple) -> None:
    student, teacher = map(torch.from_numpy, pair)
    labels, in_domain = torch.arange(6) % 5, torch.tensor([True, False, True, False, True])
    order = torch.tensor([3, 1, 5, 0, 2, 4])

    def all_losses(z: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        abstain = F.pad(z[:, in_domain], (0, 1))
        return torch.stack(
            [
                losses.distillation(z, t, y, a=0.3, b=0.7, temperature=2.0),
                losses.margin_based(z, t, y, losses.easy_by_margin(t, 0.4), alpha=0.4),
                losses.class_specific(z, t, y, in_domain, alpha=0.4),
                losses.class_specific_abstain(abstain, t, y, in_domain),
                losses.gatekeeper(z, y, alpha=0.5),
            ]
        )

    reference = all_losses(student, teacher, labels)
    torch.testing.assert_close(all_losses(student[order], teacher[order], labels[order]), reference)
    torch.testing.assert_close(all_losses(student, teacher + 3.0, labels), reference)


@given(logits_pair)
def test_abstain_target_is_a_distribution(pair: tuple) -> None:
    target = losses.abstain_target(
        torch.from_numpy(pair[0]), torch.arange(6) % 5, torch.tensor([True, False, True, False, True])
    )
    torch.testing.assert_close(target.sum(1), torch.ones(6, dtype=torch.float64))
    assert target.shape == (6, 4)
    assert set(target[:, -1].tolist()) <= {0.0, 1.0}
