"""Unlabelled text to distil on, by name; for a user's own text the path of a parquet file with a column ``text``.

``imdb-unsupervised``: the 50,000 reviews that come with IMDB without a label.
``imdb-sentences``: sentences of these reviews, an in-domain corpus for SST-2 (sentences of film reviews). Cut at line
breaks and after . ! ? (closing quotes and brackets after it are lost), kept when of 3 to 40 words, once each (in lower
case).
``qnli-questions``: the questions of QNLI's validation and test splits, once each, an in-domain corpus for TREC.
``docstrings-unlabelled``: more prose of the libraries behind the embedded data set ``docstrings``.

A part of a corpus is its first ``rows`` texts in the order of their SHA-256: a bigger part holds the smaller.
The rules are our choice, but for IMDB's, which is the paper's too.
"""

import functools
import hashlib
import re
from pathlib import Path

import numpy as np

from paper_repro.config import Config, sha256_key
from paper_repro.data.load import open_split, parquet_rows, sha256_of
from paper_repro.data.own import values_of
from paper_repro.data.text import TextSplit
from paper_repro.errors import UserError

SOURCES = {  # corpus -> the data set that it is made of
    "imdb-unsupervised": "imdb",
    "imdb-sentences": "imdb",
    "qnli-questions": "qnli",
    "docstrings-unlabelled": "docstrings",
}
RULE = 1  # raise when the rules above change
MIN_WORDS, MAX_WORDS = 3, 40

_BREAK = re.compile(r"(?:<br\s*/?>|\n)+")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


class CorpusSpec(Config):
    """Unlabelled text: a name of this module or the path of a parquet file, and how much of it (None: all)."""

    name: str
    rows: int | None = None
    sha256: str | None = None  # of a user's file: what is computed from another content has another key

    def load(self) -> TextSplit:
        """Its texts; see ``load_corpus``."""
        return load_corpus(self.name, self.rows)


def corpus_of(name: str) -> CorpusSpec:
    """The corpus that a user names. Raises UserError as ``load_corpus`` does, before anything is computed with it."""
    load_corpus(name)
    return CorpusSpec(name=name, sha256=sha256_of(Path(name)) if name.endswith(".parquet") else None)


@functools.lru_cache(maxsize=8)
def load_corpus(name: str, rows: int | None = None) -> TextSplit:
    """The texts of a corpus, all or a part; its labels are -1 and it has no classes.

    Raises UserError for an unknown name, data that is not here, a file without a text column, and fewer texts than
    ``rows``.
    """
    if name.endswith(".parquet"):
        texts, origin = _own(Path(name))
    elif name in SOURCES:
        texts, origin = _named(name)
    else:
        raise UserError(f"There is no corpus '{name}'; choose one of {', '.join(SOURCES)} or a .parquet file.")
    if rows is not None:
        if rows > len(texts):
            raise UserError(f"The corpus '{name}' has {len(texts):,} texts, not {rows:,}; ask for fewer.")
        order = sorted(range(len(texts)), key=lambda i: hashlib.sha256(texts[i].encode(errors="replace")).digest())
        texts = [texts[i] for i in order[:rows]]
    fingerprint = sha256_key({"corpus": origin, "rule": RULE, "rows": rows})
    return TextSplit(texts, None, np.full(len(texts), -1, dtype=np.int64), [], fingerprint)


def sentences(text: str) -> list[str]:
    """The sentences of ``text`` by the rule above, those of unfit length left out."""
    found = [piece.strip() for line in _BREAK.split(text) for piece in _SENTENCE.split(line)]
    return [piece for piece in found if MIN_WORDS <= len(piece.split()) <= MAX_WORDS]


def _named(name: str) -> tuple[list[str], str]:
    if name == "docstrings-unlabelled":
        from paper_repro.data.embedded import unlabelled_docstrings

        texts = unlabelled_docstrings()
        return texts, hashlib.sha256("\n".join(texts).encode()).hexdigest()
    if name == "qnli-questions":
        parts = [open_split("qnli", split, as_published=True) for split in ("validation", "test")]
    else:
        parts = [open_split("imdb", "unsupervised")]
    texts = [text for part in parts for text in part.strings(part.info.columns.input)]
    if name == "qnli-questions":  # has most of them with two sentences
        texts, name = list(dict.fromkeys(texts)), f"{name}, once each,"
    if name == "imdb-sentences":
        found = {piece.lower(): piece for text in reversed(texts) for piece in reversed(sentences(text))}
        texts = list(reversed(found.values()))
    return texts, f"{name} of {' '.join(part.fingerprint for part in parts)}"


def _own(path: Path) -> tuple[list[str], str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"There is no file {path}; check the path given as corpus.")
    if parquet_rows(path) == 0:
        raise UserError(f"{path} has no rows; give a file with texts.")
    schema = pq.ParquetFile(path).schema_arrow
    kind = schema.field("text").type if "text" in schema.names else None
    if kind is None:
        raise UserError(f"{path} needs a column text; it has {', '.join(schema.names)}.")
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"The column text of {path} holds {kind}; it must hold strings.")
    column = pq.read_table(path, columns=["text"]).column("text")
    if column.null_count:
        raise UserError(f"The column text of {path} has {column.null_count} empty values; remove these rows.")
    return values_of(path, "text", column), sha256_of(path)
