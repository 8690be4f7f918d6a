"""Tokens and the embedded text corpus."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from paper_repro import data
from paper_repro.data import embedded
from paper_repro.data.text import TextSplit, Tokens, encode

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c"]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAPER_REPRO_CACHE", str(tmp_path))


@pytest.fixture
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def split_of(texts: list[str], pairs: list[str] | None = None, fingerprint: str = "f") -> TextSplit:
    return TextSplit(texts, pairs, np.zeros(len(texts), dtype=np.int64), ["x", "y"], fingerprint)


def test_encode_pads_and_cuts_with_the_last_special_token_kept(tokenizer: Tokenizer) -> None:
    tokens = encode(split_of(["a b", "c", "a a a a a a", ""]), tokenizer, max_length=5)
    assert len(tokens) == 4 and tokens.ids.dtype == np.int32 and tokens.offsets.dtype == np.int64
    ids, mask = tokens.pad(np.array([2, 0, 3]), 5)
    assert ids.tolist() == [[1, 4, 4, 4, 2], [1, 4, 5, 2, 0], [1, 2, 0, 0, 0]]
    assert mask.tolist() == [[1] * 5, [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert tokens.pad(np.array([1]), 5)[0].shape == (1, 3), "as long as the longest of the batch"


def test_pad_of_an_empty_text_has_one_masked_column() -> None:
    tokens = Tokens(np.zeros(0, dtype=np.int32), np.zeros(2, dtype=np.int64), pad_id=9)
    ids, mask = tokens.pad(np.array([0]), 4)
    assert ids.tolist() == [[9]] and mask.tolist() == [[0]]


def test_pairs_are_encoded_together(tokenizer: Tokenizer) -> None:
    tokens = encode(split_of(["a"], ["b c"]), tokenizer, 10)
    assert tokens.ids.tolist() == [1, 4, 2, 5, 6, 2]


def test_encode_ignores_and_keeps_the_tokenizers_own_truncation_and_padding(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=7)
    tokens = encode(split_of(["a b c"]), tokenizer, 10)
    assert tokens.ids.tolist() == [1, 4, 5, 6, 2]
    assert tokenizer.truncation["max_length"] == 3 and tokenizer.padding["length"] == 7


def test_encode_is_cached_by_data_tokenizer_and_length(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encode(split_of(["a"]), tokenizer, 4)
    with monkeypatch.context() as patch:
        patch.setattr("paper_repro.data.text._write", None)
        encode(split_of(["a"]), tokenizer, 4)
    encode(split_of(["b"], fingerprint="g"), tokenizer, 4)
    encode(split_of(["a"]), tokenizer, 3)
    tokenizer.add_tokens(["d"])
    encode(split_of(["a"]), tokenizer, 4)
    assert len(list((tmp_path / "tokens").glob("*.npz"))) == 4


def test_embedded_corpus_is_real_labelled_and_free_of_give_aways(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = data.load_texts("docstrings", "train"), data.load_texts("docstrings", "test")
    assert len(train.texts) + len(test.texts) > 2_000 and 0.15 < len(test.texts) / len(train.texts) < 0.3
    assert np.bincount(train.labels).min() > 400 and len(train.classes) == 4
    for text in train.texts + test.texts:
        assert not {"matplotlib", "pandas", "scipy", "sklearn", "scikit", "numpy"} & set(text.split())
    assert not set(train.texts) & set(test.texts)
    groups = data.phrase_groups("docstrings")
    test_groups = np.array(data.load("docstrings", "test")["group"])
    assert groups is not None and not set(groups) & set(test_groups), "a file is on one side only"
    monkeypatch.setattr(embedded, "docstring_corpus", None)
    assert data.load_texts("docstrings", "train").fingerprint == train.fingerprint, "read from the cache"


def test_embedded_corpus_can_be_learnt() -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = data.load_texts("docstrings", "train"), data.load_texts("docstrings", "test")
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10, max_iter=300)).fit(train.texts, train.labels)
    assert 0.6 < model.score(test.texts, test.labels) < 0.95, "a real signal, and not a give-away"


def test_embedded_corpus_follows_the_installed_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    corpora = iter([["one", "two"], ["one", "three"]])

    def fake() -> dict[str, list]:
        texts = [f"{word} {row}" for word in next(corpora) for row in range(10)]
        return {"text": texts, "label": [row % 2 for row in range(20)], "group": list(range(20))}

    monkeypatch.setattr(embedded, "docstring_corpus", fake)
    before = data.load_texts("docstrings", "train").fingerprint
    assert data.load_texts("docstrings", "train").fingerprint == before
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert data.load_texts("docstrings", "train").fingerprint != before
