"""What the harness needs to know about torch, imported only when it is asked for."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

Restore = Callable[[], None]


def device_sync(device: "str | torch.device") -> Callable[[], None]:
    """A function that waits until ``device`` has done all it was given; on the CPU there is nothing to wait for."""
    import torch

    device = torch.device(device)
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.accelerator.synchronize(device)


def module_state(model: "nn.Module", optimizer: "torch.optim.Optimizer | None" = None) -> Callable[[], Restore]:
    """A snapshot for ``measure``: weights, buffers, optimizer state, gradients and the random generators.

    Calling the result copies the state; calling what that returns puts it back, into the same tensors.
    """

    def snapshot() -> Restore:
        import torch

        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        gradients = [None if p.grad is None else p.grad.detach().clone() for p in model.parameters()]
        optimised = copy.deepcopy(optimizer.state_dict()) if optimizer is not None else None
        generator = torch.get_rng_state()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

        def restore() -> None:
            model.load_state_dict(weights)
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient
            if optimizer is not None and optimised is not None:
                optimizer.load_state_dict(optimised)
            torch.set_rng_state(generator)
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)

        return restore

    return snapshot


@contextlib.contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Run torch's operators on exactly ``threads`` threads, then on as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
