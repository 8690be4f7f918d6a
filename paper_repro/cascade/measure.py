"""Everything that is measured of one student and one teacher on one task: predictions in, metrics and curves out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from paper_repro.cascade import rules
from paper_repro.cascade.calibration import calibrate_threshold
from paper_repro.cascade.curves import (
    amortised_cost,
    area,
    at_fraction,
    deferral_curve,
    kept_by_easy_share,
    operating_point,
    oracle_score,
    threshold_for_fraction,
)
from paper_repro.distill.losses import easy_by_margin
from paper_repro.results.schema import Metric

CURVE_FRACTIONS = np.linspace(0.0, 1.0, 21)
EASY_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Predictions:
    """Student and teacher on one split. ``student`` is [N, L], or [N, |L_in| + 1] with an abstain class (CD-III)."""

    student: Tensor
    teacher: Tensor  # [N, L] logits
    labels: Tensor  # [N]
    in_domain: Tensor  # boolean [L]: the classes L_in
    abstains: bool = False

    @property
    def student_right(self) -> np.ndarray:
        """Boolean [N]. A student with an abstain class answers, when it is made to, its best real class."""
        if self.abstains:
            predicted = self.in_domain.nonzero().squeeze(1)[self.student[:, :-1].argmax(dim=1)]
        else:
            predicted = self.student.argmax(dim=1)
        return (predicted == self.labels).numpy()

    @property
    def teacher_right(self) -> np.ndarray:
        """Boolean [N]."""
        return (self.teacher.argmax(dim=1) == self.labels).numpy()

    def scores(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The confidence rules that apply to this student."""
        if self.abstains:
            return {"margin": rules.abstain_margin}
        return dict(rules.CONFIDENCE_RULES)

    def class_rule(self) -> np.ndarray:
        """Boolean [N]: kept by the abstain class if there is one, else by the predicted class being in L_in."""
        if self.abstains:
            return rules.keeps_non_abstain(self.student).numpy()
        return rules.keeps_class(self.student, self.in_domain).numpy()


@dataclass(frozen=True)
class CascadeSettings:
    """Fixed before any result is seen; the thresholds that follow from them are learnt on validation data only."""

    easy_margin: float  # an example is in-domain (easy) when the teacher's margin exceeds this
    keep_fraction: float  # operating point: threshold that keeps this share of validation
    rho: float  # a fixed threshold on the student margin, the same for all methods (control v)
    epsilon: float  # calibration: accuracy that may be lost against the teacher
    delta: float  # calibration: probability of losing more
    student_cost: float  # FLOPs per example
    teacher_cost: float


