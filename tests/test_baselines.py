"""The baselines: each fits, repeats itself, survives odd texts, and computes what its definition says."""

import sys
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_array
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from paper_repro import baselines, data
from paper_repro.baselines import BASELINES, GRIDS, SEEDED, UNSEEN, fast_text, fit, nbsvm, static, tune, tuned
from paper_repro.baselines.nbsvm import NbsvmSettings, log_count_ratio
from paper_repro.baselines.tfidf_lr import TfidfLrSettings
from paper_repro.errors import UserError

PACKAGES = {"fasttext": "fasttext", "model2vec": "model2vec"}
ODD = ["", " \n\r\t\x0b\x0c ", "\x00", "\ud800", "</s>", "<label>0", "漢字 naïve", "word " * 5_000, "\u2028\x85"]
Texts = tuple[list[str], np.ndarray]


def needs(name: str) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason="the extra 'baselines' is not installed")


@pytest.fixture(scope="module")
def docstrings() -> tuple[Texts, Texts]:
    """120 + 60 texts of each of the four libraries."""
    split = data.load_texts("docstrings", "train")
    rows = [np.flatnonzero(split.labels == label)[:180] for label in range(4)]

    def take(part: slice) -> Texts:
        chosen = np.concatenate([row[part] for row in rows])  # sorted by class, as IMDB is
        return [split.texts[row] for row in chosen], split.labels[chosen]

    return take(slice(120)), take(slice(120, 180))


def wordpieces(texts: list[str]) -> Tokenizer:
    """A BERT-like tokenizer whose pieces are the commonest words of ``texts``."""
    words, counts = np.unique(np.concatenate([text.split() for text in texts]), return_counts=True)
    common = words[np.argsort(-counts, kind="stable")[:800]]
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, common)]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    return tokenizer


def encoder_of(tokenizer: Tokenizer, dim: int = 300) -> Callable[[Tensor, Tensor], Tensor]:
    table = nn.Embedding.from_pretrained(
        torch.randn(tokenizer.get_vocab_size(), dim, generator=torch.Generator().manual_seed(0))
    )
    return lambda ids, mask: (table(ids) * mask[..., None]).mean(1)


@pytest.fixture(autouse=True)
def small_encoder(docstrings: tuple[Texts, Texts], monkeypatch: pytest.MonkeyPatch) -> None:
    """MiniLM-L6 takes half a minute to read its wordpieces; a table of random vectors stands in."""
    tokenizer = wordpieces(docstrings[0][0])
    pieces = static.pieces_of(encoder_of(tokenizer), tokenizer)
    monkeypatch.setattr(static, "minilm_pieces", lambda: pieces)


def test_every_baseline_has_the_same_tuning_budget() -> None:
    assert set(BASELINES) == set(GRIDS) == {"tfidf-lr", "nbsvm", "fasttext", "model2vec"}
    assert {len(set(grid)) for grid in GRIDS.values()} == {4} == {len(grid) for grid in GRIDS.values()}
    assert set(BASELINES) > SEEDED


@pytest.mark.parametrize("name", BASELINES)
def test_it_learns_repeats_itself_and_reads_any_text(name: str, docstrings: tuple[Texts, Texts]) -> None:
    needs(name)
    (texts, labels), (others, truth) = docstrings
    settings = GRIDS[name][-1]
    fitted = fit(name, texts, labels, 4, settings, seed=1)
    predicted, scores = fitted.predict(others), fitted.scores(others)
    assert predicted.dtype == np.int64 and scores.shape == (240, 4) and np.isfinite(scores).all()
    assert np.array_equal(predicted, scores.argmax(1))
    # chance is 0.25 with a standard error of 0.03; the stand-in for MiniLM-L6 knows no word's meaning
    least = 0.36 if name == "model2vec" else 0.5
    assert (predicted == truth).mean() > least
    again, other = (fit(name, texts, labels, 4, settings, seed).scores(others) for seed in (1, 2))
    assert np.array_equal(scores, again) and np.array_equal(scores, other) == (name not in SEEDED)
    assert fitted.predict([]).shape == (0,) and fitted.scores([]).shape == (0, 4)
    odd = fitted.scores(ODD)
    assert np.isfinite(odd).all() and np.array_equal(odd.argmax(1), fitted.predict(ODD))
    trained = fit(name, [*texts, *ODD], np.concatenate([labels, np.zeros(len(ODD), int)]), 4, settings, 1)
    assert (trained.predict(others) == truth).mean() > least


