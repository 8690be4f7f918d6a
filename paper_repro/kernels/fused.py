"""SGD of majority kernels without the gradient of k copies.

All copies of a kernel see the gradient g of their mixture, times their coefficient: it is an outer product. So autograd
stops at the mixture, and one pass over copies and momentum does what torch.optim.SGD does in several over k gradients
that are never stored. The arithmetic is SGD's, up to rounding.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from paper_repro.kernels.drawn import Draw, Drawing, all_drawn, values_of
from paper_repro.kernels.majority import fuse, untied

SHARED = 1 << 15  # weights of a kernel from which on several threads share its update


class MajoritySGD(torch.optim.Optimizer):
    """``torch.optim.SGD`` for all majority kernels of ``model`` that have one coefficient per copy.

    Its parameters are the mixtures, which collect the gradient: unscaling it and accumulating it work as ever. The
    norm of a gradient of k copies would be that of the mixture times the norm of the coefficients, so clipping by norm
    is the caller's to think of. For one process: others would not learn of the gradient. Raises UserError as ``fuse``.
    """

    def __init__(
        self, model: nn.Module, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        fuse(model)
        self.kernels, self.drawn = untied(model), all_drawn(model)
        scale = self.kernels[0][0].lr_scale
        settings = {"lr": lr * scale, "lr_scale": scale, "momentum": momentum, "nesterov": nesterov}
        mixtures = [kernel.mixed for kernel, _ in self.kernels if kernel.mixed is not None]
        super().__init__(mixtures, {**settings, "weight_decay": weight_decay / scale})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the copies of every kernel that has a gradient, by the coefficients of the last ``draw``, and draw and
        mix for the step after it; a ``draw`` of another does so again."""
        (group,) = self.param_groups
        ahead: dict[Drawing, dict[Draw, Tensor]] = {}
        for kernel, stack in self.kernels:
            mixture = kernel.mixed
            if mixture is None or mixture.grad is None or kernel.drawing is None:
                continue
            coming = kernel.drawing[0]._replace(step=kernel.drawing[0].step + 1)
            if coming not in ahead:
                ahead[coming] = values_of(self.drawn, coming)
            state = self.state[mixture]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(stack)
            update(
                stack, state["momentum_buffer"], mixture.grad, kernel.source.values,
                group["lr"], group["momentum"], group["weight_decay"], group["nesterov"],
                mixed=mixture.data, ahead=ahead[coming][kernel.source],
            )  # fmt: skip
            kernel.drawing = coming, stack._version
        for values in ahead.values():
            for source, new in values.items():
                source.renew(new)


def update(
    stack: Tensor, momentum: Tensor, gradient: Tensor, coefficients: Tensor,
    lr: float, mu: float, decay: float, nesterov: bool, *, mixed: Tensor, ahead: Tensor,
) -> None:  # fmt: skip
    """One step of SGD, in place, of ``stack`` and ``momentum`` [k, ...] given the mixture's ``gradient`` [...].

    m <- mu m + p g + decay W; W <- W - lr (p g + decay W + mu m with Nesterov's momentum, m without). Then ``mixed``
    [...] is what the coefficients ``ahead`` [k] make of the copies: they are read once for both.
    """
    rows, buffers, flat = stack.view(len(stack), -1), momentum.view(len(stack), -1), gradient.reshape(-1)
    if stack.device.type == "cpu" and stack.dtype == torch.float32:
        from paper_repro.kernels.sgd_update import in_threads, whole  # compiles, which plain training need not wait for

        how = in_threads if torch.get_num_threads() > 1 and flat.numel() >= SHARED else whole
        numbers = np.array([lr, mu, decay], dtype=np.float32)
        how(
            rows.detach().numpy(), buffers.numpy(), flat.numpy(), coefficients.numpy(), numbers, nesterov,
            mixed.view(-1).numpy(), ahead.numpy(),
        )  # fmt: skip
        return
    outer = torch.outer(coefficients, flat).add_(rows, alpha=decay)
    buffers.mul_(mu).add_(outer)
    rows.add_(outer.add_(buffers, alpha=mu) if nesterov else buffers, alpha=-lr)
    torch.mv(rows.t(), ahead, out=mixed.view(-1))
