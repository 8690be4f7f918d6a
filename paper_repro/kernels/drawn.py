"""Parametrizations with a random part that stays the same from one draw to the next."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paper_repro.errors import UserError
from paper_repro.seeds import derive


class Draw(ABC):
    """What is drawn once per optimiser step; several kernels may share one."""

    def __init__(self) -> None:
        self._values: Tensor | None = None

    @property
    def values(self) -> Tensor:
        if self._values is None:
            raise UserError(
                "Nothing has been drawn for these kernels yet; call kernels.draw(model, step) before each training "
                "step, or model.eval() to compute with their mean."
            )
        return self._values

    @abstractmethod
    def make(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        """A new draw for a weight as it is trained."""

    def renew(self, new: Tensor) -> None:
        if self._values is None or self._values.device != new.device:
            self._values = new
        else:
            self._values.copy_(new)  # in place: a compiled model has taken note of the tensor


class Drawing(NamedTuple):
    """What decides a draw, with the model and the kind of device."""

    seed: int
    rank: int
    step: int

    def generator(self, device: torch.device) -> torch.Generator:
        number = derive(self.seed, "kernels", step=self.step, rank=self.rank)
        return torch.Generator(device).manual_seed(number)


class Drawn(nn.Module):
    """A parametrization that is random in training mode. ``order``: of the layer's parameters, which it changes."""

    def __init__(self, source: Draw, order: Sequence[str]) -> None:
        super().__init__()
        self.source, self.order = source, tuple(order)

    def after_draw(self, weight: Tensor, drawing: Drawing) -> None:
        """Called when ``source`` has the values of ``drawing``."""

    def is_of(self, weight: Tensor, drawing: Drawing) -> bool:
        """Whether nothing is left to do for ``drawing``."""
        return False


def drawn(model: nn.Module) -> Iterator[tuple[nn.Module, str, Drawn, nn.Parameter]]:
    """Every (module, name, parametrization, trained tensor) of ``model`` with a random part, tied ones each time."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name, found in module.parametrizations.items():  # type: ignore[union-attr, operator]
                if isinstance(found[0], Drawn):
                    yield module, name, found[0], found.original


@torch.no_grad()
def draw(model: nn.Module, step: int, *, seed: int = 0, rank: int = 0) -> None:
    """New random parts for all of ``model``'s kernels: those of optimiser step ``step``.

    They are a function of (seed, rank, step) and the kind of device alone, from a stream of their own: a resumed run
    draws what an uninterrupted one does, and neither data order nor dropout notice. Call it before the forward pass; a
    second call with the same step, as for the next micro-batch, draws the same. Processes share their draws unless each
    passes its own ``rank``. A model without such kernels stays as it is, so that a training loop can be of both kinds.
    """
    drawing, kernels = Drawing(seed, rank, step), all_drawn(model)
    if all(kernel.is_of(weight, drawing) for kernel, weight in kernels):
        return
    for source, values in values_of(kernels, drawing).items():
        source.renew(values)
    for kernel, weight in kernels:
        kernel.after_draw(weight, drawing)


def all_drawn(model: nn.Module) -> list[tuple[Drawn, nn.Parameter]]:
    """Every parametrization with its tensor, in the order in which they draw."""
    return [(kernel, weight) for _, _, kernel, weight in drawn(model)]


def values_of(kernels: Sequence[tuple[Drawn, nn.Parameter]], drawing: Drawing) -> dict[Draw, Tensor]:
    """What ``drawing`` gives the sources of all kernels of a model. They stay as they are."""
    generators: dict[torch.device, torch.Generator] = {}
    found: dict[Draw, Tensor] = {}
    for kernel, weight in kernels:
        if kernel.source not in found:
            if weight.device not in generators:
                generators[weight.device] = drawing.generator(weight.device)
            found[kernel.source] = kernel.source.make(weight, generators[weight.device])
    return found