def measure_cascade(
    validation: Predictions, test: Predictions, settings: CascadeSettings
) -> tuple[list[Metric], dict[str, list[float | None]]]:
    """Metrics and curve samples of one student as part of a cascade; thresholds come from ``validation`` only."""
    student, teacher = test.student_right, test.teacher_right
    easy = easy_by_margin(test.teacher, settings.easy_margin).numpy()
    n = len(student)
    metrics: list[Metric] = []
    samples: dict[str, list[float | None]] = {"curve/fraction": CURVE_FRACTIONS.tolist()}

    def add(name: str, value: float, *, unit: str = "fraction", split: str = "test", count: int = n) -> None:
        metrics.append(Metric(name=name, value=float(value) if count else None, unit=unit, split=split, n=count))

    def add_mean(name: str, values: np.ndarray, part: np.ndarray, unit: str = "fraction") -> None:
        chosen = values[part]
        add(name, chosen.mean() if len(chosen) else 0.0, unit=unit, count=len(chosen))

    add("accuracy", student.mean())
    add("accuracy", validation.student_right.mean(), split="validation", count=len(validation.labels))
    add("teacher_accuracy", teacher.mean())

    # Curves: one per rule, with random and oracle deferral as lower and upper bounds.
    score = {name: rule(test.student).numpy() for name, rule in test.scores().items()}
    held_out = {name: rule(validation.student).numpy() for name, rule in validation.scores().items()}
    head = rules.DeferralHead.fit(validation.student, validation.student_right, validation.teacher_right)
    score["head"], held_out["head"] = head(test.student).numpy(), head(validation.student).numpy()
    bounds = {"random": np.zeros(n), "oracle": oracle_score(student, teacher)}
    for name, values in {**score, **bounds}.items():
        curve = deferral_curve(values, student, teacher)
        add(f"auc/{name}", area(curve))
        samples[f"curve/{name}"] = at_fraction(curve, CURVE_FRACTIONS).tolist()
    if easy.any():  # a weak teacher may find nothing easy
        in_domain = deferral_curve(score["margin"][easy], student[easy], teacher[easy])
        add("auc_in_domain/margin", area(in_domain), count=int(easy.sum()))
        samples["curve_in_domain/margin"] = at_fraction(in_domain, CURVE_FRACTIONS).tolist()
    relative = amortised_cost(settings.student_cost, settings.teacher_cost, CURVE_FRACTIONS) / settings.teacher_cost
    samples["curve_cost/margin"] = np.asarray(relative).tolist()

    # Operating point: the threshold that keeps a fixed share of the validation set.
    percent = round(100 * settings.keep_fraction)
    for name in ("margin", "head"):
        rho = threshold_for_fraction(held_out[name], settings.keep_fraction)
        fraction, accuracy = operating_point(score[name] >= rho, student, teacher)
        add(f"fraction_at_{percent}/{name}", fraction)
        add(f"accuracy_at_{percent}/{name}", accuracy)
    on_test = threshold_for_fraction(score["margin"], settings.keep_fraction)  # control iv: never used to choose
    add(
        f"accuracy_at_{percent}_test_threshold/margin", operating_point(score["margin"] >= on_test, student, teacher)[1]
    )
    kept = score["margin"] >= threshold_for_fraction(held_out["margin"], settings.keep_fraction)
    add_mean("deferred/student_accuracy", student, ~kept)
    add_mean("deferred/teacher_accuracy", teacher, ~kept)
    for share in EASY_SHARES if 0 < easy.sum() < n else ():
        fraction = kept_by_easy_share(kept, easy, share)
        cost = amortised_cost(settings.student_cost, settings.teacher_cost, fraction) / settings.teacher_cost
        add(f"cost/easy_share_{round(100 * share)}", float(cost), unit="ratio")

    # Specialisation: easy and hard examples, classes inside and outside L_in.
    inside = test.in_domain[test.labels].numpy()
    for name, part in {"easy": easy, "hard": ~easy, "in_classes": inside, "out_classes": ~inside}.items():
        add_mean(f"accuracy_{name}", student, part)
    if 0 < easy.sum() < n:
        add("auroc_easy", float(roc_auc_score(easy, score["margin"])))
    add_mean("margin_hard", score["margin"], ~easy, unit="probability")
    at_rho = score["margin"] >= settings.rho
    fraction, accuracy = operating_point(at_rho, student, teacher)
    add("fraction_at_rho", fraction)
    add("accuracy_at_rho", accuracy)
    add_mean("kept_hard_at_rho", at_rho, ~easy)

    # Class-based delegation: one operating point, and the margin rule of the same student at the same fraction.
    fraction, accuracy = operating_point(test.class_rule(), student, teacher)
    add("class_rule/fraction", fraction)
    add("class_rule/accuracy", accuracy)
    if not test.abstains:  # the abstain margin passes through the abstain rule's point by construction
        margin_curve = deferral_curve(score["margin"], student, teacher)
        add("margin_at_class_fraction", float(at_fraction(margin_curve, np.array([fraction]))[0]))

    # Calibrated threshold. A score in [-1, 1] (abstain margin) is mapped to [0, 1] by clipping: below 0 it defers.
    rho = calibrate_threshold(
        held_out["margin"].clip(0.0), validation.student_right, validation.teacher_right,
        epsilon=settings.epsilon, delta=settings.delta,
    )  # fmt: skip
    fraction, accuracy = operating_point(score["margin"].clip(0.0) >= rho, student, teacher)
    add("calibrated/threshold", rho if np.isfinite(rho) else 1.0, unit="probability")  # 1: keeps nothing
    add("calibrated/fraction", fraction)
    add("calibrated/accuracy", accuracy)
    add("calibrated/teacher_gap", teacher.mean() - accuracy)
    return metrics, samples


def teacher_summary(logits: Tensor, labels: Tensor, easy_margin: float, split: str) -> list[Metric]:
    """Accuracy, share of easy examples, and cross-entropy in nats of the teacher on one split."""
    n = len(labels)
    easy = easy_by_margin(logits, easy_margin)
    return [
        Metric(
            name="accuracy", value=(logits.argmax(1) == labels).float().mean().item(), unit="fraction", split=split, n=n
        ),
        Metric(name="easy_share", value=easy.float().mean().item(), unit="fraction", split=split, n=n),
        Metric(name="cross_entropy", value=F.cross_entropy(logits, labels).item(), unit="nat", split=split, n=n),
    ]


def as_tensor(logits: np.ndarray) -> Tensor:
    """A float32 tensor copy of (possibly memory-mapped) logits."""
    return torch.from_numpy(np.array(logits, dtype=np.float32))
