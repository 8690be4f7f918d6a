"""The n-gram featurizer on IMDB: no text differs from scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from paper_repro import data
from paper_repro.data.ngrams import Vocabulary, build_vocabulary

TEXTS = 10_000


@pytest.fixture(scope="module")
def reviews(data_root: Path) -> dict[str, list[str]]:
    return {split: data.load_texts("imdb", split).texts for split in ("train", "test")}


def mismatches(vocabulary: Vocabulary, texts: list[str]) -> int:
    """Texts whose ids are not, as a multiset, what scikit-learn counts with the same vocabulary."""
    split = {"tokenizer": str.split, "token_pattern": None} if vocabulary.analyzer == "whitespace" else {}
    index = {ngram: i for i, ngram in enumerate(vocabulary.ngrams())}
    counts = CountVectorizer(ngram_range=(1, vocabulary.n), vocabulary=index, **split).transform(texts)
    counts.sort_indices()
    found = vocabulary.transform(texts, threads=2)
    row = np.repeat(np.arange(len(texts)), np.diff(found.offsets))
    ours = np.stack([row, found.ids])[:, np.lexsort([found.ids, row])]
    theirs = np.stack([np.repeat(np.arange(len(texts)), np.diff(counts.indptr)), counts.indices]).repeat(counts.data, 1)
    if np.array_equal(ours, theirs):
        return 0
    return sum(not np.array_equal(ours[1, ours[0] == one], theirs[1, theirs[0] == one]) for one in range(len(texts)))


def test_ten_thousand_reviews_without_a_mismatch(reviews: dict[str, list[str]]) -> None:
    vocabulary = build_vocabulary(reviews["train"], 1_000_000)
    assert vocabulary.size == 1_000_000
    assert mismatches(vocabulary, reviews["test"][-TEXTS:]) == 0
    others = [text for text in reviews["test"] if not text.isascii()]
    assert len(others) > 2_000 and mismatches(vocabulary, others[:2_000]) == 0
    pruned = vocabulary.restrict(np.random.default_rng(0).random(vocabulary.size) < 0.03)
    assert len(pruned.arrays["lengths"]) > pruned.size, "n-grams whose parts are left out"
    assert mismatches(pruned, reviews["test"][:500]) == 0


def test_whitespace_reviews_without_a_mismatch(reviews: dict[str, list[str]]) -> None:
    vocabulary = build_vocabulary(reviews["train"][:5_000], 200_000, n=3, analyzer="whitespace")
    assert mismatches(vocabulary, reviews["test"][:1_000]) == 0


def test_vocabulary_is_scikit_learns_above_the_cut_off(reviews: dict[str, list[str]]) -> None:
    texts = [text for part in reviews.values() for text in part[:1_500]]
    vocabulary = build_vocabulary(iter(texts), 50_000)
    fitted = CountVectorizer(ngram_range=(1, 4), max_features=50_000)
    occurrences = np.asarray(fitted.fit_transform(texts).sum(axis=0)).ravel()
    theirs = dict(zip(fitted.get_feature_names_out(), occurrences.tolist(), strict=True))
    ours = dict(zip(vocabulary.ngrams(), vocabulary.counts.tolist(), strict=True))
    cut = vocabulary.counts[-1]
    assert cut == min(theirs.values()) > 1
    assert {ngram: count for ngram, count in ours.items() if count > cut} == {
        ngram: count for ngram, count in theirs.items() if count > cut
    }
