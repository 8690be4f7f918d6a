"""The state of a training run, its checkpoint, and the global generators that are part of it."""

import io
import math
import random
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from paper_repro.config import sha256_key
from paper_repro.errors import UserError
from paper_repro.paths import write_atomic
from paper_repro.results.environment import capture
from paper_repro.train.config import TrainConfig, make_optimizer
from paper_repro.train.processes import rank_and_world


class Diverged(UserError):
    """The loss is no longer finite."""


class Run:
    """The state of one training run: exactly what a checkpoint holds."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        examples: int,
        seed: int,
        axes: Mapping[str, int | str],
        device: torch.device,
    ) -> None:
        self.model, self.device = model, device
        self.optimizer = make_optimizer(model, config)
        self.optimizer.zero_grad()  # the caller may have left gradients
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.rank, self.world = rank_and_world()
        self.global_batch, self.examples = config.global_batch, examples
        self.step = 0
        self.clocks = dict.fromkeys(("data_s", "train_s", "io_s", "compile_s"), 0.0)
        self.epoch_losses: list[tuple[float, int]] = []  # sum and number of the losses of each epoch's steps
        self.environments: list[dict[str, Any]] = []  # those of earlier parts of a resumed run
        self.key = sha256_key(
            {
                "config": config.model_dump(mode="json", exclude={"workers", "checkpoint_every_s"}),
                "seed": seed,
                "axes": dict(axes),
                "examples": examples,
                "world": self.world,
                "model": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
            }
        )

    def note(self, losses: Sequence[Tensor]) -> None:
        """Take in the losses of the last ``len(losses)`` steps; UserError at the first that is not finite."""
        if not losses:
            return
        values = torch.stack(list(losses)).float()
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        for step, value in enumerate(values.tolist(), self.step - len(losses)):
            if not math.isfinite(value):
                raise Diverged(
                    f"The loss is {value} at step {step}; lower the learning rate, clip the gradient, "
                    f"or train in a wider precision."
                )
            epoch = step * self.global_batch // self.examples
            while len(self.epoch_losses) <= epoch:
                self.epoch_losses.append((0.0, 0))
            total, count = self.epoch_losses[epoch]
            self.epoch_losses[epoch] = (total + value, count + 1)

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically. Every process must call this; process 0 writes."""
        rng: list[Any] = [get_rng(self.device)]
        if self.world > 1:
            everyone: list[Any] = [None] * self.world
            dist.gather_object(rng[0], everyone if self.rank == 0 else None)
            rng = everyone
        if self.rank:
            return
        epoch, offset = divmod(self.step * self.global_batch, self.examples)
        here = capture()
        state = {
            "key": self.key,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": rng,
            "sampler": {"step": self.step, "epoch": epoch, "offset": offset},  # the schedule's position is the step
            "clocks": self.clocks,
            "epoch_losses": self.epoch_losses,
            "environments": [*(past for past in self.environments if past != here), here],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(path, buffer.getvalue())

    def load(self, path: Path) -> None:
        """Continue from the checkpoint at ``path``; UserError when it is damaged or belongs to another run."""
        state = read_checkpoint(path)
        if state.get("key") != self.key:
            raise UserError(
                f"The checkpoint {path} belongs to another configuration, seed, model, data size or number of "
                f"processes; delete it, or go back to the settings it was made with."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        set_rng(state["rng"][self.rank], self.device)
        self.step, self.clocks, self.epoch_losses = state["sampler"]["step"], state["clocks"], state["epoch_losses"]
        self.environments = state["environments"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; UserError when the file is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch.load does not look at the checksums
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:
        raise UserError(
            f"The checkpoint {path} is damaged ({type(error).__name__}); delete it, and training starts again."
        ) from None


def get_rng(device: torch.device) -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], *rest),  # a list, since weights_only refuses numpy arrays
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_rng(state: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def own_rng(seed: int, device: torch.device) -> Iterator[None]:
    before = get_rng(device)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_rng(before, device)
