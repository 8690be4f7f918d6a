"""Deferral rules, curves, cost, the cascade module, and the calibrated threshold's guarantee."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paper_repro.cascade import Cascade, DeferralHead, Threshold, calibrate_threshold, curves, rules
from paper_repro.cascade.calibration import betting_p_value

right = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def arrays(rows: list[tuple[bool, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    student, teacher, score = map(np.array, zip(*rows, strict=True))
    return score.astype(float), student, teacher


def test_deferral_curve_by_hand() -> None:
    """Kept in the order 0.9, 0.5, 0.1; only the teacher is right on the last one."""
    curve = curves.deferral_curve(
        np.array([0.5, 0.1, 0.9]), np.array([True, False, True]), np.array([False, True, True])
    )
    np.testing.assert_allclose(curve, [2 / 3, 2 / 3, 1.0, 2 / 3])
    assert curves.area(curve) == pytest.approx((2 / 3 + 5 / 6 + 5 / 6) / 3)


@given(right)
def test_curve_runs_from_teacher_to_student_and_stays_below_the_oracle(rows: list) -> None:
    score, student, teacher = arrays(rows)
    curve = curves.deferral_curve(score, student, teacher)
    best = curves.deferral_curve(curves.oracle_score(student, teacher), student, teacher)
    assert curve[0] == pytest.approx(teacher.mean())
    assert curve[-1] == pytest.approx(student.mean())
    assert (curve <= best + 1e-12).all()


@given(right, st.randoms())
def test_curve_does_not_depend_on_the_order_of_the_examples(rows: list, random) -> None:
    shuffled = rows.copy()
    random.shuffle(shuffled)
    np.testing.assert_allclose(curves.deferral_curve(*arrays(rows)), curves.deferral_curve(*arrays(shuffled)))


@given(right)
def test_a_constant_score_is_random_deferral(rows: list) -> None:
    _, student, teacher = arrays(rows)
    curve = curves.deferral_curve(np.zeros(len(rows)), student, teacher)
    np.testing.assert_allclose(curve, np.linspace(teacher.mean(), student.mean(), len(rows) + 1))


@given(right, st.floats(0.0, 1.0))
def test_threshold_keeps_at_least_the_fraction_it_was_asked_for(rows: list, fraction: float) -> None:
    score, _, _ = arrays(rows)
    kept = (score >= curves.threshold_for_fraction(score, fraction)).mean()
    assert kept >= fraction - 1 / len(score) - 1e-9


def test_curves_refuse_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="equal, positive lengths"):
        curves.deferral_curve(np.zeros(2), np.zeros(3), np.zeros(3))


def test_amortised_cost_by_hand() -> None:
    assert curves.amortised_cost(1.0, 10.0, 0.8) == pytest.approx(3.0)
    np.testing.assert_allclose(curves.amortised_cost(1.0, 10.0, np.array([0.0, 1.0])), [11.0, 1.0])


def test_reweighting_to_the_true_easy_share_changes_nothing() -> None:
    easy = np.array([True, True, True, False])
    keep = np.array([True, True, False, False])
    assert curves.kept_by_easy_share(keep, easy, 0.75) == pytest.approx(keep.mean())
    assert curves.kept_by_easy_share(keep, easy, 1.0) == pytest.approx(2 / 3)


LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))


def test_rules_by_hand() -> None:
    torch.testing.assert_close(rules.margin(LOGITS), torch.tensor([0.2, 0.7]))
    torch.testing.assert_close(rules.max_prob(LOGITS), torch.tensor([0.5, 0.8]))
    expected = torch.tensor(
        [0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2), 0.8 * np.log(0.8) + 0.2 * np.log(0.1)]
    )
    torch.testing.assert_close(rules.entropy(LOGITS), expected.float())
    assert rules.keeps_class(LOGITS, torch.tensor([True, True, False])).tolist() == [True, False]
    assert rules.keeps_non_abstain(LOGITS).tolist() == [True, False]
    torch.testing.assert_close(rules.abstain_margin(LOGITS), torch.tensor([0.3, -0.7]))


def test_threshold_is_inclusive() -> None:
    rule = Threshold(rules.max_prob, 0.5)
    assert rule(torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]]))).tolist() == [True, False]


def test_head_learns_where_the_teacher_gains() -> None:
    """The student is wrong exactly where it predicts class 1: confidence cannot see that, the head can."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 3, generator=generator) * 3
    student = (logits.argmax(1) != 1).numpy()
    teacher = np.ones(2000, dtype=bool)
    head = DeferralHead.fit(logits[:1000], student[:1000], teacher[:1000])
    learnt = curves.area(curves.deferral_curve(head(logits[1000:]).numpy(), student[1000:], teacher[1000:]))
    margin = curves.area(curves.deferral_curve(rules.margin(logits[1000:]).numpy(), student[1000:], teacher[1000:]))
    assert learnt > margin + 0.05


