"""The training loop."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paper_repro.errors import UserError
from paper_repro.seeds import derive
from paper_repro.timing.torch_hooks import device_sync
from paper_repro.train.batches import Batch, Source, Steps, batches, to_device
from paper_repro.train.config import TrainConfig, lr_at
from paper_repro.train.predict import autocast
from paper_repro.train.processes import rank_and_world, share
from paper_repro.train.state import Run, own_rng


class Step:
    """The optimiser step that a loss is asked for: ``number`` (0 .. total - 1) of ``total``."""

    def __init__(self, number: int, total: int, sync: Callable[[], None]) -> None:
        self.number, self.total, self.sync = number, total, sync
        self.seconds: dict[str, float] = {}

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Charge what is done inside to the clock ``name`` ("teacher_s") and to no other. Waits for a GPU."""
        self.sync()
        start = perf_counter()
        yield
        self.sync()
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start


def training_seconds(clocks: Mapping[str, float]) -> float:
    """Wall-clock of training: data, student and teacher; not evaluation, checkpoints, compilation and probes."""
    return sum(clocks.get(part, 0.0) for part in ("data_s", "train_s", "teacher_s"))


Loss = Callable[[nn.Module, Batch, Step], Tensor]

LOOK_EVERY = 32  # steps between looks at the losses: a look waits for the device, so not every step


@dataclass(frozen=True)
class TrainResult:
    """What training did. Clocks are seconds of this process, over all parts of a resumed run: ``data_s`` waiting for
    batches, ``train_s`` computing, ``io_s`` checkpoints, ``compile_s`` the first step of each part when ``compile`` is
    on, and those that the loss keeps (see ``Step.clock``). ``history`` is the mean training loss of each epoch (the
    last may be a part of one). ``environments`` are those of the parts before this one, as in a record; empty unless
    the run was resumed.
    """

    steps: int
    examples: int
    clocks: dict[str, float]
    history: list[float]
    environments: list[dict[str, Any]]


def train(
    model: nn.Module,
    source: Source,
    loss: Loss,
    config: TrainConfig,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    progress: str | None = None,
    stream_axes: Mapping[str, int | str] | None = None,
) -> TrainResult:
    """Train ``model`` in place (moved to ``device``, left in train mode) on ``source`` and return what happened.

    ``loss(model, batch, step)`` is the mean over the batch's examples (float []); it calls the model it is given, which
    may be a wrapper of ``model``. The order of epoch e, the augmentation of step s and dropout come from ``seed`` and
    ``stream_axes`` alone, so methods that pass the same ones see the same data; initialisation is the caller's.

    With ``checkpoint``, the run continues from that file if it exists, writes it every ``checkpoint_every_s`` seconds
    and at the end; removing it is the caller's. On a CPU a resumed run equals an uninterrupted one bit for bit.
    ``progress`` labels a progress bar, shown on a terminal only.

    Raises UserError for a batch that does not divide, a loss that is not finite (the step is named), and a checkpoint
    that is damaged or belongs to another run.
    """
    device = torch.device(device)
    axes = dict(stream_axes or {})
    rank, world = rank_and_world()
    local, micro = share(config.global_batch, config.micro_batch, world)
    if not len(source):
        raise UserError("There are no training examples; check the data set and its split.")
    total = config.total_steps(len(source))
    steps = Steps(source, config, seed, axes)

    model.to(device)
    if config.channels_last:
        for parameter in model.parameters():
            if parameter.ndim == 4:  # a stack of majority kernels has 5 dimensions, and stays as it is
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    model.train()
    run = Run(model, config, len(source), seed, axes, device)
    replica = DistributedDataParallel(model) if world > 1 else None
    net: nn.Module = replica or model
    if config.compile:
        net = torch.compile(net)  # type: ignore[assignment]

    cuts = [slice(start, start + micro) for start in range(0, local, micro)]
    precision, sync = autocast(config.precision, device), device_sync(device)

    def backward(batch: Batch, step: Step) -> Tensor:
        """Add the gradient of the mean loss over the global batch; return this process's share of the loss."""
        if len(cuts) == 1:
            with precision:
                value = loss(net, batch, step)
            run.scaler.scale(value).backward()
            return value.detach()
        shares = []
        for cut in cuts:
            with replica.no_sync() if replica and cut is not cuts[-1] else nullcontext():
                with precision:
                    value = loss(net, {name: tensor[cut] for name, tensor in batch.items()}, step) / len(cuts)
                run.scaler.scale(value).backward()
            shares.append(value.detach())
        return torch.stack(shares).sum()

    def update() -> None:
        """One optimiser step at this step's learning rate."""
        rate = lr_at(run.step, total, config)
        for group in run.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        if config.grad_clip is not None:
            run.scaler.unscale_(run.optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad(set_to_none=True)

    with own_rng(derive(seed, "dropout", rank=rank, **axes), device), _progress(progress, total) as advance:
        clock = perf_counter()
        if checkpoint is not None and checkpoint.exists():
            run.load(checkpoint)
            advance(run.step)
        clock = _charge(run.clocks, "io_s", clock)
        saved, losses = clock, list[Tensor]()
        first = run.step
        for batch in batches(steps, range(first, total), config, device):
            batch = to_device(batch, device, config.channels_last)
            clock = _charge(run.clocks, "data_s", clock)
            step = Step(run.step, total, sync)
            losses.append(backward(batch, step))
            update()
            run.step += 1
            advance(1)
            compiling = config.compile and run.step == first + 1
            ending = run.step == total
            saving = checkpoint is not None and (ending or _due(run, clock - saved >= config.checkpoint_every_s))
            if saving or ending or compiling or run.step % LOOK_EVERY == 0:
                run.note(losses)
                losses.clear()
            clock = _charge(run.clocks, "compile_s" if compiling else "train_s", clock, step.seconds)
            if saving and checkpoint is not None:
                run.save(checkpoint)
                saved = clock = _charge(run.clocks, "io_s", clock)
    history = [sum_ / count for sum_, count in run.epoch_losses if count]
    return TrainResult(total, total * config.global_batch, run.clocks, history, run.environments)


def _charge(clocks: dict[str, float], name: str, since: float, apart: Mapping[str, float] | None = None) -> float:
    """Add the seconds since ``since`` to a clock, but for those that belong to others, and return the time now."""
    now = perf_counter()
    clocks[name] += now - since
    for other, seconds in (apart or {}).items():
        clocks[name] -= seconds
        clocks[other] = clocks.get(other, 0.0) + seconds
    return now


def _due(run: Run, late: bool) -> bool:
    """Whether to write a checkpoint now. Several processes ask process 0, and only at the steps of a look."""
    if run.world == 1:
        return late
    if run.step % LOOK_EVERY:
        return False
    decision = torch.tensor(int(late), device=run.device)
    dist.broadcast(decision, src=0)
    return bool(decision.item())


@contextmanager
def _progress(label: str | None, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of ``total`` steps on a terminal; silence elsewhere, without a label, and in processes other than 0."""
    console = Console(stderr=True)
    if label is None or not console.is_terminal or rank_and_world()[0]:
        yield lambda steps: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(task, steps)
