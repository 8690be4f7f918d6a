"""Settings of training, and what follows from them alone: learning rates, parameter groups, the optimiser."""

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from paper_repro.config import Config
from paper_repro.errors import UserError
from paper_repro.kernels import is_fused, untied
from paper_repro.train.processes import rank_and_world
from paper_repro.train.together import Together


class TrainConfig(Config):
    """Everything about training that is not the model, the data, the loss or the seed."""

    epochs: float | None = Field(default=None, gt=0)  # exactly one of epochs and steps
    steps: int | None = Field(default=None, gt=0)
    global_batch: int = Field(gt=0)  # examples per optimiser step, over all processes
    micro_batch: int | None = Field(default=None, gt=0)  # examples per forward pass; None: all of a process
    optimizer: Literal["sgd", "adamw", "sparse_adam"]
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    decay_norms: bool = False
    schedule: Literal["one_cycle", "cosine", "linear", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)  # of all steps
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    grad_clip: float | None = Field(default=None, gt=0)  # largest norm of the whole gradient
    workers: int = Field(default=0, ge=0)  # processes that prepare batches; no influence on results
    checkpoint_every_s: float = Field(default=60.0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        if self.schedule == "one_cycle" and not self.warmup_fraction:
            raise ValueError("one_cycle needs warmup_fraction > 0 (0.3 is usual)")
        return self

    def protocol(self) -> dict[str, Any]:
        """What a record says of how a model was trained on real data."""
        return {
            "batch_size": self.global_batch, "precision": self.precision, "compile": self.compile, "input": "real"
        }  # fmt: skip

    def total_steps(self, examples: int) -> int:
        """Optimiser steps on a training set of ``examples``: ``epochs`` rounded to whole steps, at least one."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * examples / self.global_batch))


def lr_at(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of step ``step`` (0 .. total-1), in closed form, so a resumed run cannot drift.

    ``one_cycle`` is that of ``torch.optim.lr_scheduler.OneCycleLR``: half a cosine from lr/25 up to lr, another down to
    lr/250000. The others rise linearly over the warm-up steps, then stay, fall linearly, or along half a cosine; they
    would reach 0 one step after the last.
    """
    if config.schedule == "one_cycle":
        peak = config.warmup_fraction * total - 1
        if step <= peak and peak > 0:
            low, position = config.lr / 25, 1 - step / peak
        else:
            low, position = config.lr / 25e4, (step - max(peak, 0)) / max(total - 1 - max(peak, 0), 1)
        return low + (config.lr - low) * (1 + math.cos(math.pi * position)) / 2
    warmup = round(config.warmup_fraction * total)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    position = (step - warmup) / (total - warmup)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * position)) / 2
    return config.lr * (1 - position) if config.schedule == "linear" else config.lr


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Weights with decay, and norms and biases (anything of at most one dimension) without, unless ``decay_norms``.

    Stacks of majority kernels count as one kernel does; where they have a learning rate of their own their groups say
    how it differs ("lr_scale"), and their decay is divided by that, so that the product is everybody's.
    """
    stacks = {id(stack): kernel for kernel, stack in untied(model)}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kernel = stacks.get(id(parameter))
            plain = parameter.ndim - (kernel is not None) <= 1 and not config.decay_norms
            groups.setdefault((kernel.lr_scale if kernel else 1.0, plain), []).append(parameter)
    return [
        {
            "params": groups[scale, plain],
            "weight_decay": 0.0 if plain else config.weight_decay / scale,
            "lr_scale": scale,
        }
        for scale, plain in sorted(groups)
    ]


def make_optimizer(model: nn.Module, config: TrainConfig, *, fused: bool | None = None) -> torch.optim.Optimizer:
    """The optimiser ``config`` names, on ``parameter_groups``. ``fused``: torch's own fused update of SGD and AdamW.

    ``sparse_adam``: tables with sparse gradients get SparseAdam, which touches a batch's rows only and knows no weight
    decay, all else AdamW (Sparse Distillation, section 2.5). Fused majority kernels get MajoritySGD or
    MajorityAdamW.
    """
    majority = is_fused(model)
    if majority and (config.optimizer == "sparse_adam" or config.grad_clip is not None or rank_and_world()[1] > 1):
        raise UserError(
            "Fused majority kernels are trained by SGD or AdamW, in one process, without clipping; do not fuse them."
        )
    groups = parameter_groups(model, config)
    if config.optimizer == "sparse_adam":
        from paper_repro.train.sparse_adam import SparseAdam

        tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse]
        for group in groups:
            group["params"] = [p for p in group["params"] if not any(p is table for table in tables)]
        dense = torch.optim.AdamW([group for group in groups if group["params"]], lr=config.lr, betas=config.betas)
        return Together([SparseAdam(tables, lr=config.lr, betas=config.betas), dense]) if tables else dense
    if config.optimizer == "adamw":
        rest: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
        if not majority:
            return rest
        from paper_repro.kernels.fused import MajorityAdamW

        return Together([MajorityAdamW(model, config.lr, config.betas, config.weight_decay), rest])
    settings: dict[str, Any] = {
        "lr": config.lr,
        "momentum": config.momentum,
        "nesterov": config.nesterov and config.momentum > 0,
    }
    rest = torch.optim.SGD(groups, **settings, fused=fused)
    if not majority:
        return rest
    from paper_repro.kernels.fused import MajoritySGD

    return Together([MajoritySGD(model, weight_decay=config.weight_decay, **settings), rest])
