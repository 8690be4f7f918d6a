"""Peers of the n-gram student, made where they run: in this process, or in those that share the work."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paper_repro.timing.workers import Workers

PACKAGES = {  # module by peer: those that are no dependencies of this project
    "fasttext": ("fasttext",),
    "model2vec": ("model2vec",),
    "minilm-onnx-int8": ("onnx", "onnxruntime"),
}


def missing_package(peer: str) -> str | None:
    """The first package that ``peer`` needs and that is not installed."""
    return next((name for name in PACKAGES.get(peer, ()) if importlib.util.find_spec(name) is None), None)


def shared(
    make: Callable[[], Callable[[Any], Any]], threads: int
) -> tuple[Callable[[list[str]], list[Any]], Workers | None]:
    """The function that ``make`` returns, on parts of a list in ``threads`` processes, or on the whole in this one."""
    if threads == 1:
        function = make()
        return lambda texts: [function(texts)], None
    workers = Workers(make, threads)
    return workers, workers


def counter(vocabulary: Path) -> Callable[[Sequence[str]], Any]:
    """scikit-learn's ``CountVectorizer.transform`` with a stored vocabulary: texts [N] to a sparse matrix [N, V]."""
    from sklearn.feature_extraction.text import CountVectorizer

    from paper_repro.data.ngrams import Vocabulary

    stored = Vocabulary.load(vocabulary)
    numbers = {ngram: number for number, ngram in enumerate(stored.ngrams())}
    return CountVectorizer(ngram_range=(1, stored.n), vocabulary=numbers).transform


def predictor(
    name: str, texts: list[str], labels: np.ndarray, num_classes: int, seed: int
) -> Callable[[Sequence[str]], np.ndarray]:
    """``predict`` of a baseline with the first settings of its grid: texts [N] to classes int64 [N]."""
    from paper_repro.baselines import GRIDS, fit

    return fit(name, texts, labels, num_classes, GRIDS[name][0], seed).predict


class OnnxMiniLM:
    """MiniLM-L6 in ONNX Runtime with weights in int8 and activations quantised as they come (its ``quantize_dynamic``).

    Called with ids and mask, int64 [B, T] arrays, gives logits float32 [B, C].
    """

    def __init__(self, num_classes: int, folder: Path, threads: int) -> None:
        import onnxruntime
        import torch
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from paper_repro import zoo

        model = zoo.build("minilm-l6", num_classes).eval()
        ids = torch.arange(5, 21).reshape(2, 8)
        sizes = {0: "batch", 1: "tokens"}
        whole, self.path = folder / "minilm.onnx", folder / "minilm-int8.onnx"
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # that tracing fixes shapes (not those named dynamic), and that it is old
            torch.onnx.export(
                model, (ids, torch.ones_like(ids)), str(whole), dynamo=False, opset_version=17,
                input_names=["input_ids", "attention_mask"], output_names=["logits"],
                dynamic_axes={"input_ids": sizes, "attention_mask": sizes},
            )  # fmt: skip
        logging.getLogger().addFilter(_no_advice)
        try:
            quantize_dynamic(str(whole), str(self.path), weight_type=QuantType.QInt8)
        finally:
            logging.getLogger().removeFilter(_no_advice)
        whole.unlink()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.params = float(sum(parameter.numel() for parameter in model.parameters()))
        self.session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0]


def _no_advice(record: logging.LogRecord) -> bool:
    """Drops the quantiser's advice to simplify the graph first, which changes nothing for a BERT."""
    return "pre-processing before quantization" not in record.getMessage()