@pytest.mark.parametrize("name", BASELINES)
def test_a_class_without_examples_is_never_predicted(name: str, docstrings: tuple[Texts, Texts]) -> None:
    needs(name)
    (texts, labels), (others, truth) = docstrings
    kept = np.isin(labels, [1, 3])
    some = [text for text, keep in zip(texts, kept, strict=True) if keep]
    scores = fit(name, some, labels[kept], 5, GRIDS[name][-1], 0).scores(others)
    assert (scores[:, [0, 2, 4]] == UNSEEN).all() and (scores[:, [1, 3]] > UNSEEN).all()
    seen = np.isin(truth, [1, 3])
    assert (scores.argmax(1) == truth)[seen].mean() > 0.6


def test_settings_are_chosen_on_validation_texts_and_nothing_is_refitted(
    docstrings: tuple[Texts, Texts], monkeypatch: pytest.MonkeyPatch
) -> None:
    (texts, labels), (others, truth) = docstrings
    grid = tuple(TfidfLrSettings(n=1, c=c) for c in (1e-6, 10.0, 10.0, 1e-6))
    monkeypatch.setitem(GRIDS, "tfidf-lr", grid)
    fitted, settings, accuracies = tuned("tfidf-lr", texts, labels, others, truth, 4, seed=0)
    assert settings is grid[accuracies.index(max(accuracies))], "of equals the first"
    assert accuracies == [np.mean(fit("tfidf-lr", texts, labels, 4, one, 0).predict(others) == truth) for one in grid]
    assert accuracies[1] == accuracies[2] != accuracies[0] == accuracies[3]  # which is better is up to the data
    expected = fit("tfidf-lr", texts, labels, 4, settings, 0)
    assert np.array_equal(fitted.scores(others), expected.scores(others))


@pytest.mark.parametrize("name", BASELINES)
def test_fitting_a_grid_at_once_is_fitting_each(name: str, docstrings: tuple[Texts, Texts]) -> None:
    needs(name)
    (texts, labels), (others, _) = docstrings
    for settings, fitted in zip(GRIDS[name], tune._fits(name, texts, labels, 4, GRIDS[name], 3), strict=True):
        assert np.array_equal(fitted.scores(others[::9]), fit(name, texts, labels, 4, settings, 3).scores(others[::9]))


# --- NBSVM ----------------------------------------------------------------------------------------------------------


def test_log_count_ratios_are_those_worked_out_by_hand() -> None:
    # columns: bad, film, good; texts: "good film", "good" against "bad film"
    found = csr_array(np.array([[0, 1, 1], [0, 0, 1], [1, 1, 0]], dtype=np.float32))
    # p = 1 + (0, 1, 2) of sum 6, q = 1 + (1, 1, 0) of sum 5
    expected = np.log([(1 / 6) / (2 / 5), (2 / 6) / (2 / 5), (3 / 6) / (1 / 5)])
    np.testing.assert_allclose(log_count_ratio(found, np.array([True, True, False])), expected, rtol=1e-12)


