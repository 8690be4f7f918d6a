"""Masked language modelling on a data set's own text as a task to distil on: its blocks, its models, their quality.

The text is the train split and, where the data set has one, the split "unsupervised"; its labels are not used. Held out
for validation are whole documents: those whose content, hashed with SHA-256, falls below the validation fraction, so
that copies of a document are on one side. Documents of the test split are taken out of both. The test is the first
``TEST_DOCUMENTS`` of the test split in the order of their hashes. All of this is our choice.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro import data, seeds, zoo
from paper_repro.config import sha256_key
from paper_repro.data.load import open_split
from paper_repro.data.masked import HIDDEN, IGNORED, MaskedSource, blocks, predictions
from paper_repro.data.text import TextSplit
from paper_repro.data.wordpiece import MASK, SPECIAL, library, own_wordpieces
from paper_repro.data.wordpiece import RULE as TOKENIZER_RULE
from paper_repro.distill.teacher import ModelSpec
from paper_repro.errors import UserError
from paper_repro.results.schema import Metric
from paper_repro.train import Batch, Source, forward

Rows = Literal["train", "validation", "test"]
ROWS: tuple[Rows, ...] = ("train", "validation", "test")

RULE = 1  # raise when what is held out, packed or masked changes
TEST_DOCUMENTS = 500  # about 27,000 predicted positions of IMDB; all 25,000 documents take longer than a training run
WHOLE = 1_000_000  # tokens to which a document is cut: none
EVALUATION_BATCH = 128  # sequences


class MaskedLmTask:
    """Blocks of text to predict hidden tokens of.

    ``dataset``: a name of the manifest or a user's parquet file with texts. ``label`` is what records call it,
    ``fingerprint`` names all the text read, how it was split, and the rule and library that make its tokenizer.
    ``train_rows``: documents to train on; how many blocks they make depends on the model (``len(source(...))``).

    A model's ``tokenizer`` "wordpiece-4096" is one of 4,096 pieces trained on the documents for training; others are
    those of ``zoo.load_tokenizer`` whose vocabulary begins with BERT's special tokens.

    Raises UserError for data that is not here or not text, and for a fraction that leaves nothing on one side.
    """

    unit = "sequences"

    def __init__(self, dataset: str, validation_fraction: float, device: str) -> None:
        self.dataset, self.device, self.label = dataset, device, data.label(dataset)
        parts = [data.load_texts(dataset, "train"), *_unsupervised(dataset)]
        test = data.load_texts(dataset, "test")
        identity = {
            "train": [part.fingerprint for part in parts], "test": test.fingerprint, "rule": RULE,
            "validation_fraction": validation_fraction, "tokenizer": [TOKENIZER_RULE, library()],
        }  # fmt: skip
        self.fingerprint = sha256_key(identity)
        self.documents = split_documents([part.texts for part in parts], test.texts, validation_fraction)
        self._splits = {
            rows: TextSplit(
                texts, None, np.full(len(texts), -1, dtype=np.int64), [], sha256_key([self.fingerprint, rows])
            )
            for rows, texts in self.documents.items()
        }
        self.train_rows = len(self.documents["train"])
        self._identity = identity
        self._tokenizers: dict[str, Any] = {}
        self._blocks: dict[tuple[str, int, Rows], np.ndarray] = {}

    def tokenizer(self, spec: ModelSpec) -> Any:
        """The tokenizer that ``spec`` names. Raises UserError when its special tokens are not where BERT's are."""
        if spec.tokenizer not in self._tokenizers:
            size = re.fullmatch(r"wordpiece-(\d+)", spec.tokenizer)
            train = self._splits["train"]
            found = (
                own_wordpieces(train.texts, train.fingerprint, int(size[1]))
                if size
                else zoo.load_tokenizer(spec.tokenizer)
            )
            if [found.token_to_id(token) for token in SPECIAL] != list(range(len(SPECIAL))):
                raise UserError(
                    f"The ids of the tokenizer '{spec.tokenizer}' do not begin with {' '.join(SPECIAL)}; "
                    "use 'wordpiece-4096', which is trained on the text itself."
                )
            self._tokenizers[spec.tokenizer] = found
        return self._tokenizers[spec.tokenizer]

    def blocks(self, spec: ModelSpec, rows: Rows) -> np.ndarray:
        """The documents of ``rows`` end to end in blocks of ``spec.max_length`` tokens, int32 [N, T]."""
        name = (spec.tokenizer, spec.max_length, rows)
        if name not in self._blocks:
            tokens = data.encode(self._splits[rows], self.tokenizer(spec), WHOLE)
            self._blocks[name] = blocks(tokens, spec.max_length, len(SPECIAL))
            if not len(self._blocks[name]):
                raise UserError(
                    f"The {rows} documents of '{self.label}' do not fill one block of {spec.max_length} tokens; "
                    "give more text or a smaller max_length."
                )
        return self._blocks[name]

    def source(
        self, spec: ModelSpec, rows: Rows, *, augment: bool = False, extra: dict[str, Tensor] | None = None,
        everywhere: bool = False,
    ) -> Source:  # fmt: skip
        """The blocks of ``rows`` as ``spec`` reads them; see ``MaskedSource`` for ``extra`` and ``everywhere``.

        Masks of "train" are drawn per batch, those of the others once: they are the same for every model with this
        tokenizer and length. There is nothing to augment: ``augment`` changes nothing.
        """
        found = self.blocks(spec, rows)
        drawn = None if rows == "train" else seeds.torch_rng(0, "masks", dataset=self.label, rows=rows)
        return MaskedSource(
            found, mask_id=MASK, special=len(SPECIAL), vocab_size=self.tokenizer(spec).get_vocab_size(),
            everywhere=everywhere, drawn=drawn, device=self.device, extra=extra,
        )  # fmt: skip

    def build(self, spec: ModelSpec, seed: int, **axes: int) -> nn.Module:
        """A fresh model; all methods of one repetition start from the same. Other ``axes`` give other weights."""
        torch.manual_seed(seeds.derive(seed, "init", dataset=self.label, model=spec.model, **axes))
        return zoo.build(spec.model, self.tokenizer(spec).get_vocab_size(), **spec.options).to(self.device)

    def task_loss(self, logits: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy in nats over the positions to be predicted; ``logits`` float [B, k, V]."""
        return F.cross_entropy(
            logits.flatten(0, 1).float(), batch["label"].flatten(), ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        )  # fmt: skip

    def where(self, batch: Batch) -> Tensor | None:
        """The positions that distillation counts: all that the model gives logits for (None). Blocks have no padding.

        Those are the positions to be predicted, or every position where the source says ``everywhere``.
        """
        return None

    def quality(self, spec: ModelSpec, model: nn.Module, rows: Rows) -> list[Metric]:
        """Cross-entropy in nats and accuracy over the hidden positions of ``rows``."""
        loss, accuracy, count = masked_quality(model, self.source(spec, rows), self.device)
        return [
            Metric(name="loss", value=loss, unit="nat", split=rows, n=count),
            Metric(name="accuracy", value=accuracy, unit="fraction", split=rows, n=count),
        ]

    def flops(self, spec: ModelSpec, *, everywhere: bool = False) -> float:
        """FLOPs of one forward pass over one block, with logits at the hidden positions or everywhere."""
        length = spec.max_length
        with torch.device("meta"):
            model = zoo.build(spec.model, self.tokenizer(spec).get_vocab_size(), **spec.options)
            ids = torch.zeros(1, length, dtype=torch.int64)
            positions = torch.zeros(1, length if everywhere else predictions(length), dtype=torch.int64)
            return zoo.flops(model, [ids, torch.ones_like(ids), positions])

    def provenance(self) -> dict[str, Any]:
        """What the data was: fingerprints, and how many documents each split has."""
        return {
            "train_fingerprint": self.fingerprint,
            "parts": self._identity["train"],
            "test_fingerprint": self._identity["test"],
            "hidden": HIDDEN,
            "tokenizer_library": library(),
            "rows": {f"{rows}_documents": len(texts) for rows, texts in self.documents.items()},
        }


def split_documents(train: list[list[str]], test: list[str], validation_fraction: float) -> dict[Rows, list[str]]:
    """The documents of each split; see the module. ``train``: parts one after the other.

    Raises UserError for a fraction outside (0, 1) and when a split gets no document.
    """
    if not 0.0 < validation_fraction < 1.0:
        raise UserError(f"The validation fraction is {validation_fraction}; it must lie between 0 and 1.")
    tested = set(test)
    found: dict[Rows, list[str]] = {rows: [] for rows in ROWS}
    for text in (text for part in train for text in part if text not in tested):
        found["validation" if _place(text) < validation_fraction else "train"].append(text)
    found["test"] = sorted(test, key=_place)[:TEST_DOCUMENTS]
    for rows, texts in found.items():
        if not texts:
            raise UserError(
                f"No document is left for {rows} at a validation fraction of {validation_fraction}; give more text or "
                "another fraction."
            )
    return found


def _place(text: str) -> float:
    """A number in [0, 1) that only the content decides."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:6], "big") / 2**48


def _unsupervised(dataset: str) -> Iterator[TextSplit]:
    """The data set's texts without labels, if it has any."""
    info = data.MANIFEST.get(dataset)
    if info is not None and "unsupervised" in info.splits:
        opened = open_split(dataset, "unsupervised")
        texts = opened.strings(opened.info.columns.input)
        yield TextSplit(texts, None, np.full(len(texts), -1, dtype=np.int64), [], opened.fingerprint)


@torch.no_grad()
def masked_quality(model: nn.Module, source: Source, device: str) -> tuple[float, float, int]:
    """Mean cross-entropy (nat) and accuracy over the labelled positions of ``source``, and how many these are.

    Batch by batch: all logits together would take gigabytes. The model is put back into the mode it was in.
    """
    was_training = model.training
    model.to(device).eval()
    generator = torch.Generator().manual_seed(0)
    loss, right, count = 0.0, 0, 0
    try:
        for indices in torch.arange(len(source)).split(EVALUATION_BATCH):
            batch = source.batch(indices, generator)
            logits, labels = forward(model, batch).float().flatten(0, 1), batch["label"].flatten()
            known = labels != IGNORED
            loss += float(F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
            right += int(((logits.argmax(-1) == labels) & known).sum())
            count += int(known.sum())
    finally:
        model.train(was_training)
    return loss / count, right / count, count
