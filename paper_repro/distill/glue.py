"""Fine-tuning a pretrained encoder on tasks of GLUE (Wang et al. 2019), scored by GLUE's own metrics on the dev sets.

Five of its tasks: SST-2, CoLA, MRPC and RTE are classified, STS-B is a regression on squared error. A pair is one text
with [SEP] between its two sentences: our encoders have no segment embeddings. Texts are cut to the length that the
encoder was pretrained at, of a pair the longer sentence first; the head reads the mean over a text's tokens. The dev
set is looked at once, after the last step, so nothing can be tuned on it: one recipe for all (our choice).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro import data, seeds
from paper_repro.data.load import open_split
from paper_repro.data.sources import TextSource
from paper_repro.data.text import TextSplit
from paper_repro.distill.teacher import ModelSpec
from paper_repro.errors import UserError
from paper_repro.results.schema import Metric
from paper_repro.train import Step, TrainConfig, forward, predict, train
from paper_repro.zoo.text import Transformer


@dataclass(frozen=True)
class GlueTask:
    """``metrics``: those whose mean is the task's number in GLUE. ``regression``: labels are scores, not classes."""

    metrics: tuple[str, ...]
    regression: bool = False


TASKS: dict[str, GlueTask] = {
    "sst2": GlueTask(("accuracy",)),
    "cola": GlueTask(("matthews",)),
    "mrpc": GlueTask(("accuracy", "f1")),
    "rte": GlueTask(("accuracy",)),
    "stsb": GlueTask(("pearson", "spearman"), regression=True),
}
UNITS = {"accuracy": "fraction", "f1": "fraction", "matthews": "coefficient", "pearson": "coefficient",
         "spearman": "coefficient", "score": "fraction", "score_constant": "fraction"}  # fmt: skip


def load_glue(task: str, split: str) -> TextSplit:
    """Texts of a task's "train" or "validation" split; labels int64 [N], for a regression float32 [N] and no classes.

    Raises UserError for a task that is not in ``TASKS`` and for data that is not here.
    """
    kind = _kind(task)
    if not kind.regression:
        return data.load_texts(task, split)
    opened = open_split(task, split)
    columns = opened.info.columns
    pairs = opened.strings(columns.pair) if columns.pair else None
    labels = np.asarray(opened.dataset.with_format("numpy")[columns.label][:], dtype=np.float32)
    return TextSplit(opened.strings(columns.input), pairs, labels, [], opened.fingerprint)


def fine_tune(
    parts: dict[str, TextSplit],
    encoder_state: dict[str, Tensor],
    spec: ModelSpec,
    task: str,
    recipe: TrainConfig,
    seed: int,
    device: str,
    *,
    tokenizer: Any,
    limit: int | None = None,
) -> list[Metric]:
    """Fine-tune all weights of an encoder on ``task`` and measure it on the official dev set (split "validation").

    ``parts``: the texts, {"train", "validation"}, as ``load_glue`` reads them. ``encoder_state``: from
    ``MaskedLm.encoder_state`` of a model that ``spec`` describes, which reads text through ``tokenizer``. ``limit``:
    train on so many examples, the same for every model and repetition. Initialisation of the head and order of the data
    come from ``seed``. "score_constant" is the score of answering always the most frequent class of the training set.
    Raises UserError for an unknown task and an encoder that does not fit.
    """
    kind = _kind(task)
    training = parts["train"]
    centre, scale = _scale(training.labels) if kind.regression else (0.0, 1.0)
    model = classifier(encoder_state, spec, 1 if kind.regression else len(training.classes), seed, task)
    sources = {}
    for split, part in parts.items():
        rows = _rows(len(part.texts), limit if split == "train" else None, task)
        labels = ((part.labels - centre) / scale).astype(np.float32) if kind.regression else part.labels
        tokens = data.encode(part, tokenizer, spec.max_length)
        sources[split] = TextSource(tokens, labels, rows, max_length=spec.max_length, device=device)
    axes: dict[str, int | str] = {"dataset": task, "role": "glue"}
    loss = _squared_error if kind.regression else _cross_entropy
    train(model, sources["train"], loss, recipe, seed=seed, device=device, stream_axes=axes)
    outputs = predict(model, sources["validation"], 256, device=device).numpy()
    predicted = outputs[:, 0] if kind.regression else outputs.argmax(axis=1)
    found = scores(task, predicted, parts["validation"].labels)
    constant = np.full(len(predicted), 0 if kind.regression else np.bincount(training.labels).argmax())
    found["score_constant"] = scores(task, constant, parts["validation"].labels)["score"]
    return [
        Metric(name=name, value=value, unit=UNITS[name], split="validation", n=len(predicted))
        for name, value in found.items()
    ]


