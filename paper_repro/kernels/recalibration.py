"""Batch norms' statistics, re-estimated for weights that were never trained with."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from paper_repro.kernels.majority import fold

RECALIBRATION = 2048  # training examples that norms' statistics are taken from, at most (our choice)


def recalibrated(model: nn.Module, inputs: Callable[[], Iterable[Tensor]]) -> nn.Module:
    """A copy of ``model``, folded and in evaluation mode, with its batch norms' statistics re-estimated on ``inputs``
    (batches [B, ...] of training examples); the model itself where it has none. What training leaves are the
    statistics of weights that are no longer there."""
    if not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) for module in model.modules()):
        return model
    copy = fold(model)  # of a plain model a copy
    update_bn(inputs(), copy)
    return copy.eval()
