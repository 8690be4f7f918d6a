"""What the trainer costs over a bare hand-written loop: at most 3 % on a small net with a small batch.

Both train the same ResNet-8 of width 8 on the same batches (32 images of 32 x 32) with the same optimiser, and take
turns. The trainer writes no checkpoint, but everything else is on: data order, schedule, clocks, checks of the loss.
Its time includes setting up and tearing down. The C library is told to keep freed memory: else, on Linux, whether it
hands activations back after every step and faults them in again depends on the accidental layout of the heap, which
makes either loop up to 10 % slower than itself. Exit code 1 when the whole interval lies above the limit.

    python benchmarks/trainer_overhead.py [ROUNDS]
"""

import ctypes
import sys
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro.timing import measure, ratio
from paper_repro.train import TrainConfig, forward, train
from paper_repro.zoo import build

LIMIT = 1.03
STEPS, BATCH = 32, 32
CONFIG = TrainConfig(
    steps=STEPS, global_batch=BATCH, optimizer="sgd", lr=0.01, weight_decay=5e-4, schedule="one_cycle",
    warmup_fraction=0.3,
)  # fmt: skip


class Images:
    """Random images in memory."""

    def __init__(self, examples: int = 4096) -> None:
        self.pixels, self.labels = torch.randn(examples, 3, 32, 32), torch.randint(10, (examples,))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"index": indices, "label": self.labels[indices], "pixels": self.pixels[indices]}


def loss(model: nn.Module, batch: dict[str, Tensor], _: object) -> Tensor:
    return F.cross_entropy(forward(model, batch), batch["label"])


def with_trainer(model: nn.Module, images: Images) -> None:
    train(model, images, loss, CONFIG, seed=0)


def by_hand(model: nn.Module, images: Images) -> None:
    """The loop as one writes it in a script."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, STEPS + 1, cycle_momentum=False)
    for indices in torch.randperm(len(images.labels))[: STEPS * BATCH].split(BATCH):
        value = F.cross_entropy(model(images.pixels[indices]), images.labels[indices])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


def keep_freed_memory() -> None:
    """``mallopt`` of glibc: M_MMAP_MAX = 0 and M_TRIM_THRESHOLD = the largest value; nothing elsewhere."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-4, 0)
        mallopt(-1, 2**31 - 1)


def main(rounds: int) -> int:
    keep_freed_memory()
    images = Images()
    loops = {"trainer": with_trainer, "by hand": by_hand}
    models = {name: build("resnet8", num_classes=10, width=8) for name in loops}
    timed = measure(
        {name: partial(loop, models[name], images) for name, loop in loops.items()},
        rounds=rounds,
        inner=1,
        warmup=1,
        mode="throughput",
    )
    overhead = ratio(timed["trainer"].block_s, timed["by hand"].block_s)
    step_ms = 1e3 * median(timed["by hand"].block_s) / STEPS
    print(f"trainer / by hand: {overhead.estimate:.4f}  95 % [{overhead.low:.4f}, {overhead.high:.4f}]  limit {LIMIT}")
    print(f"{overhead.n} rounds of {STEPS} steps of {step_ms:.1f} ms, {torch.get_num_threads()} threads")
    return int(overhead.low > LIMIT)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 60))
