"""Teachers in the loop: one, an ensemble of n, or m of n drawn anew at every step (arXiv 2211.00683v1).

The paper's abstract: an ensemble costs O(n) forward passes a step, one teacher drawn at random O(1), and keeps the
ensemble's benefit. An ensemble's logits are averaged, not its probabilities (the authors' code; secondary).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paper_repro.errors import UserError
from paper_repro.seeds import numpy_rng


class TeacherPool:
    """Teachers that are asked together. They are put into eval mode, get no gradients, and are not trained.

    ``draw``: how many of them a step asks (None: all). The draw is a function of ``seed`` and the step alone, on a
    stream of its own: it changes no other random number, and a resumed run draws the same. ``per`` "step": all
    processes, and all parts of an accumulated batch, ask the same teachers. "rank": each process draws its own, as the
    authors' code does, so that a step of 8 processes may ask 8 teachers; ``rank`` is this process's number.
    ``compile``: whether to compile them.

    Raises UserError for no teachers, or for a draw that is not among 1 .. n.
    """

    def __init__(
        self,
        teachers: Sequence[nn.Module],
        draw: int | None = None,
        *,
        seed: int = 0,
        per: Literal["step", "rank"] = "step",
        rank: int = 0,
        compile: bool = False,
    ) -> None:
        if not teachers:
            raise UserError("There is no teacher to ask; give at least one.")
        if draw is not None and not 1 <= draw <= len(teachers):
            raise UserError(f"{draw} of {len(teachers)} teachers cannot be drawn; draw 1 to {len(teachers)}.")
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self.draw, self.seed, self.rank = draw, seed, rank if per == "rank" else 0
        self._call: list[Callable[..., Tensor]] = [torch.compile(t) if compile else t for t in self.teachers]

    def __len__(self) -> int:
        return len(self.teachers)

    @property
    def asked(self) -> int:
        """How many forward passes a step makes."""
        return len(self) if self.draw is None else self.draw

    def chosen(self, step: int) -> list[int]:
        """Which teachers step ``step`` asks, in ascending order."""
        if self.asked == len(self):
            return list(range(len(self)))
        rng = numpy_rng(self.seed, "teachers", step=step, rank=self.rank)
        return sorted(rng.choice(len(self), self.asked, replace=False).tolist())

    def at(self, step: int) -> Callable[..., Tensor]:
        """The teacher of step ``step``: it maps a model's inputs to the mean of the logits of those asked."""

        def ask(*inputs: Any) -> Tensor:
            with torch.no_grad():
                first, *others = (self._ask(number, inputs) for number in self.chosen(step))
                if not others:
                    return first
                total = first.clone()
                for logits in others:
                    if logits.shape != total.shape:
                        raise UserError(
                            f"The teachers give logits of shapes {list(total.shape)} and {list(logits.shape)}; an "
                            "ensemble must tell the same classes apart."
                        )
                    total += logits
                return total / (1 + len(others))

        return ask

    def _ask(self, number: int, inputs: Sequence[Any]) -> Tensor:
        self.teachers[number].eval()  # whoever holds it may have put it into train mode
        return self._call[number](*inputs)
