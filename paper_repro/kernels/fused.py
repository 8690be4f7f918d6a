"""SGD and AdamW of majority kernels without the gradient of k copies.

All copies of a kernel see the gradient g of their mixture, times their coefficient: it is an outer product. So autograd
stops at the mixture, and one pass over copies and moments does what torch.optim does in several over k gradients that
are never stored, and mixes the copies for the next step. The arithmetic is torch's, up to rounding.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paper_repro.errors import UserError
from paper_repro.kernels.drawn import Draw, Drawing, all_drawn, values_of
from paper_repro.kernels.majority import fuse, untied

SHARED = 1 << 15  # weights of a kernel from which on several threads share its update
EPS = 1e-8  # of AdamW, torch's default


class MajorityOptimizer(torch.optim.Optimizer, ABC):
    """An optimiser of all majority kernels of ``model`` that have one coefficient per copy.

    Its parameters are the mixtures, which collect the gradient: unscaling it and accumulating it work as ever. The
    norm of a gradient of k copies would be that of the mixture times the norm of the coefficients, so clipping by norm
    is the caller's to think of. For one process: others would not learn of the gradient. Change copies by torch's
    operations, not through ``.data``, of which the mixture that is ready for the next step would not know. Raises
    UserError as ``fuse``.
    """

    moments: int  # numbers that are kept per weight

    def __init__(self, model: nn.Module, lr: float, weight_decay: float, **settings: Any) -> None:
        fuse(model)
        self.kernels, self.drawn = untied(model), all_drawn(model)
        scale = self.kernels[0][0].lr_scale
        mixtures = [kernel.mixed for kernel, _ in self.kernels if kernel.mixed is not None]
        own = {"lr": lr * scale, "lr_scale": scale, "weight_decay": weight_decay / scale}
        super().__init__(mixtures, {**own, **settings})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the copies of every kernel that has a gradient, by the coefficients of the last ``draw``, and draw and
        mix for the step after it; a ``draw`` of another does so again."""
        (group,) = self.param_groups
        ahead: dict[Drawing, dict[Draw, Tensor]] = {}
        for kernel, stack in self.kernels:
            mixture = kernel.mixed
            if mixture is None or mixture.grad is None:
                continue
            if kernel.drawing is None:
                raise UserError("Nothing was drawn for these kernels; call kernels.draw(model, step) before each step.")
            coming = kernel.drawing[0]._replace(step=kernel.drawing[0].step + 1)
            if coming not in ahead:
                ahead[coming] = values_of(self.drawn, coming)
            state = self.state[mixture]
            if not state:
                state["step"], state["moments"] = 0, stack.new_zeros(self.moments, *stack.shape)
            state["step"] += 1
            self.update(
                stack, state["moments"], mixture.grad, kernel.source.values, group, state["step"],
                mixed=mixture.data, ahead=ahead[coming][kernel.source],
            )  # fmt: skip
            kernel.drawing = coming, stack._version
        for values in ahead.values():
            for source, new in values.items():
                source.renew(new)

    @staticmethod
    @abstractmethod
    def update(
        stack: Tensor, moments: Tensor, gradient: Tensor, coefficients: Tensor, group: dict[str, Any], step: int, *,
        mixed: Tensor, ahead: Tensor,
    ) -> None:  # fmt: skip
        """Step ``step`` (1, 2, ...), in place, of ``stack`` [k, ...] and its ``moments`` [m, k, ...] for the mixture's
        ``gradient`` [...]. Then ``mixed`` [...] is what the coefficients ``ahead`` [k] make of the copies."""


class MajoritySGD(MajorityOptimizer):
    """``torch.optim.SGD`` of majority kernels.

    m <- mu m + p g + decay W; W <- W - lr (p g + decay W + mu m with Nesterov's momentum, m without).
    """

    moments = 1

    def __init__(
        self, model: nn.Module, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(model, lr, weight_decay, momentum=momentum, nesterov=nesterov)

    @staticmethod
    def update(
        stack: Tensor, moments: Tensor, gradient: Tensor, coefficients: Tensor, group: dict[str, Any], step: int, *,
        mixed: Tensor, ahead: Tensor,
    ) -> None:  # fmt: skip
        """See ``MajorityOptimizer``."""
        lr, mu, decay, nesterov = (group[name] for name in ("lr", "momentum", "weight_decay", "nesterov"))
        if _is_compiled(stack):
            from paper_repro.kernels.updates import NESTEROV, SGD

            rule = NESTEROV if nesterov else SGD
            _compiled(rule, stack, moments, gradient, coefficients, [lr, mu, decay], mixed, ahead)
            return
        rows, buffers = stack.view(len(stack), -1), moments.view(len(stack), -1)
        value = torch.outer(coefficients, gradient.reshape(-1)).add_(rows, alpha=decay)
        buffers.mul_(mu).add_(value)
        rows.add_(value.add_(buffers, alpha=mu) if nesterov else buffers, alpha=-lr)
        torch.mv(rows.t(), ahead, out=mixed.view(-1))


class MajorityAdamW(MajorityOptimizer):
    """``torch.optim.AdamW`` of majority kernels (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2), eps 1e-8."""

    moments = 2

    def __init__(
        self, model: nn.Module, lr: float, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.01
    ) -> None:
        super().__init__(model, lr, weight_decay, betas=betas)

    @staticmethod
    def update(
        stack: Tensor, moments: Tensor, gradient: Tensor, coefficients: Tensor, group: dict[str, Any], step: int, *,
        mixed: Tensor, ahead: Tensor,
    ) -> None:  # fmt: skip
        """See ``MajorityOptimizer``."""
        lr, (beta1, beta2) = group["lr"], group["betas"]
        size, kept, root = lr / (1 - beta1**step), 1 - lr * group["weight_decay"], math.sqrt(1 - beta2**step)
        if _is_compiled(stack):
            from paper_repro.kernels.updates import ADAMW

            numbers = [size, kept, beta1, 1 - beta1, beta2, 1 - beta2, root, EPS]
            _compiled(ADAMW, stack, moments, gradient, coefficients, numbers, mixed, ahead)
            return
        rows, (first, second) = stack.view(len(stack), -1), moments.view(2, len(stack), -1)
        value = torch.outer(coefficients, gradient.reshape(-1))
        first.lerp_(value, 1 - beta1)
        second.mul_(beta2).addcmul_(value, value, value=1 - beta2)
        rows.mul_(kept).addcdiv_(first, (second.sqrt() / root).add_(EPS), value=-size)
        torch.mv(rows.t(), ahead, out=mixed.view(-1))


def _is_compiled(stack: Tensor) -> bool:
    return stack.device.type == "cpu" and stack.dtype == torch.float32


def _compiled(
    rule: int, stack: Tensor, moments: Tensor, gradient: Tensor, coefficients: Tensor, numbers: list[float],
    mixed: Tensor, ahead: Tensor,
) -> None:  # fmt: skip
    from paper_repro.kernels.updates import in_threads, whole  # compiles, which plain training need not wait for

    k, flat = len(stack), gradient.reshape(-1)
    how = in_threads if torch.get_num_threads() > 1 and flat.numel() >= SHARED else whole
    how(
        rule, stack.detach().view(k, -1).numpy(), moments.view(len(moments), k, -1).numpy(), flat.numpy(),
        coefficients.numpy(), np.array(numbers, dtype=np.float32), mixed.view(-1).numpy(), ahead.numpy(),
    )  # fmt: skip
