"""One process or many: who am I, and which part of the global batch is mine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from paper_repro.errors import UserError


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are: (0, 1) outside torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


@contextmanager
def distributed(device: str = "cpu") -> Iterator[str]:
    """Join the processes that torchrun started (NCCL on CUDA, else Gloo); yields this process's device.

    Without torchrun nothing happens and ``device`` is yielded.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def share(global_batch: int, micro_batch: int | None, world: int) -> tuple[int, int]:
    """Examples per process and per forward pass; UserError when the global batch does not divide evenly."""
    if global_batch % world:
        raise UserError(
            f"A global batch of {global_batch} cannot be shared evenly by {world} processes; "
            f"change global_batch or the number of processes."
        )
    local = global_batch // world
    micro = local if micro_batch is None else min(micro_batch, local)
    if local % micro:
        raise UserError(
            f"{local} examples per process cannot be cut into micro-batches of {micro}; choose a divisor of {local}."
        )
    return local, micro
