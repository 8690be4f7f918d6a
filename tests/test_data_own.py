"""A user's own parquet file as a data set, and one clear sentence for each that cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paper_repro import data
from paper_repro.data.corpora import load_corpus
from paper_repro.errors import UserError

TEXTS = [f"text number {row}" for row in range(20)]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PAPER_REPRO_CACHE", str(tmp_path / "cache"))


def write(tmp_path: Path, **columns: Any) -> str:
    path = tmp_path / "my.parquet"
    pd.DataFrame(columns).to_parquet(path)
    return str(path)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [(["b", "a"] * 10, ["a", "b"]), ([7, 10] * 10, ["7", "10"]), ([1.0, 0.0] * 10, ["0", "1"])],
)
def test_labels_are_integers_or_strings_in_sorted_order(tmp_path: Path, labels: list, classes: list[str]) -> None:
    path = write(tmp_path, text=TEXTS, label=labels)
    train, test = data.load_texts(path, "train"), data.load_texts(path, "test")
    assert train.classes == test.classes == classes
    assert len(test.texts) == 4 and sorted(train.texts + test.texts) == sorted(TEXTS)
    for part in (train, test):
        for text, label in zip(part.texts, part.labels, strict=True):
            assert classes[label] == str(labels[TEXTS.index(text)]).removesuffix(".0")
    assert data.describe(path).modality == "text" and data.describe(path).classes == tuple(classes)
    assert train.fingerprint != test.fingerprint


def test_the_cut_is_stable_and_the_fingerprint_follows_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, text=TEXTS, label=[0, 1] * 10)
    first = data.load_texts(path, "test")
    assert data.load_texts(path, "test").texts == first.texts
    write(tmp_path, text=TEXTS[::-1], label=[0, 1] * 10)
    assert data.load_texts(path, "test").fingerprint != first.fingerprint


def test_identical_texts_stay_on_one_side(tmp_path: Path) -> None:
    path = write(tmp_path, text=[f"text {row // 2}" for row in range(60)], label=[row // 2 % 2 for row in range(60)])
    train, test = data.load_texts(path, "train"), data.load_texts(path, "test")
    assert test.texts and not set(train.texts) & set(test.texts)


def test_identical_texts_stay_on_one_side_of_a_validation_split_too(tmp_path: Path) -> None:
    path = write(tmp_path, text=[*TEXTS, *["twice"] * 6, *["again"] * 6], label=["a", "b"] * 16)
    groups, train = data.phrase_groups(path), data.load_texts(path, "train")
    assert groups is not None and len(set(groups)) == len(set(train.texts)) < len(train.texts)
    split = data.stratified_split(train.labels, 0.3, 0, groups=groups)
    texts = np.array(train.texts)
    assert not set(texts[split.train]) & set(texts[split.validation])
    assert data.phrase_groups(write(tmp_path, text=TEXTS, label=["a", "b"] * 10)) is None


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (
            {"sentence": TEXTS, "label": [0, 1] * 10},
            "has the columns sentence, label; it needs text,label or img,label",
        ),
        ({"text": TEXTS, "target": [0, 1] * 10}, "it needs text,label"),
        ({"text": TEXTS, "label": [1] * 20}, "only the class 1"),
        ({"text": [], "label": []}, "has no rows"),
        ({"text": TEXTS, "label": [0.0, np.nan] * 10}, "10 missing values"),
        ({"text": TEXTS, "label": ["a", None] * 10}, "10 missing values"),
        ({"text": TEXTS, "label": [0.5, 1.0] * 10}, "fractions"),
        ({"text": TEXTS, "label": [float("inf"), 1.0] * 10}, "fractions"),
        ({"text": [None, *TEXTS[1:]], "label": [0, 1] * 10}, "1 empty values"),
        ({"text": range(20), "label": [0, 1] * 10}, "must hold text"),
        ({"img": TEXTS, "label": [0, 1] * 10}, "must hold encoded image files"),
        ({"text": TEXTS, "label": [0] * 18 + [1] * 2}, "The class 1 of .* has 2 examples"),
        ({"text": TEXTS, "label": TEXTS}, "has 1 examples"),
    ],
)
def test_unusable_files_are_explained_in_one_sentence(tmp_path: Path, columns: dict, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        data.load_texts(write(tmp_path, **columns), "train")
    message = str(caught.value)
    assert "my.parquet" in message and message.endswith(".") and "\n" not in message


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        data.load(str(tmp_path / "none.parquet"), "train")
    path = Path(write(tmp_path, text=TEXTS, label=[0, 1] * 10))
    with pytest.raises(UserError, match="no 'dev'"):
        data.load(str(path), "dev")
    with pytest.raises(UserError, match="holds text, not images"):
        data.load_images(str(path), "train")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="truncated"):
        data.load(str(path), "train")
    path.write_text("text,label\n")
    with pytest.raises(UserError, match="truncated or not a parquet file"):
        data.load(str(path), "train")


def test_text_that_is_not_utf8_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "latin.parquet"
    texts = pa.array([f"caf\xe9 {i}".encode("latin-1") for i in range(20)]).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": [0, 1] * 10}), path)
    for call in (lambda: data.load_texts(str(path), "train"), lambda: load_corpus(str(path))):
        with pytest.raises(UserError, match=r"column text of .*latin\.parquet holds text that is not UTF-8"):
            call()
