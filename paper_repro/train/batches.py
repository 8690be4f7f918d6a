"""From examples to batches: the data order, and one step's batch as a pure function of the step."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from paper_repro.seeds import torch_rng
from paper_repro.train.config import TrainConfig
from paper_repro.train.processes import rank_and_world

Batch = dict[str, Any]  # tensors, or what has their length, slices and device (data.ragged.RaggedIds)

LENGTH_WINDOW = 64  # batches among which examples of similar length are brought together


class Source(Protocol):
    """A data set that makes batches. All tensors of a batch have the examples as their first dimension.

    A source may have ``lengths`` (int64 [N]): its batches are then of similar length, which saves padding.
    """

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """The examples ``indices`` (int64 [B], CPU), with keys "index", "label" and the model's inputs.

        ``generator`` (CPU) is the only randomness allowed; training calls this with the indices of the whole global
        batch, so what is drawn does not depend on the number of processes.
        With ``workers`` it is called in other processes, where only CPU tensors will do.
        """
        ...


def forward(model: Callable[..., Tensor], batch: Batch) -> Tensor:
    """Logits [B, C] of ``model`` on a batch of images ("pixels"), n-grams ("bags") or tokens ("input_ids", ...).

    With "positions" [B, k] a masked language model gives those at these positions, [B, k, C].
    """
    if "pixels" in batch:
        return model(batch["pixels"])
    if "bags" in batch:
        return model(batch["bags"].ids, batch["bags"].offsets)
    if "positions" in batch:
        return model(batch["input_ids"], batch["attention_mask"], batch["positions"])
    return model(batch["input_ids"], batch["attention_mask"])


class Steps(Dataset[Batch]):
    """Item s is this process's part of the batch of step s: a pure function of (source, seed, axes, s)."""

    def __init__(self, source: Source, config: TrainConfig, seed: int, axes: Mapping[str, int | str]) -> None:
        self.source, self.seed, self.axes = source, seed, dict(axes)
        self.examples, self.global_batch = len(source), config.global_batch
        rank, world = rank_and_world()
        local = config.global_batch // world
        self.part = None if world == 1 else slice(rank * local, (rank + 1) * local)
        self.lengths: Tensor | None = getattr(source, "lengths", None)
        self.orders: dict[int, Tensor] = {}

    def order(self, epoch: int) -> Tensor:
        """The permutation of epoch ``epoch``; the two latest are kept, since a batch may reach over the seam."""
        if epoch not in self.orders:
            self.orders = {e: order for e, order in self.orders.items() if e == epoch - 1}
            generator = torch_rng(self.seed, "order", epoch=epoch, **self.axes)
            order = torch.randperm(self.examples, generator=generator)
            if self.lengths is not None:
                order = by_length(order, self.lengths, self.global_batch, generator)
            self.orders[epoch] = order
        return self.orders[epoch]

    def indices(self, step: int) -> Tensor:
        """Indices [global_batch] of step ``step``."""
        position, end = step * self.global_batch, (step + 1) * self.global_batch
        pieces = []
        while position < end:
            epoch, offset = divmod(position, self.examples)
            pieces.append(self.order(epoch)[offset : offset + end - position])
            position += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def __getitem__(self, step: int) -> Batch:
        batch = self.source.batch(self.indices(step), torch_rng(self.seed, "augment", step=step, **self.axes))
        return batch if self.part is None else {name: tensor[self.part] for name, tensor in batch.items()}


def by_length(order: Tensor, lengths: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """``order`` rearranged so that neighbours are of similar length.

    Sorted within windows of ``LENGTH_WINDOW`` batches, whose batches are then shuffled (our choice): every example
    still comes once, and epochs still differ.
    """
    pieces = []
    for window in order.split(LENGTH_WINDOW * batch):
        chunks = window[lengths[window].argsort(stable=True)].split(batch)
        whole = len(window) // batch  # a shorter rest stays last, so that it does not shift the others
        pieces += [chunks[i] for i in torch.randperm(whole, generator=generator).tolist()] + list(chunks[whole:])
    return torch.cat(pieces)


def batches(steps: Steps, todo: range, config: TrainConfig, device: torch.device) -> Iterable[Batch]:
    if not config.workers or not todo:
        return map(steps.__getitem__, todo)
    return DataLoader(
        steps,
        batch_size=None,
        sampler=todo,
        num_workers=config.workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else the loader draws from the global generator, and dropout changes
    )


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    if channels_last and "pixels" in batch:
        batch["pixels"] = batch["pixels"].contiguous(memory_format=torch.channels_last)
    return batch
