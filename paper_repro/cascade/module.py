"""The deployable cascade: the teacher runs only on what the student defers."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class CascadeOutput(NamedTuple):
    """Logits [B, L] (each row from whoever answered) and the boolean mask of deferred rows [B]."""

    logits: Tensor
    deferred: Tensor


class Cascade(nn.Module):
    """Student first; rows that ``rule`` does not keep are recomputed by the teacher (Titans, section on inference).

    ``rule`` maps student logits to a boolean keep mask [B], for example ``rules.Threshold(rules.margin, 0.4)``.
    ``teacher_inputs`` of ``forward`` is for teachers that read the example in another form (a larger image, other
    tokens); by default both models read the same tensors. All inputs have the batch as their first dimension.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, rule: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher, self.rule = student, teacher, rule

    @torch.no_grad()
    def forward(self, *inputs: Tensor, teacher_inputs: tuple[Tensor, ...] | None = None) -> CascadeOutput:
        logits = self.student(*inputs)
        deferred = ~self.rule(logits)
        if deferred.any():
            hard = [tensor[deferred] for tensor in (inputs if teacher_inputs is None else teacher_inputs)]
            logits = logits.clone()
            logits[deferred] = self.teacher(*hard).to(logits.dtype)
        return CascadeOutput(logits, deferred)
