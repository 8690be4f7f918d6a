"""Neuron selection from a wider model: the submodular baseline of Majority Kernels, after El Halabi et al. (NeurIPS
2022); which one the paper compares with could not be read.

Hidden units are kept one by one, each time the one that leaves least of the change of the next layer's input, with the
next layer's weights refitted by least squares; the objective is weakly submodular, so greedy choice is near the best.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paper_repro.errors import UserError
from paper_repro.train.batches import Batch, forward
from paper_repro.zoo.text import Transformer
from paper_repro.zoo.vision import MLP, CifarResNet

RIDGE = 1e-6  # of the mean square of a feature: keeps the least squares solvable where units are copies or dead


@dataclass(frozen=True)
class Bottleneck:
    """Where hidden units are made, normed (or not) and read; names of modules."""

    producer: str
    norm: str | None
    consumer: str


def bottlenecks(model: nn.Module) -> list[Bottleneck]:
    """The hidden layers whose width is a matter of their own: an MLP's, the inside of a ResNet's blocks and of a
    transformer's feed-forward networks. In the order of computation. Raises UserError for other models."""
    if isinstance(model, MLP):
        linear = [f"layers.{i}" for i, layer in enumerate(model.layers) if isinstance(layer, nn.Linear)]
        return [Bottleneck(one, None, next_) for one, next_ in zip(linear, [*linear[1:], "head"], strict=True)]
    if isinstance(model, CifarResNet):
        blocks = [f"blocks.{i}" for i in range(len(model.blocks))]
        return [Bottleneck(f"{block}.conv1", f"{block}.norm1", f"{block}.conv2") for block in blocks]
    if isinstance(model, Transformer):
        layers = [f"layers.{i}" for i in range(len(model.layers))]
        return [Bottleneck(f"{layer}.up", None, f"{layer}.down") for layer in layers]
    raise UserError(f"Neurons can be selected from an MLP, a CifarResNet or a Transformer, not {type(model).__name__}.")


@torch.no_grad()
def select(wide: nn.Module, narrow: nn.Module, batches: Iterable[Batch]) -> nn.Module:
    """``narrow`` with the best hidden units of ``wide``, in evaluation mode; ``wide`` stays as it is.

    Both are the same kind of model, with hidden layers of different width. ``batches``: unlabelled examples, seen once
    per hidden layer; later layers see what earlier selections left of their input. Norms' running statistics are those
    of ``wide``; re-estimate them. Raises UserError for models that differ in more than the width.
    """
    source, examples = copy.deepcopy(wide).eval(), list(batches)
    for place in bottlenecks(narrow):
        producer, consumer = source.get_submodule(place.producer), source.get_submodule(place.consumer)
        made, weight = producer.get_parameter("weight"), consumer.get_parameter("weight")
        wanted = len(narrow.get_submodule(place.producer).get_parameter("weight"))
        if wanted > len(made):
            raise UserError(f"'{place.producer}' has {len(made)} units to select from, and {wanted} are wanted.")
        taps = weight.flatten(2) if weight.ndim > 2 else weight.unsqueeze(-1)  # [out, units, taps]
        readers = taps.permute(0, 2, 1).flatten(0, 1).double()  # [out x taps, units]
        kept, refitted = choose(_gram(source, consumer, examples), readers, wanted)
        units = [producer] if place.norm is None else [producer, source.get_submodule(place.norm)]
        for module in units:
            for value in (*module.parameters(), *module.buffers()):
                if value.ndim:
                    value.data = value[kept]
        apart = refitted.view(taps.shape[0], taps.shape[2], wanted).permute(0, 2, 1)
        weight.data = apart.reshape(taps.shape[0], wanted, *weight.shape[2:]).to(weight)
    try:
        narrow.load_state_dict(source.state_dict())
    except RuntimeError:
        raise UserError("The models differ in more than the width of their hidden layers; build them alike.") from None
    return narrow.eval()


def choose(gram: Tensor, readers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which ``count`` of U units to keep (int64, ascending), and the refitted readers [R, count].

    ``gram`` double [U, U] = A^T A of the units' activations A, ``readers`` [R, U] the weights W that read them. Each
    step keeps the unit that takes most off ||A W^T - A_kept B^T||^2, the smallest over B: with the Gram matrix C of
    what the kept ones do not explain, unit j takes off ||W C_j||^2 / C_jj. That is a pivoted Cholesky decomposition: of
    C only the diagonal, W C and the columns of kept units are ever computed.
    """
    seen, diagonal, chosen = readers @ gram, gram.diagonal().clone(), list[int]()
    smallest = (RIDGE * diagonal.mean()).clamp(min=torch.finfo(gram.dtype).tiny)  # all units may be dead
    factor = gram.new_zeros(len(gram), count)
    for step in range(count):
        gain = seen.square().sum(0) / diagonal.clamp(min=smallest)
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        column = gram[:, best] - factor[:, :step] @ factor[best, :step]
        pivot = column[best].clamp(min=smallest)
        seen -= torch.outer(seen[:, best], column / pivot)
        diagonal -= column.square() / pivot
        factor[:, step] = column / pivot.sqrt()
    kept = torch.tensor(sorted(chosen))
    inside = gram[kept][:, kept] + smallest * torch.eye(count, dtype=gram.dtype)
    return kept, torch.linalg.solve(inside, gram[kept] @ readers.T).T


def _gram(model: nn.Module, consumer: nn.Module, batches: list[Batch]) -> Tensor:
    """A^T A of what ``consumer`` reads: units are the last axis of a linear layer's input, the second of others."""
    total: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen = inputs[0] if isinstance(consumer, nn.Linear) else inputs[0].movedim(1, -1)
        rows = seen.flatten(0, -2)
        total.append((rows.T @ rows).double())

    handle = consumer.register_forward_pre_hook(note)
    try:
        for batch in batches:
            forward(model, batch)
    finally:
        handle.remove()
    return torch.stack(total).sum(0).cpu()
