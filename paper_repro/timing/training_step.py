"""What a training step of the n-gram student costs as its table grows (Sparse Distillation, section 2.5).

The paper (arXiv 2110.08536v2): with a sparse optimiser the cost does not depend on the number of rows. Every table
gets the same work: the same batches of ids, drawn below the size of the smallest table, and for each table the distinct
ids of a batch are sent to as many random rows of all its rows. So the larger the table, the less of what a step touches
is in a cache, as in real training. A control leaves the ids where they were drawn, in the first rows of every table.
"""

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro import seeds
from paper_repro.errors import UserError
from paper_repro.timing.harness import measure
from paper_repro.timing.machine import Machine
from paper_repro.timing.summary import median_interval, ratio, with_limits
from paper_repro.timing.torch_hooks import device_sync, pinned_threads
from paper_repro.train import TrainConfig, make_optimizer
from paper_repro.zoo.dan import Dan

VOCABS = (10_000, 100_000, 1_000_000, 10_000_000)
CLASSES = 2
RECIPE = TrainConfig(steps=1, global_batch=1, optimizer="sparse_adam", lr=1e-3, schedule="constant")
Batch = tuple[Tensor, Tensor, Tensor]  # ids [total], offsets [B + 1], labels [B]


class TorchStudent(nn.Module):
    """The same student of torch's own parts: EmbeddingBag with sparse gradients."""

    def __init__(self, vocab: int, dim: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(vocab, dim, mode="mean", sparse=True, include_last_offset=True)
        self.hidden, self.head = nn.Linear(dim, dim), nn.Linear(dim, CLASSES)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(self.table(ids, offsets))))

    def optimizer(self) -> Callable[[], None]:
        """A step of SparseAdam on the table and AdamW on the rest."""
        sparse = torch.optim.SparseAdam(self.table.parameters(), lr=RECIPE.lr)
        dense = torch.optim.AdamW([*self.hidden.parameters(), *self.head.parameters()], lr=RECIPE.lr, weight_decay=0.0)

        def step() -> None:
            sparse.step()
            dense.step()

        return step


