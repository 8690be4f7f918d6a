"""Parametrizations with a random part that stays the same from one draw to the next."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

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

    def renew(self, weight: Tensor, generator: torch.Generator) -> None:
        new = self.make(weight, generator)
        if self._values is None or self._values.device != new.device:
            self._values = new
        else:
            self._values.copy_(new)  # in place: a compiled model has taken note of the tensor


class Drawn(nn.Module):
    """A parametrization that is random in training mode. ``order``: of the layer's parameters, which it changes."""

    def __init__(self, source: Draw, order: Sequence[str]) -> None:
        super().__init__()
        self.source, self.order = source, tuple(order)

    def after_draw(self, weight: Tensor) -> None:
        """Called when ``source`` has new values."""


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
    passes its own ``rank``.
    """
    generators: dict[torch.device, torch.Generator] = {}
    renewed: set[int] = set()
    for _, _, kernel, weight in drawn(model):
        if id(kernel.source) not in renewed:
            renewed.add(id(kernel.source))
            if weight.device not in generators:
                number = derive(seed, "kernels", step=step, rank=rank)
                generators[weight.device] = torch.Generator(weight.device).manual_seed(number)
            kernel.source.renew(weight, generators[weight.device])
        kernel.after_draw(weight)
