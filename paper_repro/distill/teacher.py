"""A teacher: how a model reads and is trained, trained once and cached, and its logits, computed once and stored."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from paper_repro.config import Config, canonical_json
from paper_repro.data.sources import ImageSource, Rows, TextSource
from paper_repro.distill.logits import LogitSpec, TeacherLogits, weights_sha256
from paper_repro.distill.weights import load_model, save_model
from paper_repro.train import Source, TrainConfig, forward, predict, train


class ModelSpec(Config):
    """A zoo model, how it reads the data, and how it is trained."""

    model: str
    options: dict[str, Any] = Field(default_factory=dict)  # passed on to zoo.build
    image_size: int | None = None  # average-pool images to this many pixels a side
    augment: bool = False  # random flip and crop
    tokenizer: str = "minilm-l6"
    max_length: int = 64  # tokens
    train: TrainConfig
    fine_tune: TrainConfig | None = None  # for methods that start from a trained student


class Teacher(NamedTuple):
    """A trained teacher, the clocks of its training, whenever that was, and where earlier parts of one now ran."""

    model: nn.Module
    clocks: dict[str, float]
    environments: list[dict[str, Any]]


def _cross_entropy(logits: Tensor, batch: dict[str, Any]) -> Tensor:
    return nn.functional.cross_entropy(logits.float(), batch["label"])


def trained_teacher(
    model: nn.Module,
    path: Path,
    source: Source,
    recipe: TrainConfig,
    *,
    device: str,
    dataset: str,
    loss: Callable[[Tensor, dict[str, Any]], Tensor] = _cross_entropy,
    seed: int = 0,
) -> Teacher:
    """``model`` with the weights in ``path``, or trained now by ``loss`` (of logits and batch) and saved there.

    A killed run resumes from a checkpoint beside ``path``. ``dataset`` and ``seed`` name the random streams.
    """
    if path.exists():
        clocks = load_model(model, path)
        return Teacher(model.eval(), clocks, [])
    checkpoint = path.with_suffix(".checkpoint")
    result = train(
        model,
        source,
        lambda net, batch, _: loss(forward(net, batch), batch),
        recipe,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        stream_axes={"dataset": dataset, "role": "teacher"},
        progress="teacher",
    )
    save_model(model, path, result.clocks)
    checkpoint.unlink(missing_ok=True)  # of several processes one is the first
    return Teacher(model.eval(), result.clocks, result.environments)


def stored_logits(
    model: nn.Module, spec: ModelSpec, source: ImageSource | TextSource, fingerprint: str, *, device: str,
    precision: str = "fp32",
) -> np.ndarray:  # fmt: skip
    """Logits [N, C] of ``model`` on ``source`` from the store, computed now if they are not there.

    ``fingerprint`` names the content of ``source``; ``spec`` says how the model reads it.
    """
    reads = spec.model_dump(mode="json", include={"image_size", "tokenizer", "max_length"})
    name = LogitSpec(
        weights=weights_sha256(model),
        preprocessing=canonical_json({**reads, "precision": precision}),
        data=fingerprint,
    )
    compute = partial(logits_of_rows, model, source, device, precision)
    return TeacherLogits().get(name, lambda rows: compute(torch.from_numpy(rows)).numpy(), len(source))


def logits_of_rows(
    model: nn.Module, source: ImageSource | TextSource, device: str, precision: str, rows: Tensor
) -> Tensor:
    """Logits [B, C] of these rows (int64 [B]). Texts go in order of length, which saves most of the padding."""
    order, batch = torch.arange(len(rows)), 256
    if isinstance(source, TextSource):
        order, batch = source.lengths[rows].argsort(stable=True), 64
    logits = predict(model, Rows(source, rows[order]), batch, device=device, precision=precision)
    return logits[order.argsort()]
