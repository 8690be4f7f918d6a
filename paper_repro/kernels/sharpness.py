"""How sharp a minimum is: the largest curvature of the loss, and how much the loss rises under weight noise."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from paper_repro.kernels.majority import KERNELS
from paper_repro.seeds import torch_rng

Loss = Callable[[], Tensor]


def top_eigenvalue(parameters: list[nn.Parameter], loss: Loss, *, iterations: int = 20, seed: int = 0) -> float:
    """The Hessian's eigenvalue of largest size, of ``loss()`` (float [], the same data at each call) in
    ``parameters``, by power iteration on Hessian-vector products: the Rayleigh quotient after ``iterations``.

    Evaluate the model that the loss is of: batch statistics would make it another function.
    """
    generator = torch_rng(seed, "power iteration")
    vector = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]
    value = 0.0
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        gradient = torch.autograd.grad(loss(), parameters, create_graph=True)
        for _ in range(iterations):
            size = torch.stack([v.square().sum() for v in vector]).sum().sqrt()
            vector = [v / size for v in vector]
            product = torch.autograd.grad(gradient, parameters, vector, retain_graph=True)
            value = float(torch.stack([(v * h).sum() for v, h in zip(vector, product, strict=True)]).sum())
            vector = [h.detach() for h in product]
    return value


def kernel_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights of all layers that can have majority kernels: no embeddings, norms or biases."""
    kinds = tuple(KERNELS)
    return [p for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False) if p.ndim > 1]


@torch.no_grad()
def rise_under_noise(model: nn.Module, loss: Loss, *, sigma: float, draws: int = 10, seed: int = 0) -> float:
    """Mean of ``loss()`` at weights with Gaussian noise minus ``loss()``, in its unit. ``sigma``: standard deviation of
    the noise over that of each kernel's weights. The weights are as they were afterwards.
    """
    weights = kernel_weights(model)
    before, generator = [weight.clone() for weight in weights], torch_rng(seed, "sharpness")
    start, total = float(loss()), 0.0
    for _ in range(draws):
        for weight, original in zip(weights, before, strict=True):
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            weight.copy_(original + sigma * original.std(correction=0) * noise)
        total += float(loss())
    for weight, original in zip(weights, before, strict=True):
        weight.copy_(original)
    return total / draws - start
