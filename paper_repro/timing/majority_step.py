"""What majority kernels add to a training step, and that folding leaves nothing of it (arXiv 2402.05033v2, abstract:
"minimal" extra wall-clock, and inference as before; it gives no number).

Random weights and input: a step's time does not depend on them. The competitors are models of the same architecture,
one plain and one for each k, whose steps are interleaved. Copies are trained fused, and all else by torch's fused
optimisers: a slow baseline would hide what the copies cost.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro import kernels, seeds, zoo
from paper_repro.errors import UserError
from paper_repro.timing.harness import measure
from paper_repro.timing.machine import Machine
from paper_repro.timing.summary import Rounds, median_interval, ratio, with_limits
from paper_repro.timing.torch_hooks import device_sync, pinned_threads
from paper_repro.train import TrainConfig, make_optimizer
from paper_repro.train.predict import DTYPES, autocast
from paper_repro.zoo.registry import resolve

RATE = 1e-6  # keeps random weights finite


def time_majority_steps(
    model: str,
    options: Mapping[str, Any] | None = None,
    *,
    batch: int,
    ks: Sequence[int],
    optimizer: str,
    precision: str = "fp32",
    rounds: int = 9,
    block_s: float = 0.3,
    threads: int | None = None,
    device: str = "cpu",
    machine: Machine | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Time training steps of ``model``, plain and with majority kernels of each k of ``ks``, interleaved.

    Returns the parts of one result record. ``samples``, one per round: seconds of a step ``plain/step`` and
    ``mk<k>/step``, draws of the coefficients included; seconds of a forward pass ``plain/forward`` and
    ``folded/forward``, of the folded model with the first k. ``metrics``, medians with /low and /high: of all seconds;
    ``overhead/mk<k>``, over plain's step; ``folded_ratio``, folded over plain forward; and, counted and not measured,
    ``memory_ratio/mk<k>``: bytes of weights, gradients and optimiser state over plain's.

    Raises UserError for an unknown precision or optimiser and k below 1.
    """
    if precision not in DTYPES or optimizer not in ("sgd", "adamw"):
        raise UserError(f"Steps are timed in {', '.join(DTYPES)} with sgd or adamw, not {precision} with {optimizer}.")
    threads = threads or torch.get_num_threads()
    entry, _ = resolve(model, dict(options or {}))
    settings = {"steps": 1, "global_batch": batch, "lr": RATE, "weight_decay": 1e-4, "schedule": "constant"}
    recipe = TrainConfig.model_validate({**settings, "optimizer": optimizer})
    inputs = zoo.inputs(model, batch, seed=seeds.derive(seed, "timing input"), device=device, **dict(options or {}))
    labels = torch.arange(batch, device=device) % entry.num_classes
    within = autocast(precision, torch.device(device))

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derive(seed, "timing weights"))
            return zoo.build(model, entry.num_classes, **dict(options or {})).to(device).train()

    def stepper(net: nn.Module) -> tuple[Callable[[], None], torch.optim.Optimizer]:
        chosen, number = make_optimizer(net, recipe, fused=True), [0]

        def step() -> None:
            number[0] += 1
            kernels.draw(net, number[0], seed=seed)
            with within:
                loss = F.cross_entropy(net(*inputs).float(), labels)
            loss.backward()
            chosen.step()
            chosen.zero_grad(set_to_none=True)

        return step, chosen

    def forward(net: nn.Module) -> Callable[[], Tensor]:
        def call() -> Tensor:
            with torch.inference_mode(), within:
                return net(*inputs)

        return call

    plain = build()
    step, chosen = stepper(plain)
    competitors: dict[str, Callable[[], Any]] = {"plain/step": step}
    step()
    base, memory = _bytes(plain, chosen), {}
    for k in ks:
        net = kernels.expand(build(), k)
        kernels.fuse(net)
        competitors[f"mk{k}/step"], chosen = stepper(net)
        competitors[f"mk{k}/step"]()
        memory[k] = _bytes(net, chosen) / base
    evaluated = kernels.fold(kernels.expand(build(), ks[0]).eval())
    competitors |= {"plain/forward": forward(build().eval()), "folded/forward": forward(evaluated)}
    with pinned_threads(threads):
        found = measure(
            competitors, rounds=rounds, block_s=block_s, warmup=1, mode="throughput", sync=device_sync(device),
            machine=machine or Machine(gpu=torch.device(device).type == "cuda"), seed=seed,
        )  # fmt: skip
    samples: dict[str, Any] = {name: one.block_s for name, one in found.items()}
    metrics = metrics_of(samples, ks)
    metrics += [
        {"name": f"memory_ratio/mk{k}", "value": value, "unit": "ratio", "split": "train"}
        for k, value in memory.items()
    ]
    protocol = found.protocol | {
        "timed": f"draw, forward, loss, backward, {optimizer}; the batch lies on the device",
        "one_call": "a step or a forward pass",
        "batch_size": batch,
        "input": "synthetic",
        "weights": "random",
        "device": device,
        "precision": precision,
        "threads": threads,
        "optimizer": optimizer,
        "machine": found.machine,
        "flags": {name: one.flags for name, one in found.items()},
    }
    samples |= {f"{name}_other_cores": one.other_cores for name, one in found.items()}
    cost = zoo.cost(model, **dict(options or {}))
    return {"metrics": metrics, "samples": samples, "cost": cost, "protocol": protocol, "clocks": found.clocks}


def metrics_of(samples: Mapping[str, Rounds], ks: Sequence[int]) -> list[dict[str, Any]]:
    """The metrics of ``time_majority_steps`` from its samples, seconds [rounds] by name."""
    metrics = []
    for name, values in samples.items():
        metrics += with_limits(f"{name}_s", "s", median_interval(values))
    for k in ks:
        metrics += with_limits(f"overhead/mk{k}", "ratio", ratio(samples[f"mk{k}/step"], samples["plain/step"]))
    return metrics + with_limits("folded_ratio", "ratio", ratio(samples["folded/forward"], samples["plain/forward"]))


def _bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Of weights, gradients as autograd stores them, and optimiser state."""
    weights = {id(p): p for p in model.parameters()}
    trained = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    parts = getattr(optimizer, "parts", [optimizer])
    states = [t for part in parts for state in part.state.values() for t in state.values() if torch.is_tensor(t)]
    tensors = [*(weights | trained).values(), *trained.values(), *states]
    return float(sum(t.numel() * t.element_size() for t in tensors))
