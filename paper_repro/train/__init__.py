"""The one training loop, and the one way to compute predictions.

The optimisation problem is stated globally (``global_batch``); how many processes share it and how many examples fit
into one forward pass are derived, and change nothing but the BatchNorm statistics, which are those of one forward
pass. Data order, augmentation and dropout come from seeds derived from named axes (``paper_repro.seeds``), never from
whatever state a generator happens to be in. Epochs follow one another without a seam: step s takes examples
[s B, (s+1) B) of the concatenation of all epochs' orders, so every batch is full and every epoch shows every example
exactly once (our choice; dropping or shrinking the last batch of an epoch does one or the other).

Read in this order: ``config`` (settings, schedule, optimiser), ``batches`` (data order), ``loop``, ``state``
(checkpoints), ``predict``, ``processes``.
"""

from paper_repro.train.batches import Batch, Source, forward
from paper_repro.train.config import TrainConfig, lr_at, make_optimizer, parameter_groups
from paper_repro.train.loop import Loss, Step, TrainResult, train, training_seconds
from paper_repro.train.predict import predict
from paper_repro.train.processes import distributed, rank_and_world, share
from paper_repro.train.state import Diverged, read_checkpoint

__all__ = [
    "Batch",
    "Diverged",
    "Loss",
    "Source",
    "Step",
    "TrainConfig",
    "TrainResult",
    "distributed",
    "forward",
    "lr_at",
    "make_optimizer",
    "parameter_groups",
    "predict",
    "rank_and_world",
    "read_checkpoint",
    "share",
    "train",
    "training_seconds",
]