@pytest.mark.parametrize("classes, beta", list(product([2, 3], [1.0, 0.25])))
def test_nbsvm_agrees_with_a_second_implementation(classes: int, beta: float) -> None:
    texts = ["Not bad!", "a good film, a good day", "bad film", "bad bad day", "so so", "not so good", "so it's a film"]
    labels = np.array([1, 1, 0, 0, 2, 2, 2]) % classes
    fitted = fit("nbsvm", texts, labels, classes, NbsvmSettings(n=2, min_texts=1, c=0.5, beta=beta), 0)

    rows = []
    for text in texts:
        words = text.lower().replace("!", " !").replace(",", " ,").split()
        rows.append({*words, *(" ".join(pair) for pair in pairwise(words))})
    grams = sorted(set.union(*rows))
    assert list(fitted.vectorizer.get_feature_names_out()) == grams and "it's" in grams
    x = np.array([[float(gram in row) for gram in grams] for row in rows])
    margins = []
    for label in range(classes):
        y = np.where(labels == label, 1.0, -1.0)
        p, q = 1 + x[y > 0].sum(0), 1 + x[y < 0].sum(0)
        r = np.log((p / p.sum()) / (q / q.sum()))

        def loss(v: np.ndarray, z: np.ndarray = x * r, y: np.ndarray = y) -> float:  # liblinear's: it shrinks the bias
            return 0.5 * v @ v + 0.5 * (np.maximum(0, 1 - y * (z @ v[:-1] + v[-1])) ** 2).sum()

        *w, bias = minimize(loss, np.zeros(len(grams) + 1), options={"gtol": 1e-7}).x
        margins.append(x @ (r * ((1 - beta) * np.abs(w).mean() + beta * np.array(w))) + bias)
    if classes == 2:  # one problem: the second class against the first
        margins = [-margins[1] / 2, margins[1] / 2]
    np.testing.assert_allclose(fitted.scores(texts), np.stack(margins, 1), atol=2e-3)


def test_the_margin_of_two_classes_is_parted() -> None:
    fitted = fit("nbsvm", ["good", "bad"], np.array([1, 0]), 2, NbsvmSettings(min_texts=1, c=1, beta=1), 0)
    scores = fitted.scores(["good", "bad", "neither"])
    np.testing.assert_allclose(scores.sum(1), 0, atol=1e-9)
    assert scores[0, 1] > 0 > scores[1, 1] and isinstance(fitted, nbsvm.Nbsvm)


# --- fastText -------------------------------------------------------------------------------------------------------


def test_no_text_can_pose_as_a_label_or_end_a_line() -> None:
    needs("fasttext")
    trap = "good </s> <label>7 bad\n<label>5 x"
    assert fast_text.line(trap) == "good  < /s>  < label>7 bad  < label>5 x\n"
    texts = [trap, "awful"] * 20
    fitted = fit("fasttext", texts, np.array([1, 0] * 20), 2, GRIDS["fasttext"][-1], 0)
    assert isinstance(fitted, fast_text.FastText)
    assert sorted(fitted.model.labels) == ["<label>0", "<label>1"]
    assert "x" in fitted.model.words and "</s>" in fitted.model.words  # all of the line was read; its end is a word
    assert fitted.predict([trap, "awful", "x"]).tolist() == [1, 0, 1]


def test_fasttext_scores_are_logarithms_of_probabilities(docstrings: tuple[Texts, Texts]) -> None:
    """The package's own batch call repeats the first probability under numpy 2."""
    needs("fasttext")
    (texts, labels), (others, _) = docstrings
    scores = fit("fasttext", texts, labels, 4, GRIDS["fasttext"][-1], 0).scores(others)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, atol=1e-3)


def test_a_training_that_diverges_is_said(docstrings: tuple[Texts, Texts]) -> None:
    needs("fasttext")
    texts, labels = docstrings[0]
    with pytest.raises(UserError, match="fastText could not be trained"):
        fit("fasttext", texts, labels, 4, fast_text.FastTextSettings(epochs=5, lr=1e12), 0)


# --- model2vec ------------------------------------------------------------------------------------------------------


def test_pieces_that_no_text_has_are_dropped_and_the_rest_read_alone(docstrings: tuple[Texts, Texts]) -> None:
    tokenizer = wordpieces(docstrings[0][0])
    embed = encoder_of(tokenizer)
    small, vectors = static.pieces_of(embed, tokenizer)
    names = [piece for piece, _ in static.in_order(small)]
    assert names[:2] == ["[PAD]", "[UNK]"] and len(names) == tokenizer.get_vocab_size() - 4 == len(vectors)
    for piece in (names[2], names[500]):
        alone = embed(torch.tensor([[3, tokenizer.token_to_id(piece), 4]]), torch.ones(1, 3))[0]
        np.testing.assert_allclose(vectors[names.index(piece)], alone, rtol=1e-6)
    text = "Returns the array, or xyzzy!"
    assert small.encode(text).tokens == tokenizer.encode(text, add_special_tokens=False).tokens
    assert small.encode(text).ids == [names.index(token) for token in small.encode(text).tokens]


