"""Deferral rules: how sure is the student? Each maps student logits to a score; the highest scores are kept.

A threshold ``rho`` keeps ``score >= rho`` (Titans eq. 7 for the margin) and defers the rest to the teacher.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from paper_repro.distill.losses import margin as probability_margin


def margin(logits: Tensor) -> Tensor:
    """Top-1 minus top-2 softmax probability [B] (Titans eq. 6)."""
    return probability_margin(F.softmax(logits, dim=-1))


def max_prob(logits: Tensor) -> Tensor:
    """Largest softmax probability [B]: Chow's rule, the default of later cascades."""
    return F.softmax(logits, dim=-1).amax(dim=-1)


def entropy(logits: Tensor) -> Tensor:
    """Negative entropy of the softmax in nats [B] (negative, so that high still means sure)."""
    log_q = F.log_softmax(logits, dim=-1)
    return (log_q.exp() * log_q).sum(dim=-1)


CONFIDENCE_RULES: dict[str, Callable[[Tensor], Tensor]] = {"margin": margin, "max_prob": max_prob, "entropy": entropy}


def keeps_class(logits: Tensor, in_domain: Tensor) -> Tensor:
    """Class-based rule [B], boolean: keep when the predicted class is in L_in (``in_domain`` is boolean [L])."""
    return in_domain[logits.argmax(dim=-1)]


def keeps_non_abstain(logits: Tensor) -> Tensor:
    """Abstain rule of CD-III [B], boolean: keep unless the last output, the abstain class, is the largest."""
    return logits.argmax(dim=-1) != logits.shape[-1] - 1


def abstain_margin(logits: Tensor) -> Tensor:
    """Score [B] for a student with an abstain class: best real class minus abstain probability, in [-1, 1].

    Our choice: it is non-negative exactly where ``keeps_non_abstain`` keeps, so the paper's single operating point
    lies on the curve that this score draws.
    """
    q = F.softmax(logits, dim=-1)
    return q[..., :-1].amax(dim=-1) - q[..., -1]


@dataclass(frozen=True)
class DeferralHead:
    """Post-hoc deferral head: a linear model of how much the teacher would gain over the student.

    After the Diff-01 target of Jitkrittum et al. (arXiv 2307.02764): regress ``1[teacher right] - 1[student right]`` on
    features of the frozen student's output. The score is minus the predicted gain.
    """

    weight: Tensor  # [features]
    bias: float

    @staticmethod
    def features(logits: Tensor) -> Tensor:
        """Sorted log-probabilities (at most ten), margin, entropy, and the predicted class one-hot: [B, features]."""
        log_q = F.log_softmax(logits.float(), dim=-1)
        ranked = log_q.sort(dim=-1, descending=True).values[..., :10].clamp_min(-20.0)
        predicted = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).float()
        return torch.cat([ranked, margin(logits)[..., None], entropy(logits)[..., None], predicted], dim=-1)

    @classmethod
    def fit(cls, logits: Tensor, student_right: np.ndarray, teacher_right: np.ndarray) -> "DeferralHead":
        """Fit on held-out data [N]; the ridge penalty is chosen by leave-one-out on that same held-out data."""
        features = cls.features(logits).numpy().astype(np.float64)
        gain = teacher_right.astype(np.float64) - student_right.astype(np.float64)
        ridge = RidgeCV(alphas=np.logspace(-3, 3, 13)).fit(features, gain)
        return cls(torch.tensor(ridge.coef_, dtype=torch.float32), float(ridge.intercept_))

    def __call__(self, logits: Tensor) -> Tensor:
        return -(self.features(logits) @ self.weight + self.bias)


class Threshold(nn.Module):
    """A score and a threshold as one module: ``forward(logits) -> bool [B]``, True where the student is kept."""

    rho: Tensor

    def __init__(self, score: Callable[[Tensor], Tensor], rho: float) -> None:
        super().__init__()
        self.score = score
        self.register_buffer("rho", torch.tensor(float(rho)))

    def forward(self, logits: Tensor) -> Tensor:
        return self.score(logits) >= self.rho