def classifier(encoder_state: dict[str, Tensor], spec: ModelSpec, outputs: int, seed: int, task: str) -> Transformer:
    """A ``Transformer`` with the sizes of ``spec``, the encoder's weights and a fresh head of ``outputs`` units.

    Raises UserError when the weights are not those of such an encoder.
    """
    torch.manual_seed(seeds.derive(seed, "init", dataset=task, model=spec.model))
    model = Transformer(outputs, encoder_state["tokens.weight"].shape[0], **spec.options)
    fits = model.state_dict()
    expected = {name: value.shape for name, value in fits.items() if not name.startswith("head.")}
    if {name: value.shape for name, value in encoder_state.items()} != expected:
        raise UserError(f"The weights are not those of an encoder with the options {spec.options}; give its own spec.")
    model.load_state_dict({**fits, **encoder_state})
    return model


def scores(task: str, predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """GLUE's metrics of a task, and its number "score", their mean where there are two. All are fractions, not percent.

    ``predicted`` and ``labels`` are classes (int [N]) or for a regression numbers (float [N]). F1 is that of class 1.
    Constant predictions have no correlation with anything: coefficients are 0 then, not undefined (our choice, and
    scikit-learn's for Matthews').
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    kind = _kind(task)
    if kind.regression:
        found = correlations(predicted, labels)
    else:
        found = {"accuracy": float((predicted == labels).mean())}
        if "f1" in kind.metrics:
            found["f1"] = float(f1_score(labels, predicted, zero_division=0.0))
        if "matthews" in kind.metrics:
            found["matthews"] = float(matthews_corrcoef(labels, predicted))
    return {**found, "score": float(np.mean([found[name] for name in kind.metrics]))}


def correlations(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's coefficients; both 0 when either side is constant."""
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return {"pearson": 0.0, "spearman": 0.0}
    x, y = predicted.astype(np.float64), labels.astype(np.float64)
    return {"pearson": float(pearsonr(x, y).statistic), "spearman": float(spearmanr(x, y).statistic)}


def _kind(task: str) -> GlueTask:
    if task not in TASKS:
        raise UserError(f"There is no GLUE task '{task}' here; choose one of: {', '.join(TASKS)}.")
    return TASKS[task]


def _scale(labels: np.ndarray) -> tuple[float, float]:
    """Mean and deviation that a regression's targets are scaled by; no metric of it depends on them."""
    return float(labels.mean()), float(labels.std()) or 1.0


def _rows(count: int, limit: int | None, task: str) -> np.ndarray:
    """``limit`` of ``count`` rows, drawn once for all models; all rows without a limit or below it."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(seeds.numpy_rng(0, "glue", dataset=task).permutation(count)[:limit])


def _cross_entropy(net: nn.Module, batch: dict[str, Any], _: Step) -> Tensor:
    return F.cross_entropy(forward(net, batch).float(), batch["label"])


def _squared_error(net: nn.Module, batch: dict[str, Any], _: Step) -> Tensor:
    return F.mse_loss(forward(net, batch).float().squeeze(-1), batch["label"])