class Counting(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.rows = module, 0

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.rows += len(inputs[0])
        return self.module(*inputs)


@pytest.mark.parametrize("rho", [0.0, 0.3, 2.0])
def test_cascade_runs_the_teacher_only_on_what_is_deferred(rho: float) -> None:
    torch.manual_seed(0)
    student, teacher = Counting(nn.Linear(4, 3)), Counting(nn.Linear(4, 3))
    x = torch.randn(50, 4)
    output = Cascade(student, teacher, Threshold(rules.margin, rho))(x)
    expected = torch.where((rules.margin(student.module(x)) >= rho)[:, None], student.module(x), teacher.module(x))
    torch.testing.assert_close(output.logits, expected)
    assert teacher.rows == int(output.deferred.sum()) == {0.0: 0, 2.0: 50}.get(rho, teacher.rows)
    assert student.rows == 50


def test_cascade_gives_the_teacher_its_own_view() -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(8, 3)
    small, large = torch.randn(5, 4), torch.randn(5, 8)
    output = Cascade(student, teacher, Threshold(rules.margin, 2.0))(small, teacher_inputs=(large,))
    torch.testing.assert_close(output.logits, teacher(large))


def population(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and correlated successes: the surer the student, the closer it comes to its better teacher."""
    score = rng.beta(3, 1, n)
    luck = rng.random(n)
    own = np.where(rng.random(n) < 0.7, luck, rng.random(n))
    return score, own < 0.3 + 0.68 * score**1.5, luck < 0.6 + 0.38 * score


def test_calibrated_threshold_keeps_its_promise() -> None:
    """The risk is exceeded in at most a share delta of repetitions (with 99 % binomial slack), yet it keeps some."""
    rng = np.random.default_rng(0)
    score, student, teacher = population(400_000, rng)
    repetitions, delta, exceeded, kept = 200, 0.1, 0, []
    for _ in range(repetitions):
        threshold = calibrate_threshold(*population(2000, rng), epsilon=0.01, delta=delta)
        keep = score >= threshold
        exceeded += np.where(keep, teacher.astype(float) - student, 0.0).mean() > 0.01
        kept.append(keep.mean())
    assert exceeded / repetitions <= delta + 2.33 * np.sqrt(delta * (1 - delta) / repetitions)
    assert np.mean(kept) > 0.1


def test_calibration_without_a_guarantee_would_be_noticed() -> None:
    """Negative control: taking the empirically best threshold exceeds the risk far more often than delta."""
    rng = np.random.default_rng(0)
    score, student, teacher = population(400_000, rng)
    exceeded = 0
    for _ in range(100):
        held, s, t = population(2000, rng)
        order = np.argsort(-held)
        risk = np.cumsum(t[order].astype(float) - s[order]) / len(order)
        threshold = held[order][np.flatnonzero(risk <= 0.01).max()]
        exceeded += np.where(score >= threshold, teacher.astype(float) - student, 0.0).mean() > 0.01
    assert exceeded > 30


def test_p_value_is_valid_at_the_boundary() -> None:
    rng = np.random.default_rng(1)
    p = [betting_p_value(rng.choice([0.0, 0.5, 1.0], 500, p=[0.05, 0.9, 0.05]), 0.5, 0.1) for _ in range(500)]
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 2.33 * np.sqrt(0.09 / 500)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.1), (0.1, 1.0), (-1.0, 0.5)])
def test_calibration_refuses_bad_levels(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        calibrate_threshold(np.ones(3), np.ones(3), np.ones(3), epsilon=epsilon, delta=delta)


def test_calibration_defers_all_when_the_student_is_bad() -> None:
    """Also on data sorted by score, where the order itself would look like evidence."""
    score = np.linspace(0, 1, 500)
    assert calibrate_threshold(score, np.zeros(500), np.ones(500), epsilon=0.01, delta=0.1) > 0.99
