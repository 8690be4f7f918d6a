"""Gaussian weight noise: the control that majority kernels have to beat."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paper_repro.errors import UserError
from paper_repro.kernels.drawn import Draw, Drawn
from paper_repro.kernels.majority import Layers, are_kernels, chosen_weights


class Gaussian(Draw):
    """Normal numbers of the weight's shape; standard deviation ``sigma`` times that of the weight at the time."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def make(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.empty_like(weight).normal_(generator=generator)
        return noise.mul_(self.sigma * weight.std(correction=0))


class Noisy(Drawn):
    """weight -> weight plus noise in training mode, the weight itself in evaluation mode."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.source.values if self.training else weight


def add_noise(model: nn.Module, sigma: float, *, layers: Layers = are_kernels) -> nn.Module:
    """Add Gaussian noise to kernels of ``model``, in place, in training mode: a new one with each ``draw``.

    ``sigma``: standard deviation of the noise over that of the layer's weights. The gradient is that at the noisy
    weights. ``fold`` takes the noise away. Raises UserError for a negative ``sigma`` and as ``expand`` does.
    """
    if not 0 <= sigma < math.inf:
        raise UserError(f"The standard deviation of weight noise must be 0 or more, not {sigma}.")
    known: dict[int, Noisy] = {}
    for (_, name), (module, weight) in chosen_weights(model, layers).items():
        kernel = known.setdefault(id(weight), Noisy(Gaussian(sigma), list(module._parameters)))
        parametrize.register_parametrization(module, name, kernel, unsafe=True)  # its check would need a draw
    return model
