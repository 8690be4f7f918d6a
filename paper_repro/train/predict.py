"""The one way to compute predictions."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from paper_repro.errors import UserError
from paper_repro.train.batches import Source, forward, to_device
from paper_repro.train.processes import rank_and_world

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@torch.no_grad()
def predict(
    model: nn.Module,
    source: Source,
    batch_size: int,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> Tensor:
    """Logits float32 [N, C] on the CPU of the N examples of ``source``, in its order, each computed exactly once.

    The model is moved to ``device``, evaluated, and put back into the mode it was in. Several processes share the
    examples and each returns all logits. A batch that does not fit into the device's memory is halved, down to 1.
    ``source`` must not augment. Raises UserError for an empty source or one with fewer examples than processes.
    """
    device = torch.device(device)
    rank, world = rank_and_world()
    if len(source) < world:
        raise UserError(f"{len(source)} examples cannot be predicted by {world} processes; there must be one for each.")
    was_training = model.training
    model.to(device).eval()
    try:
        parts = torch.arange(len(source)).tensor_split(world)
        mine = _predict(model, source, parts[rank], batch_size, device, precision)
    finally:
        model.train(was_training)
    if world == 1:
        return mine.cpu()
    padded = mine.new_zeros(len(parts[0]), mine.shape[1])  # the first part is never shorter than the others
    padded[: len(mine)] = mine
    gathered = [torch.empty_like(padded) for _ in parts]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[: len(part)] for rows, part in zip(gathered, parts, strict=True)]).cpu()


def _predict(
    model: nn.Module, source: Source, indices: Tensor, batch_size: int, device: torch.device, precision: str
) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows: list[Tensor] = []
    position = 0
    while position < len(indices):
        chunk = indices[position : position + batch_size]
        try:
            batch = to_device(source.batch(chunk, generator), device)
            with autocast(precision, device):
                rows.append(forward(model, batch).float())
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            torch.cuda.empty_cache()
            continue
        position += len(chunk)
    return torch.cat(rows)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])
