"""model2vec: a sentence encoder folded into one vector per wordpiece (Tulkens and van Dongen 2024), then logistic
regression.

Every wordpiece is read alone by MiniLM-L6, all vectors are projected on their principal components and weighted by
a / (a + p) with p from Zipf's law over the vocabulary's order; a text is the normalised mean of its pieces. model2vec's
own distillation needs transformers < 5.4, so its steps are done here, for its ``StaticModel``, which reads texts. On
MiniLM-L6 with 256 components the vectors are those of model2vec 0.10, float32 (checked once: same pieces, largest
difference 3e-5 where values reach 4.2).
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from paper_repro.baselines.base import Fitted, encodable, logistic_scores, missing
from paper_repro.config import Config

SIF = 1e-4  # a: model2vec's default
BATCH = 256  # wordpieces per forward pass
DROPPED = re.compile(r"\[(unused\d+|CLS|SEP|MASK)\]")  # never part of a text


class StaticSettings(Config):
    """``dims``: principal components kept. ``c``: inverse strength of the L2 penalty."""

    dims: int
    c: float


class Static(Fitted):
    """Scores are logits."""

    def __init__(self, num_classes: int, encoder: Any, model: Any) -> None:
        super().__init__(num_classes)
        self.encoder, self.model = encoder, model

    def _scores(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self.model.classes_, logistic_scores(self.model, embed(self.encoder, texts))


def fits(
    texts: Sequence[str], labels: np.ndarray, num_classes: int, grid: Sequence[StaticSettings], seed: int
) -> Iterator[Static]:
    """One fitted model for each of ``grid``. Deterministic: ``seed`` is not used.

    Raises UserError where model2vec or MiniLM-L6 is missing.
    """
    from sklearn.linear_model import LogisticRegression

    for dims, alike in groupby(grid, key=lambda settings: settings.dims):
        encoder = static_model(dims, *minilm_pieces())
        features = embed(encoder, texts)
        for settings in alike:
            yield Static(num_classes, encoder, LogisticRegression(C=settings.c, max_iter=1000).fit(features, labels))


def embed(encoder: Any, texts: Sequence[str]) -> np.ndarray:
    """Vectors float32 [N, dims] of whole texts, each of length 1; zero for a text without known pieces."""
    return encoder.encode([encodable(text) for text in texts], max_length=None, use_multiprocessing=False)


def static_model(dims: int, tokenizer: Tokenizer, vectors: np.ndarray) -> Any:
    """model2vec's ``StaticModel`` of a tokenizer and its pieces' vectors [V, D]."""
    try:
        from model2vec import StaticModel
    except ImportError:
        raise missing("model2vec") from None
    return StaticModel(principal(vectors, dims) * zipf_weights(len(vectors))[:, None], tokenizer, normalize=True)


def principal(vectors: np.ndarray, dims: int) -> np.ndarray:
    """The first ``dims`` (at most all) principal components [V, dims] of ``vectors`` [V, D], mean removed."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return centred @ directions[:, ::-1][:, :dims]


def zipf_weights(count: int) -> np.ndarray:
    """Weights float32 [count] of pieces in order of frequency; a wordpiece vocabulary is nearly that."""
    share = 1 / np.arange(2, count + 2)
    return (SIF / (SIF + share / share.sum())).astype(np.float32)


@functools.cache
def minilm_pieces() -> tuple[Tokenizer, np.ndarray]:
    """MiniLM-L6's tokenizer without ``DROPPED``, and what it makes of each piece; half a minute on one core, once."""
    from paper_repro.zoo import minilm

    return pieces_of(minilm.MiniLM(2, pretrained=True).eval().embed, minilm.load_tokenizer())


def pieces_of(embed: Callable[[Tensor, Tensor], Tensor], tokenizer: Tokenizer) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer with the pieces that a text can have, and vectors float32 [V, D] of "[CLS] piece [SEP]"."""
    kept = [(piece, number) for piece, number in in_order(tokenizer) if not DROPPED.fullmatch(piece)]
    first, last = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    ids = torch.tensor([[first, number, last] for _, number in kept])
    with torch.inference_mode():
        vectors = torch.cat([embed(batch, torch.ones_like(batch)) for batch in ids.split(BATCH)])
    return with_pieces(tokenizer, [piece for piece, _ in kept]), vectors.float().numpy()


def in_order(tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Pieces and their numbers, ascending."""
    return sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])


def with_pieces(tokenizer: Tokenizer, pieces: Sequence[str]) -> Tokenizer:
    """A wordpiece tokenizer that knows ``pieces`` only, numbered from 0, and adds no special tokens to a text."""
    settings = json.loads(tokenizer.to_str())
    numbers = {piece: number for number, piece in enumerate(pieces)}
    settings["model"]["vocab"] = numbers
    settings["added_tokens"] = [
        {**token, "id": numbers[token["content"]]} for token in settings["added_tokens"] if token["content"] in numbers
    ]
    settings["post_processor"] = None
    return Tokenizer.from_str(json.dumps(settings))
