"""What a model costs: parameters and FLOPs, without its weights ever taking memory."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paper_repro.zoo.registry import TABLE, build, resolve


def flops(model: nn.Module, batch: Mapping[str, Any] | Sequence[Tensor]) -> float:
    """FLOPs of one forward pass over the whole ``batch``: the trainer's batch, or the model's inputs in order.

    2 x multiply-accumulates of convolutions, matrix products and attention; look-ups, activations and norms count
    nothing. Attention and recurrent layers are counted in full, padding included, whichever kernel computes them.
    """
    batch = arguments_of(batch) if isinstance(batch, Mapping) else batch
    was_training = model.training
    try:
        # Fused attention kernels hide their products, and not all of them are known to the counter.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counting() as counter:
            model.eval()(*batch)
    finally:
        model.train(was_training)
    return float(counter.get_total_flops())


def counting() -> FlopCounterMode:
    """torch's counter, which does not know the fused recurrent layers of oneDNN and cuDNN."""
    ops = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            ops.mkldnn_rnn_layer: lambda x, *weights, **_: recurrent_flops(x, weights[:2]),
            ops._cudnn_rnn: lambda x, weights, *_, **__: recurrent_flops(x, weights),
        },
    )


def recurrent_flops(x: Sequence[int], weights: Sequence[Sequence[int]]) -> int:
    """FLOPs of recurrent weight matrices, given as shapes, over inputs of shape ``x``: [steps, batch, size], any order
    of the first two, or packed [steps of all texts, size]. Biases, of one dimension, count nothing.
    """
    return 2 * math.prod(x[:-1]) * sum(math.prod(shape) for shape in weights if len(shape) == 2)


def arguments_of(batch: Mapping[str, Any]) -> list[Tensor]:
    """The model's inputs, in order, out of a batch of the trainer."""
    if "bags" in batch:
        return [batch["bags"].ids, batch["bags"].offsets]
    return [batch[name] for name in ("pixels", "input_ids", "attention_mask") if name in batch]


def active_params(model: nn.Module, batch: Mapping[str, Any]) -> float:
    """Parameters that one example of ``batch`` touches, as a mean: all but the embedding rows that it does not look up.

    A table that is read in another way than by calling it (learned positions, often) counts in full.
    """
    untouched: list[float] = []

    def count(table: nn.Embedding | nn.EmbeddingBag, arguments: tuple[Tensor, ...]) -> None:
        ids = arguments[0]
        looked_up = sum(len(row.unique()) for row in ids) / len(ids)
        untouched.append((table.num_embeddings - looked_up) * table.embedding_dim)

    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    handles = [table.register_forward_pre_hook(count) for table in tables]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(*arguments_of(batch))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return sum(parameter.numel() for parameter in model.parameters()) - sum(untouched)


def parameters(model: nn.Module) -> float:
    """How many parameters ``model`` has; one that is shared counts once."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


def cost(name: str, num_classes: int | None = None, size: int | None = None, **options: Any) -> dict[str, float]:
    """{"params", "flops_per_example"} of ``build(name, num_classes, **options)``, in seconds and without memory.

    ``size``: side of the images in pixels or tokens of the texts; None is the entry's own, as is ``num_classes``.
    Pretrained weights cost what random ones do and are not looked for.
    """
    entry, _ = resolve(name, options)
    inert = {option: value for option, value in options.items() if option != "pretrained"}
    with torch.device("meta"):
        model = build(name, num_classes or entry.num_classes, **inert)
        total = flops(model, inputs(name, 1, size, device="meta", **inert))
    return {"params": parameters(model), "flops_per_example": total}


def inputs(
    name: str, batch_size: int, size: int | None = None, *, seed: int = 0, device: str = "cpu", **options: Any
) -> tuple[Tensor, ...]:
    """A synthetic batch for the model ``name``: normal pixels, or uniform token or n-gram ids without padding.

    ``size`` and ``options`` as in ``cost``. Drawn on the CPU from ``seed``, so the same on every device.
    """
    entry, options = resolve(name, options)
    side = size or entry.size_with(options)
    if entry.modality == "ngrams":
        rows = options.get("vocab", 1_000_000)
        drawn = torch.randint(0, rows, (batch_size * side,), generator=torch.Generator().manual_seed(seed))
        return drawn.to(device), torch.arange(batch_size + 1, device=device) * side
    shape = (batch_size, 3, side, side) if entry.modality == "image" else (batch_size, side)
    if device == "meta":
        values = torch.empty(shape, device=device, dtype=torch.float32 if entry.modality == "image" else torch.int64)
    else:
        generator = torch.Generator().manual_seed(seed)
        if entry.modality == "image":
            values = torch.randn(shape, generator=generator)
        else:  # the first ids are special tokens; RoBERTa's padding among them would change its positions
            vocabulary = options.get("vocab_size", entry.vocab_size)
            values = torch.randint(min(5, vocabulary - 1), vocabulary, shape, generator=generator)
        values = values.to(device)
    return (values,) if entry.modality == "image" else (values, torch.ones_like(values))


def table() -> list[dict[str, Any]]:
    """One row per model: name, source, parameters, FLOPs per example, licence, pretrained source, input, classes."""
    return [
        {
            "name": entry.name,
            "source": entry.source,
            "params": entry.params,
            "flops_per_example": entry.flops_per_example,
            "licence": entry.licence,
            "pretrained": entry.pretrained,
            "input": entry.input,
            "num_classes": entry.num_classes,
        }
        for entry in TABLE.values()
    ]
