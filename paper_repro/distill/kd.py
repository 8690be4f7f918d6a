"""Distillation added to any task's loss, for a part of training (Blakeney et al., arXiv 2211.00683v1).

The body of that paper could not be read; form, defaults and variants are those of the authors' public code (closed pull
request 1819 of Composer; certainty: secondary). z_s and z_t are the logits of student and teacher, q = softmax(z_s / T)
and p = softmax(z_t / T).

    window = Window(end=0.5)
    kd = Distillation(kind="kl", temperature=2.0, window=window)
    ...
    logits = student(x)
    loss = F.cross_entropy(logits, y)
    if window.active(step, total):
        loss = kd.add(loss, logits, pool.at(step)(x), step, total)
"""

import math
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from paper_repro.config import Config
from paper_repro.errors import UserError

Kind = Literal["kl", "kl-reversed", "mse"]
Axis = Literal["classes", "positions"]


def kd_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    kind: Kind = "kl",
    *,
    temperature: float = 1.0,
    axis: Axis = "classes",
    where: Tensor | None = None,
) -> Tensor:
    """How far the student is from the teacher (float []); only ``logits`` get a gradient.

    Both logits are float [..., C]. ``where`` (bool [...]) are the positions that count (None: all): of a masked
    language model [B, T, V] for instance those that are not padding. The loss is a mean over them, zero for none.

    - kl: T^2 KL(p || q) (Hinton et al. 2015)
    - kl-reversed: T^2 KL(q || p), which the authors' code computes by giving the two in the other order
    - mse: the mean over classes of (z_s - z_t)^2; the temperature is not used

    ``axis``: over what a softmax sums. "positions" is what the authors' code does to language models, by their account
    first by accident: for each entry of the vocabulary a distribution over the positions [T] of a sequence that count.
    Their sum over the vocabulary is divided by the positions, so that its weight compares with that of "classes"; the
    authors divide both by the sequences only.

    Raises UserError where the shapes differ, for "positions" without [B, T, V], and together with "mse".
    """
    if logits.shape != teacher_logits.shape:
        raise UserError(
            f"The student gives logits of shape {list(logits.shape)}, the teacher of {list(teacher_logits.shape)}; "
            "both must tell the same classes apart."
        )
    if where is not None and where.shape != logits.shape[:-1]:
        raise UserError(f"The positions that count have shape {list(where.shape)}, not {list(logits.shape[:-1])}.")
    student, teacher = logits.float(), teacher_logits.detach().float()
    if axis == "positions":
        return _over_positions(student, teacher, kind, temperature, where)
    if where is not None:
        student, teacher = student[where], teacher[where]
    student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
    count = max(len(student), 1)
    if kind == "mse":
        return F.mse_loss(student, teacher, reduction="sum") / (count * student.shape[-1])
    return _divergence(student, teacher, kind, temperature, -1) / count


def _over_positions(student: Tensor, teacher: Tensor, kind: Kind, temperature: float, where: Tensor | None) -> Tensor:
    if student.ndim != 3 or kind == "mse":
        raise UserError("A softmax over positions needs logits [B, T, V] and one of the two divergences.")
    if where is None:
        return _divergence(student, teacher, kind, temperature, 1) / (student.shape[0] * student.shape[1])
    nowhere = torch.finfo(student.dtype).min / 4 * min(temperature, 1.0)  # a probability of 0 whose logarithm is finite
    hidden = ~where.unsqueeze(-1)
    parts = student.masked_fill(hidden, nowhere), teacher.masked_fill(hidden, nowhere)
    return _divergence(*parts, kind, temperature, 1) / where.sum().clamp(min=1)


def _divergence(student: Tensor, teacher: Tensor, kind: Kind, temperature: float, dim: int) -> Tensor:
    """T^2 times the sum of all divergences along ``dim``."""
    log_q = F.log_softmax(student / temperature, dim=dim)
    log_p = F.log_softmax(teacher / temperature, dim=dim)
    from_, to = (log_p, log_q) if kind == "kl" else (log_q, log_p)
    return temperature**2 * F.kl_div(to, from_, reduction="sum", log_target=True)  # KL(from_ || to)


class Window(Config):
    """When a run distils: where the elapsed fraction of training is in [start, end), at each ``every``-th step.

    ``fade``: over this last part of the window (a fraction of it) the loss goes back to the task's alone, in a straight
    line, so that its scale has no jump (our choice). 0 is the authors' code: it ends from one step to the next.
    """

    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)
    every: int = Field(default=1, ge=1)
    fade: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start > self.end:
            raise ValueError(f"a window starts before it ends, not at {self.start} and {self.end}")
        return self

    def strength(self, step: int, total: int) -> float:
        """How much of distillation's loss step ``step`` (0 .. total - 1) takes: 0 outside the window, else up to 1."""
        first = math.ceil(round(self.start * total, 6))  # the first step inside
        if not self.start <= step / total < self.end or (step - first) % self.every:
            return 0.0
        left = (self.end - step / total) / (self.end - self.start)
        return min(1.0, left / self.fade) if self.fade else 1.0

    def active(self, step: int, total: int) -> bool:
        """Whether step ``step`` of ``total`` needs a teacher."""
        return self.strength(step, total) > 0

    def steps(self, total: int) -> int:
        """How many of ``total`` steps need a teacher."""
        return sum(self.active(step, total) for step in range(total))


class Distillation(Config):
    """What is added to the task's loss, and when. Inside the window the loss is

    ``task_weight`` L_task + ``kd_weight`` L_kd, outside it L_task. The weights are independent; 0.1 and 0.9 are the
    authors' defaults, and so is the jump of the task's weight where a window without ``fade`` ends.
    """

    kind: Kind = "kl"
    temperature: float = Field(default=1.0, gt=0)
    axis: Axis = "classes"
    task_weight: float = Field(default=0.1, ge=0)
    kd_weight: float = Field(default=0.9, ge=0)
    window: Window = Window()

    def add(
        self, task_loss: Tensor, logits: Tensor, teacher_logits: Tensor, step: int, total: int,
        where: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of step ``step`` (0 .. total - 1); see ``kd_loss`` for shapes, ``where`` and errors."""
        strength = self.window.strength(step, total)
        if not strength:
            return task_loss
        kd = kd_loss(logits, teacher_logits, self.kind, temperature=self.temperature, axis=self.axis, where=where)
        task_weight = 1 - strength * (1 - self.task_weight)
        return task_weight * task_loss + strength * self.kd_weight * kd
