"""Unlabelled text: the sentence rule, nested parts, a user's own file, and what is said of bad ones."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paper_repro.data import load_texts
from paper_repro.data.corpora import CorpusSpec, load_corpus, sentences
from paper_repro.errors import UserError


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_sentences_are_cut_at_breaks_and_full_stops_when_of_fit_length():
    text = 'It was good. Ha!<br /><br />It was 2.5 hours (too long). He said "so it goes." Then he left\nfor the bar'
    assert sentences(text) == [
        "It was good.", "It was 2.5 hours (too long).", 'He said "so it goes.', "Then he left", "for the bar",
    ]  # fmt: skip
    assert sentences("word " * 41 + ".") == []


def test_a_part_of_a_corpus_is_inside_every_bigger_part(tmp_path):
    path = parquet(tmp_path / "c.parquet", text=[f"text {i}" for i in range(50)])
    small, big = (load_corpus(path, rows).texts for rows in (10, 20))
    assert big[:10] == small and set(big) <= set(load_corpus(path).texts)
    assert load_corpus(path, 10).fingerprint != load_corpus(path, 20).fingerprint


def test_a_corpus_has_no_labels(tmp_path):
    corpus = CorpusSpec(name=parquet(tmp_path / "c.parquet", text=["a b c", "d"])).load()
    assert corpus.labels.tolist() == [-1, -1] and corpus.classes == []


def test_the_embedded_corpus_shares_no_text_with_the_labelled_one():
    corpus = load_corpus("docstrings-unlabelled").texts
    labelled = {text for split in ("train", "test") for text in load_texts("docstrings", split).texts}
    assert len(corpus) > 500 and not labelled & set(corpus)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"words": ["a"]}, "needs a column text"),
        ({"text": [1, 2]}, "holds int64; it must hold strings"),
        ({"text": ["a", None]}, "1 empty values"),
        ({"text": pa.array([], pa.string())}, "has no rows"),
    ],
)
def test_a_file_that_is_no_corpus_is_refused_in_one_sentence(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        load_corpus(parquet(tmp_path / "c.parquet", **columns))


def test_unknown_names_missing_files_and_too_many_rows_are_refused(tmp_path):
    with pytest.raises(UserError, match="no corpus 'imbd'"):
        load_corpus("imbd")
    with pytest.raises(UserError, match="no file"):
        load_corpus(str(tmp_path / "none.parquet"))
    with pytest.raises(UserError, match="has 2 texts, not 3"):
        load_corpus(parquet(tmp_path / "c.parquet", text=["a", "b"]), 3)
