"""Majority kernels: k kernels of the same shape are trained through a random convex combination of them, drawn anew
for every step; their mean is deployed, as a plain layer.

The paper (arXiv 2402.05033) could be read no further than its abstract, so this is a declared reading of it: see
docs/decisions.md. Everything that it leaves open is an argument of ``expand``.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paper_repro.errors import UserError
from paper_repro.kernels.coefficients import Law, draw_coefficients, expected_square
from paper_repro.kernels.drawn import Draw, Drawing, Drawn, drawn

Granularity = Literal["network", "layer", "unit", "element"]
Scale = Literal["none", "sampled", "mean"]
Layers = Callable[[str, nn.Module], bool]

# What can be expanded, and which of its parameters are
KERNELS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("weight",),
    nn.Conv1d: ("weight",),
    nn.Conv2d: ("weight",),
    nn.Conv3d: ("weight",),
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
}
ON_DEMAND: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Embedding: ("weight",),
    nn.LayerNorm: ("weight", "bias"),
    nn.BatchNorm1d: ("weight", "bias"),
    nn.BatchNorm2d: ("weight", "bias"),
}
STACK = ".original"  # how the state of an expanded layer ends: "head.parametrizations.weight.original"
INSIDE = ".parametrizations."


def are_kernels(name: str, module: nn.Module) -> bool:
    """The default of ``expand``: all dense, convolutional and attention kernels; norms, biases and embeddings stay."""
    return isinstance(module, tuple(KERNELS))


class Coefficients(Draw):
    """Coefficients of one law, of the shape that the granularity asks for."""

    def __init__(self, law: Law, granularity: Granularity) -> None:
        super().__init__()
        self.law, self.granularity = law, granularity

    def make(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        shape: Sequence[int] = weight.shape
        if self.granularity != "element":
            k, units = weight.shape[0], weight.shape[1] if self.granularity == "unit" else 1
            shape = (k, units, *[1] * (weight.ndim - 2)) if self.granularity == "unit" else (k,)
        return draw_coefficients(self.law, shape, generator).to(weight.dtype)


class Majority(Drawn):
    """stack [k, *shape] -> the mixture [*shape] in training mode, the mean in evaluation mode.

    ``trained``: whether the plain kernel was. ``mixed``: where a fused optimiser trains the layer, the mixture of this
    step as a leaf that collects the gradient. ``drawing``: of which ``mixed`` is, and the version of the stack that it
    was made from; such an optimiser draws and mixes for the next step while it has the copies at hand.
    """

    source: Coefficients

    def __init__(
        self, k: int, source: Coefficients, lr_scale: float, order: Sequence[str], trained: bool = True
    ) -> None:
        super().__init__(source, order)
        self.k, self.lr_scale, self.trained = k, lr_scale, trained
        self.mixed: Tensor | None = None
        self.drawing: tuple[Drawing, int] | None = None

    def forward(self, stack: Tensor) -> Tensor:
        if not self.training:
            return stack.mean(0)
        return self.mixed if self.mixed is not None else mix(stack, self.source.values)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.detach().expand(self.k, *weight.shape).clone()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Majority":  # as modules move
        super()._apply(fn, recurse)
        if self.mixed is not None:
            self.mixed.data = fn(self.mixed.data)
        return self

    def after_draw(self, weight: Tensor, drawing: Drawing) -> None:
        if self.mixed is not None:
            torch.mv(weight.view(self.k, -1).t(), self.source.values, out=self.mixed.data.view(-1))
            self.drawing = drawing, weight._version

    def is_of(self, weight: Tensor, drawing: Drawing) -> bool:
        return self.mixed is not None and self.drawing == (drawing, weight._version)


def mix(stack: Tensor, coefficients: Tensor) -> Tensor:
    """sum_i p_i W_i of ``stack`` float32 [k, *shape] and ``coefficients`` [k] or [k, ...], which broadcasts to it.

    In single precision under autocast, too, and without a temporary of k kernels: a matrix-vector product where a
    kernel has one coefficient per copy.
    """
    with torch.autocast(stack.device.type, enabled=False):
        if coefficients.ndim == 1:
            return (coefficients @ stack.reshape(len(stack), -1)).view(stack.shape[1:])
        return _Mix.apply(stack, coefficients)


class _Mix(torch.autograd.Function):
    """Copy by copy, forward and backward."""

    @staticmethod
    def forward(ctx, stack: Tensor, coefficients: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(coefficients)
        mixed = stack[0] * coefficients[0]
        for one, p in zip(stack[1:], coefficients[1:], strict=True):
            mixed.addcmul_(one, p)
        return mixed

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (coefficients,) = ctx.saved_tensors
        out = gradient.new_empty(len(coefficients), *gradient.shape)
        for one, p in zip(out, coefficients, strict=True):
            torch.mul(gradient, p, out=one)
        return out, None


def expand(
    model: nn.Module,
    k: int,
    *,
    law: Law = "dirichlet",
    granularity: Granularity = "layer",
    fresh: Callable[[], nn.Module] | None = None,
    scale: Scale = "none",
    lr_scale: float = 1.0,
    layers: Layers = are_kernels,
) -> nn.Module:
    """Turn kernels of ``model``, in place, into majority kernels of ``k`` copies, and return it.

    ``law`` and ``granularity``: of the coefficients (see ``draw_coefficients``), one per copy for the whole network,
    for each layer, each output unit, or each weight. ``fresh`` builds the model anew, with other random weights, and is
    called k - 1 times for the copies (the first is ``model`` itself); without it all copies begin equal. ``scale``
    multiplies the copies so that at first a mixture ("sampled") or their mean ("mean") has the standard deviation of a
    plain kernel; independent copies have a smaller one, by sqrt(E[sum of p_i squared]) and sqrt(1/k). ``lr_scale``: the
    learning rate of the copies over that of all else, in this project's optimisers, which divide their weight decay by
    it; under SGD the mean of k copies moves by 1/k of a plain kernel's step, so k makes up for that. ``layers(name,
    module)``: which layers; norms and embeddings can be asked for. A weight that several layers share stays shared, and
    is expanded in all of them.

    In training mode ``draw(model, step)`` before each step draws the coefficients; in evaluation mode the model
    computes with the mean. ``fold`` makes it a plain model. Raises UserError, leaving the model as it was, for k < 1,
    an argument that is not known, a layer that cannot be expanded, none to expand, a model that is expanded already,
    and a ``fresh`` that builds another model.
    """
    _check(k, law, granularity, scale, lr_scale)
    if scale != "none" and fresh is None:
        raise UserError("Copies that begin equal have the scale of a plain kernel; leave out 'scale', or give 'fresh'.")
    chosen = chosen_weights(model, layers)
    copies = [_named(fresh()) for _ in range(k - 1)] if fresh else []
    for (path, name), (_, weight) in chosen.items():
        if any((path, name) not in one or one[path, name].shape != weight.shape for one in copies):
            raise UserError(
                f"What 'fresh' builds has no '{path}.{name}' of shape {tuple(weight.shape)}; let it build the same "
                "model, not expanded, with other random weights."
            )
    factor = {"none": 1.0, "sampled": expected_square(law, k) ** -0.5, "mean": math.sqrt(k)}[scale]
    shared = Coefficients(law, granularity)
    known: dict[int, tuple[Majority, nn.Parameter]] = {}
    for (path, name), (module, weight) in chosen.items():
        if id(weight) not in known:
            source = shared if granularity == "network" else Coefficients(law, granularity)
            rest = [one[path, name].detach().to(weight) for one in copies] or [weight.detach()] * (k - 1)
            stack = nn.Parameter(torch.stack([weight.detach(), *rest]) * factor, weight.requires_grad)
            kernel = Majority(k, source, lr_scale, list(module._parameters), weight.requires_grad)
            known[id(weight)] = kernel, stack
        kernel, stack = known[id(weight)]
        module._parameters[name] = nn.Parameter(weight.detach().clone())  # parametrize would change a shared one
        # unsafe: its check would compute a mixture, of which nothing is drawn yet
        parametrize.register_parametrization(module, name, kernel, unsafe=True)
        module.parametrizations[name].original = stack  # type: ignore[index, union-attr]
    return model


def _check(k: int, law: str, granularity: str, scale: str, lr_scale: float) -> None:
    if not isinstance(k, Integral) or k < 1:
        raise UserError(f"A majority kernel has at least 1 copy, not {k}; give a whole number.")
    for what, value, names in (("law", law, Law), ("granularity", granularity, Granularity), ("scale", scale, Scale)):
        if value not in get_args(names):
            raise UserError(
                f"There is no {what} '{value}' of majority kernels; use one of: {', '.join(get_args(names))}."
            )
    if not 0 < lr_scale < math.inf:
        raise UserError(f"The learning rate of the copies is scaled by a positive number, not {lr_scale}.")


def chosen_weights(model: nn.Module, layers: Layers) -> dict[tuple[str, str], tuple[nn.Module, nn.Parameter]]:
    """(path, name) -> (module, weight) of all kernels that ``layers`` chooses; of a shared one, wherever it is used.

    Raises UserError for a layer that cannot be expanded, none at all, and a model with random parts already.
    """
    if any(True for _ in drawn(model)):
        raise UserError("The model has majority kernels or weight noise already; fold it, or build it anew.")
    weights: set[int] = set()
    for path, module in model.named_modules():
        if layers(path, module):
            names = _parameters_of(module)
            if not names:
                known = ", ".join(kind.__name__ for kind in (*KERNELS, *ON_DEMAND))
                raise UserError(
                    f"The layer '{path}' ({type(module).__name__}) cannot have majority kernels; choose among {known}."
                )
            taken = [name for name in names if module._parameters.get(name) is None]
            if taken:
                raise UserError(
                    f"The '{taken[0]}' of layer '{path}' is computed from other parameters, as under weight_norm; "
                    "remove that first, or leave the layer out by 'layers'."
                )
            weights |= {id(module._parameters[name]) for name in names}
    if not weights:
        raise UserError("The model has no layer to expand: none that 'layers' chooses.")
    return {place: owner for place, owner in _owners(model).items() if id(owner[1]) in weights}


def _parameters_of(module: nn.Module) -> list[str]:
    """The parameters of a layer that can be expanded; none of a kind of layer that cannot."""
    for kind, names in (KERNELS | ON_DEMAND).items():
        if isinstance(module, kind) and not getattr(module, "sparse", False):
            return [name for name in names if getattr(module, name, None) is not None]
    return []


def _owners(model: nn.Module) -> dict[tuple[str, str], tuple[nn.Module, nn.Parameter]]:
    return {
        (path, name): (module, weight)
        for path, module in model.named_modules()
        for name, weight in module._parameters.items()
        if weight is not None
    }


def _named(model: nn.Module) -> dict[tuple[str, str], nn.Parameter]:
    return {place: weight for place, (_, weight) in _owners(model).items()}


def untied(model: nn.Module) -> list[tuple[Majority, nn.Parameter]]:
    """Every majority kernel with its stack, once."""
    found = {id(stack): (kernel, stack) for _, _, kernel, stack in drawn(model) if isinstance(kernel, Majority)}
    return list(found.values())


def fuse(model: nn.Module) -> None:
    """End autograd at the mixtures of ``model``'s kernels; from now on ``MajoritySGD`` or ``MajorityAdamW`` alone can
    train their copies.

    Raises UserError where there are no kernels, or some have a coefficient per unit or element, whose gradient is no
    outer product, or belong to norms, which have a weight decay of their own.
    """
    kernels = untied(model)
    if not kernels or any(k.source.granularity not in ("network", "layer") or s.ndim < 3 for k, s in kernels):
        raise UserError(
            "Fused optimisers train majority kernels of layers (not norms) with one coefficient per copy, of "
            "granularity 'network' or 'layer'; use torch's for others."
        )
    for kernel, stack in kernels:
        if kernel.mixed is None:
            kernel.mixed = stack.detach().mean(0).requires_grad_()
            stack.requires_grad_(False)


def is_fused(model: nn.Module) -> bool:
    """Whether ``MajoritySGD`` or ``MajorityAdamW`` is to train ``model``'s kernels."""
    return any(kernel.mixed is not None for kernel, _ in untied(model))


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """A plain copy of an expanded ``model``: every stack is replaced by its mean, weight noise left out.

    It has the state-dict keys, shapes and inference cost of the model that ``expand`` was given, and computes exactly
    what ``model`` does in evaluation mode. Running statistics of norms are those of training, of mixtures; re-estimate
    them with ``torch.optim.swa_utils.update_bn``. Raises UserError in training mode.
    """
    if model.training:
        raise UserError("A model is folded in evaluation mode, in which it computes with the mean; call model.eval().")
    folded = copy.deepcopy(model)
    for module in folded.modules():
        if parametrize.is_parametrized(module):  # its class is its original's, from which removal deletes properties
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
    plain: dict[int, nn.Parameter] = {}
    orders: dict[nn.Module, tuple[str, ...]] = {}
    for module, name, kernel, weight in list(drawn(folded)):
        if id(weight) not in plain:
            trained = kernel.trained if isinstance(kernel, Majority) else weight.requires_grad
            plain[id(weight)] = nn.Parameter(kernel(weight).clone(), requires_grad=trained)
        parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        module._parameters[name] = plain[id(weight)]
        orders[module] = max(orders.get(module, ()), kernel.order, key=len)  # the first to be expanded saw them all
    for module, order in orders.items():
        module._parameters = {name: module._parameters[name] for name in (*order, *module._parameters)}
    return folded


def fold_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a plain model from that of an expanded one."""
    return {
        name.removesuffix(STACK).replace(INSIDE, "."): value.mean(0) if is_stack(name) else value
        for name, value in state.items()
    }


def is_stack(name: str) -> bool:
    """Whether a state's key is that of an expanded kernel."""
    return INSIDE in name and name.endswith(STACK)


@torch.no_grad()
def spread(model: nn.Module) -> dict[str, float]:
    """For each majority kernel ||D|| / ||mean||, with ||D||^2 the mean over copies of their squared distance to the
    mean: how far apart they are. Where it is 0 the mixture is the mean, and the method plain training.
    """
    found = {}
    for path, module in model.named_modules():
        for _, name, kernel, stack in drawn(module) if parametrize.is_parametrized(module) else ():
            if isinstance(kernel, Majority):
                mean = stack.mean(0)
                squares = (stack - mean).square().flatten(1).sum(1)
                found[f"{path}.{name}"] = float(squares.mean().sqrt() / mean.norm())
    return found