def test_a_text_is_the_normalised_mean_of_its_weighted_components(docstrings: tuple[Texts, Texts]) -> None:
    needs("model2vec")
    tokenizer, vectors = static.minilm_pieces()
    model = static.static_model(5, tokenizer, vectors)
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    table = centred @ directions[:5].T * static.zipf_weights(len(vectors))[:, None]
    ids = [number for number in tokenizer.encode("the array of the values").ids if number != 1]  # unknown: left out
    mean = table[ids].mean(0)
    found = static.embed(model, ["the array of the values", ""])
    np.testing.assert_allclose(np.abs(found[0]), np.abs(mean / np.linalg.norm(mean)), atol=1e-5)  # signs are free
    assert not found[1].any()
    longer = static.embed(model, ["the " * 3_000 + "array " * 3_000])  # not cut at 512 pieces
    assert not np.allclose(longer, static.embed(model, ["the"]), atol=1e-3)


def test_zipf_weights_rise_with_rarity_to_one() -> None:
    weights = static.zipf_weights(30_000)
    share = 0.5 / (1 / np.arange(2, 30_002)).sum()  # of the commonest
    assert weights[0] == pytest.approx(1e-4 / (1e-4 + share))
    assert (np.diff(weights) > 0).all() and 0.9 < weights[-1] < 1


def test_minilms_wordpieces_are_what_model2vec_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    from paper_repro.zoo import minilm

    if minilm._in_package("tokenizer.json") is None:
        pytest.skip("the extra 'minilm' is not installed")
    tokenizer, vectors = static.pieces_of(lambda ids, _: ids.float(), minilm.load_tokenizer())
    assert len(vectors) == 29_525  # 30,522 less 994 unused ones, [CLS], [SEP] and [MASK]
    assert vectors[0].tolist() == [101, 0, 102] and tokenizer.token_to_id("[UNK]") == 1
    assert tokenizer.encode("It wasn't [CLS]").tokens == ["it", "wasn", "'", "t", "[", "cl", "##s", "]"]


# --- what cannot be fitted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, texts, labels, message",
    [
        ("nbsvn", ["a", "b"], [0, 1], "no baseline 'nbsvn'; did you mean 'nbsvm'"),
        ("nbsvm", [], [], "no texts to fit"),
        ("nbsvm", ["a b", "c d"], [1, 1], "All texts are of class 1"),
        ("nbsvm", ["a b", "c d"], [0, 2], "Labels go from 0 to 2; they must lie between 0 and 1"),
        ("nbsvm", ["a b", "c d"], [-1, 0], "Labels go from -1"),
        ("nbsvm", ["a b", "c d"], [0], "2 texts but 1 labels"),
        ("nbsvm", ["", " ?! "], [0, 1], "None of the texts holds a word"),
    ],
)
def test_what_cannot_be_fitted_is_said(name: str, texts: list[str], labels: list[int], message: str) -> None:
    for attempt in (
        lambda: fit(name, texts, np.array(labels), 2, NbsvmSettings(c=1, beta=1), 0),
        lambda: tuned(name, texts, np.array(labels), ["a"], np.array([0]), 2, 0),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_validation_split_is_said() -> None:
    with pytest.raises(UserError, match="no validation texts"):
        tuned("nbsvm", ["a b", "c d"], np.array([0, 1]), [], np.array([]), 2, 0)


@pytest.mark.parametrize("name, package", [("fasttext", "fasttext-wheel"), ("model2vec", "model2vec")])
def test_a_missing_library_says_what_to_install(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(UserError, match=rf"needs {package}, which is not installed; run 'pip install .*\[baselines\]'"):
        fit(name, ["a b", "c d"], np.array([0, 1]), 2, GRIDS[name][0], 0)


def test_the_package_names_what_it_offers() -> None:
    assert all(hasattr(baselines, name) for name in baselines.__all__)