def time_training_step(
    vocabs: Sequence[int] = VOCABS,
    *,
    dim: int = 32,
    batch: int = 64,
    ngrams: int = 488,
    batches: int = 128,
    compared_at: int = 1_000_000,
    rounds: int = 15,
    block_s: float = 0.5,
    threads: int | None = None,
    device: str = "cpu",
    machine: Machine | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Time whole steps (forward, backward, SparseAdam on the table, AdamW on the rest), tables interleaved.

    ``ngrams``: of each of the ``batch`` texts (488 is IMDB's mean). ``batches``: different ones, which take turns, so
    that their rows do not all stay in a cache. ``threads``: None is as many as torch has now. Memory: 12 bytes per
    parameter, so 4.3 GB for 10,000 to 10,000,000 rows of 32, and 8 bytes per id of every batch and table.

    Returns the parts of one result record, as ``time_models`` does. ``samples``, seconds per step, one per round:
    ``v10k/step`` and so on; ``v10k-first-rows/step``, the control; ``torch-v1m/step``, torch's own EmbeddingBag and
    SparseAdam at ``compared_at`` rows, on the batches of that table. ``metrics``: the medians of these with /low and
    /high, ``growth/v10m`` (over the smallest table) and the control's, ``speedup/torch-v1m`` (theirs over ours).
    Raises UserError for fewer than two tables.
    """
    sizes = sorted(set(vocabs))
    if len(sizes) < 2:
        raise UserError("How a step's cost grows with the table takes at least two sizes; give more of them.")
    small = sizes[0]
    drawn = [_drawn(small, batch, ngrams, seed, number) for number in range(batches)]
    control = [_on(one, device) for one in drawn]
    competitors: dict[str, Callable[[], None]] = {}
    for size in sizes:
        spread = [_on(_spread(one, small, size, seed, number), device) for number, one in enumerate(drawn)]
        ours = _student(size, dim, seed, device)
        competitors[f"{label(size)}/step"] = _step(*ours, spread)
        competitors[f"{label(size)}-first-rows/step"] = _step(*ours, control)
        if size == compared_at:
            theirs = TorchStudent(size, dim).to(device)
            competitors[f"torch-{label(size)}/step"] = _step(theirs, theirs.optimizer(), spread)
    threads = threads or torch.get_num_threads()
    with pinned_threads(threads):
        for step in competitors.values():  # every row once: memory that was never touched costs its first touch
            for _ in range(batches):
                step()
        found = measure(
            competitors,
            rounds=rounds,
            block_s=block_s,
            warmup=1,
            mode="throughput",
            sync=device_sync(device),
            machine=machine or Machine(gpu=torch.device(device).type == "cuda"),
            seed=seed,
        )
    samples = {name: one.block_s for name, one in found.items()}
    metrics = []
    for name, values in samples.items():
        metrics += with_limits(f"{name}_s", "s", median_interval(values))
    for suffix in ("", "-first-rows"):
        for size in sizes[1:]:
            growth = ratio(samples[f"{label(size)}{suffix}/step"], samples[f"{label(small)}{suffix}/step"])
            metrics += with_limits(f"growth/{label(size)}{suffix}", "ratio", growth)
    if compared_at in sizes:
        name = label(compared_at)
        theirs_over_ours = ratio(samples[f"torch-{name}/step"], samples[f"{name}/step"])
        metrics += with_limits(f"speedup/torch-{name}", "ratio", theirs_over_ours)
    distinct = [len(ids.unique()) for ids, _, _ in drawn]
    protocol = found.protocol | {
        "timed": "forward, backward, SparseAdam on the table, AdamW on the rest; batches lie on the device",
        "rows": "per batch as many distinct rows of every table, at random places of it",
        "control": "-first-rows: the ids as drawn, below the smallest table's size",
        "dim": dim,
        "batch_size": batch,
        "ngrams_per_text": ngrams,
        "batches": batches,
        "distinct_rows_per_batch": sum(distinct) / len(distinct),
        "input": "synthetic",
        "device": device,
        "precision": "fp32",
        "threads": threads,
        "machine": found.machine,
        "flags": {name: one.flags for name, one in found.items()},
    }
    cost = {f"{label(size)}/params": float(size * dim + dim * (dim + 1) + CLASSES * (dim + 1)) for size in sizes}
    all_samples = samples | {f"{name}_other_cores": one.other_cores for name, one in found.items()}
    return {"metrics": metrics, "samples": all_samples, "cost": cost, "protocol": protocol, "clocks": found.clocks}


def label(vocab: int) -> str:
    """How samples call a table: v10k, v1m, v123."""
    for unit, letter in ((1_000_000, "m"), (1_000, "k")):
        if vocab % unit == 0:
            return f"v{vocab // unit}{letter}"
    return f"v{vocab}"


def _drawn(rows: int, batch: int, ngrams: int, seed: int, number: int) -> Batch:
    generator = torch.Generator().manual_seed(seeds.derive(seed, "timing step", batch=number))
    ids = torch.randint(rows, (batch * ngrams,), generator=generator)
    return ids, torch.arange(batch + 1) * ngrams, torch.randint(CLASSES, (batch,), generator=generator)


def _spread(one: Batch, small: int, size: int, seed: int, number: int) -> Batch:
    """The batch with its ids, below ``small``, sent to as many random rows below ``size``: one in each ``small``-th."""
    generator = torch.Generator().manual_seed(seeds.derive(seed, "timing rows", batch=number, rows=size))
    part = size // small
    rows = torch.randperm(small, generator=generator) * part + torch.randint(part, (small,), generator=generator)
    return rows[one[0]], one[1], one[2]


def _on(one: Batch, device: str) -> Batch:
    ids, offsets, labels = (value.to(device) for value in one)
    return ids, offsets, labels


def _student(vocab: int, dim: int, seed: int, device: str) -> tuple[nn.Module, Callable[[], None]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(seed, "timing step weights", rows=vocab))
        model = Dan(CLASSES, vocab, dim).to(device)
    return model, make_optimizer(model, RECIPE).step


def _step(model: nn.Module, update: Callable[[], Any], batches: Sequence[Batch]) -> Callable[[], None]:
    turns = cycle(batches)

    def step() -> None:
        ids, offsets, labels = next(turns)
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(ids, offsets), labels).backward()
        update()

    return step
