"""Which rows of a training set must not be parted: SST-2's phrases are cut from the same sentences.

GLUE's SST-2 training split holds whole sentences and the phrases of their parse trees, as separate rows in random
order. A validation split by rows would test on pieces of training sentences. The grouping here (our choice; the
original trees are not part of GLUE):

* a *root* is a row that is a contiguous token sequence of no other row; usually a sentence;
* every row joins the roots that contain it. A row of ``MIN_TOKENS`` tokens or more also ties these roots together;
  a shorter one ("very funny") occurs in unrelated sentences by chance, so it joins only the first of them.

Every row is in exactly one group, and rows of at least ``MIN_TOKENS`` tokens are never parted from a row that
contains them. Pieces of one sentence that share no containing row (SST-2 leaves out neutral sentences) may be parted.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from paper_repro.config import sha256_key
from paper_repro.data.load import open_split
from paper_repro.data.own import repeated_inputs
from paper_repro.data.text import TextSplit, load_texts
from paper_repro.paths import cache_dir

MIN_TOKENS = 3
RULE = 1  # raise when ``containment_groups`` changes what it returns: the cache is keyed on it

Phrase = tuple[str, ...]


def phrase_groups(name: str) -> np.ndarray | None:
    """Group number int64 [N] of each row of the training split of ``name``, None where rows are independent.

    SST-2: see above (about two seconds for 67,349 rows, then cached). The embedded corpus: one group per source file.
    A user's own file: one group for each input that comes more than once.
    """
    if name.endswith(".parquet"):
        return repeated_inputs(Path(name))
    if name == "docstrings":
        return np.asarray(open_split(name, "train").dataset["group"], dtype=np.int64)
    if name != "sst2":
        return None
    split = load_texts(name, "train")
    key = sha256_key({"data": split.fingerprint, "rule": RULE, "min_tokens": MIN_TOKENS})
    path = cache_dir() / "groups" / f"{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            temporary = path.with_suffix(".partial.npy")
            np.save(temporary, containment_groups(split.texts))
            temporary.replace(path)
    return np.asarray(np.load(path))


def containment_groups(texts: Sequence[str], min_tokens: int = MIN_TOKENS) -> np.ndarray:
    """The grouping described above, as group numbers int64 [N] in order of first appearance."""
    rows = [_phrase(text) for text in texts]
    known = set(rows)
    roots: list[Phrase] = []
    roots_of: dict[Phrase, list[int]] = {}
    # Longest first, ties by the words: a row not yet seen inside a longer one is a root, whatever the order of rows.
    for phrase in sorted(known, key=lambda words: (-len(words), words)):
        if phrase not in roots_of:
            for part in {phrase, *_parts(phrase)} & known:
                roots_of.setdefault(part, []).append(len(roots))
            roots.append(phrase)
    parent = list(range(len(roots)))

    def find(root: int) -> int:
        while parent[root] != root:
            parent[root] = parent[parent[root]]
            root = parent[root]
        return root

    for phrase, containers in roots_of.items():
        if len(phrase) >= min_tokens:
            for other in containers[1:]:
                parent[find(other)] = find(containers[0])
    names = [find(roots_of[row][0]) for row in rows]
    _, first, number = np.unique(names, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


def overlap_mask(train: Sequence[str], test: Sequence[str], min_tokens: int = 1) -> np.ndarray:
    """True [len(train)] where a training text is a contiguous token sequence of a test text or contains one.

    ``min_tokens`` ignores matches shorter than that, which may be chance. Memory grows with the square of the lengths
    of the test texts, so these should be the fewer. Used to report overlap, not to remove it.
    """
    tests = {_phrase(text) for text in test}
    inside = {part for phrase in tests for part in (phrase, *_parts(phrase)) if len(part) >= min_tokens}
    whole = {phrase for phrase in tests if len(phrase) >= min_tokens}
    rows = [_phrase(text) for text in train]
    return np.array([row in inside or row in whole or any(part in whole for part in _parts(row)) for row in rows])


def sst2_test_overlap(min_tokens: int = 1) -> np.ndarray:
    """``overlap_mask`` of the SST-2 training rows against the official GLUE validation sentences."""
    train, test = load_texts("sst2", "train"), load_texts("sst2", "test")
    return overlap_mask(train.texts, test.texts, min_tokens)


def duplicate_groups(split: TextSplit) -> np.ndarray:
    """Group number int64 [N] that rows with identical input share."""
    pairs = split.pairs or [""] * len(split.texts)
    keys = [hashlib.sha256(f"{len(a)}:{a}{b}".encode()).digest() for a, b in zip(split.texts, pairs, strict=True)]
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _phrase(text: str) -> Phrase:
    return tuple(text.lower().split())


def _parts(phrase: Phrase) -> Iterator[Phrase]:
    size = len(phrase)
    return (phrase[i:j] for i in range(size) for j in range(i + 1, size + 1))
