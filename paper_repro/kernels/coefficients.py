"""The coefficients that mix k kernels: random points of the simplex, and the laws they follow."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Law = Literal["dirichlet", "uniform", "one_hot", "constant"]


def draw_coefficients(law: Law, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Coefficients float32 [k, ...] on the generator's device, not negative, of sum 1 over the first axis.

    ``dirichlet``: all concentrations 1, uniform on the simplex, as exponential numbers over their sum; ``uniform``:
    numbers from [0, 1) over their sum; ``one_hot``: one copy and no other; ``constant``: 1/k. The paper's own law could
    not be read; the first is our reading, after Wortsman et al. (arXiv 2102.10472).
    """
    k, device = shape[0], generator.device
    if law == "constant":
        return torch.full(tuple(shape), 1 / k, device=device)
    if law == "one_hot":
        chosen = torch.randint(k, tuple(shape[1:]), generator=generator, device=device)
        return F.one_hot(chosen, k).movedim(-1, 0).float()
    raw = torch.empty(tuple(shape), device=device)
    raw = raw.exponential_(generator=generator) if law == "dirichlet" else raw.uniform_(generator=generator)
    return raw / raw.sum(0)


def expected_square(law: Law, k: int) -> float:
    """E[sum of p_i squared]: the variance of a mixture of k independent kernels over that of one.

    Of ``uniform`` by simulation with a fixed seed, to about a thousandth; the others are exact.
    """
    if law == "uniform":
        return float(draw_coefficients(law, (k, 1 << 18), torch.Generator().manual_seed(0)).square().sum(0).mean())
    return {"dirichlet": 2 / (k + 1), "one_hot": 1.0, "constant": 1 / k}[law]


def pairing(law: Law, k: int, optimizer: str) -> float:
    """By how much a plain kernel moves farther than the mean of ``k`` copies at the same learning rate.

    A copy's gradient is p_i times that of the mixture. SGD moves the mean by 1/k of the plain step. Adam divides by the
    root of the mean square of p_i: by E[p] / sqrt(E[p^2]) of it, 1 where the coefficients are constant.
    """
    return float(k) if optimizer == "sgd" else math.sqrt(k * expected_square(law, k))
