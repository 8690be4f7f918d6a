"""Weight-space simplex (Wortsman et al., arXiv 2102.10472): the nearest published method, and so a comparison.

Its recipe is that of majority kernels with norms expanded, too, and a penalty that keeps the endpoints apart:
``expand(model, k, fresh=..., layers=with_norms)`` and ``beta * similarity(model, step, seed)`` added to the loss.
"""

import torch
from torch import Tensor, nn

from paper_repro.errors import UserError
from paper_repro.kernels.majority import are_kernels, untied
from paper_repro.seeds import torch_rng


def with_norms(name: str, module: nn.Module) -> bool:
    """Kernels and the weights and biases of batch norms, as their code expands them."""
    return are_kernels(name, module) or isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)


def similarity(model: nn.Module, step: int, *, seed: int = 0) -> Tensor:
    """Squared cosine of two copies, all kernels of each taken as one vector: float []; which two is drawn per step.

    Norms are left out, as in their code: their weights begin equal, and would be what is driven apart.

    Raises UserError for a model with fewer than two copies, or whose copies are trained fused, which sees no gradient
    but that of the mixture.
    """
    stacks = [stack for _, stack in untied(model) if stack.ndim > 2]
    if not stacks or len(stacks[0]) < 2:
        raise UserError("Two copies are compared; expand the model with k of 2 or more.")
    if not all(stack.requires_grad for stack in stacks):
        raise UserError("A fused optimiser does not see what is added for the copies; train them with torch's.")
    first, second = torch.randperm(len(stacks[0]), generator=torch_rng(seed, "similarity", step=step))[:2].tolist()
    dot = torch.stack([(stack[first] * stack[second]).sum() for stack in stacks]).sum()
    sizes = [torch.stack([stack[i].square().sum() for stack in stacks]).sum() for i in (first, second)]
    return dot.square() / (sizes[0] * sizes[1])
