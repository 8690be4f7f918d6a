"""Fine-tuning on GLUE: metrics against values worked by hand, the regression path, the encoder's weights."""

import math

import numpy as np
import pytest
import torch

from paper_repro.data.text import TextSplit
from paper_repro.data.wordpiece import train_wordpieces
from paper_repro.distill.glue import TASKS, classifier, fine_tune, load_glue, scores
from paper_repro.distill.teacher import ModelSpec
from paper_repro.errors import UserError
from paper_repro.train import TrainConfig
from paper_repro.zoo import build

RECIPE = TrainConfig(epochs=8, global_batch=16, optimizer="adamw", lr=5e-3, schedule="linear", warmup_fraction=0.1)
SPEC = ModelSpec(
    model="mlm", options={"layers": 1, "dim": 16, "heads": 2, "max_length": 12, "dropout": 0.0}, max_length=12,
    train=RECIPE,
)  # fmt: skip
WORDS = ["good", "bad", "film", "plot", "actor", "scene"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpieces([" ".join(WORDS)] * 5, 200)


def encoder(vocabulary, **options):
    torch.manual_seed(0)
    return build("mlm", vocabulary, **{**SPEC.options, **options}).encoder_state()


def test_mrpc_by_hand():
    predicted, labels = np.array([1, 1, 1, 0, 0, 0, 1, 1]), np.array([1, 1, 0, 0, 1, 0, 1, 0])
    # 3 true positives, 2 false positives, 1 false negative, 2 true negatives
    found = scores("mrpc", predicted, labels)
    assert found["accuracy"] == 5 / 8
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert found["score"] == pytest.approx((5 / 8 + 2 / 3) / 2)


def test_cola_by_hand():
    predicted, labels = np.array([1, 1, 1, 0, 0, 0, 1, 1]), np.array([1, 1, 0, 0, 1, 0, 1, 0])
    found = scores("cola", predicted, labels)
    assert found["matthews"] == pytest.approx((3 * 2 - 2 * 1) / math.sqrt(5 * 4 * 4 * 3))
    assert found["score"] == found["matthews"] and "f1" not in found


def test_stsb_by_hand():
    # deviations (-1.5, -0.5, 0.5, 1.5) and (-1, 1, -3, 3): products 1.5 - 0.5 - 1.5 + 4.5 = 4, squares 5 and 20
    found = scores("stsb", np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 5.0, 1.0, 7.0]))
    assert found["pearson"] == pytest.approx(4 / math.sqrt(5 * 20))
    assert found["spearman"] == pytest.approx(1 - 6 * (1 + 1 + 4 + 0) / (4 * 15))  # ranks 1 2 3 4 and 2 3 1 4
    assert found["score"] == pytest.approx((found["pearson"] + found["spearman"]) / 2)


def test_accuracy_is_the_number_of_sst2_and_rte():
    for task in ("sst2", "rte"):
        found = scores(task, np.array([0, 1, 1]), np.array([0, 1, 0]))
        assert found == {"accuracy": pytest.approx(2 / 3), "score": pytest.approx(2 / 3)}


def test_constant_predictions_have_no_correlation():
    assert scores("cola", np.ones(4, dtype=int), np.array([1, 0, 1, 1]))["score"] == 0.0
    assert scores("stsb", np.full(4, 2.5), np.arange(4.0)) == {"pearson": 0.0, "spearman": 0.0, "score": 0.0}
    assert scores("mrpc", np.zeros(4, dtype=int), np.array([1, 0, 1, 1]))["f1"] == 0.0


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match=r"no GLUE task 'wnli' here; choose one of: sst2, cola"):
        scores("wnli", np.ones(1), np.ones(1))


def test_the_classifier_starts_from_the_encoder_and_its_head_from_the_seed():
    state = encoder(50)
    first, second = (classifier(state, SPEC, 2, seed, "sst2") for seed in (0, 1))
    for name, value in state.items():
        assert torch.equal(first.state_dict()[name], value)
    assert not torch.equal(first.head.weight, second.head.weight)
    with pytest.raises(UserError, match=r"The weights are not those of an encoder"):
        classifier(encoder(50, layers=2), SPEC, 2, 0, "sst2")


def sentiment(count, seed):
    """Films are good or bad, and what else is said does not matter."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    texts = [f"{WORDS[1 - label]} {WORDS[rng.integers(2, 6)]}" for label in labels]
    return TextSplit(texts, None, labels, ["bad", "good"], f"sentiment-{count}-{seed}")


def similarity(count, seed):
    """How similar two sentences are: 5 where they are the same word, 0 where they are not, in a ratio of 1 to 1."""
    rng = np.random.default_rng(seed)
    first, same = rng.integers(2, 4, count), rng.integers(0, 2, count)
    second = np.where(same == 1, first, 5 - first)
    labels = (5.0 * (second == 2)).astype(np.float32)  # which word is the second: it needs no comparison
    texts, pairs = [WORDS[i] for i in first], [f"{WORDS[i]} good good" for i in second]
    return TextSplit(texts, pairs, labels, [], f"similarity-{count}-{seed}")


def test_classes_are_learned_and_scored_on_the_dev_set(tokenizer):
    parts = {"train": sentiment(200, 0), "validation": sentiment(60, 1)}
    state = encoder(tokenizer.get_vocab_size())
    before = {name: value.clone() for name, value in state.items()}
    found = fine_tune(parts, state, SPEC, "sst2", RECIPE, 0, "cpu", tokenizer=tokenizer)
    assert [(metric.name, metric.unit, metric.split, metric.n) for metric in found] == [
        (name, "fraction", "validation", 60) for name in ("accuracy", "score", "score_constant")
    ]
    most = np.bincount(parts["train"].labels).argmax()
    assert found[2].value == pytest.approx((parts["validation"].labels == most).mean())
    assert found[0].value > 0.95
    assert all(torch.equal(state[name], value) for name, value in before.items())  # the next task starts from it too
    again = fine_tune(parts, state, SPEC, "sst2", RECIPE, 0, "cpu", tokenizer=tokenizer)
    assert again == found


def test_a_regression_on_pairs_is_learned(tokenizer):
    parts = {"train": similarity(200, 0), "validation": similarity(60, 1)}
    state = encoder(tokenizer.get_vocab_size())
    found = {m.name: m for m in fine_tune(parts, state, SPEC, "stsb", RECIPE, 0, "cpu", tokenizer=tokenizer)}
    assert set(found) == {"pearson", "spearman", "score", "score_constant"} and found["score_constant"].value == 0
    assert found["pearson"].value > 0.9 and found["pearson"].unit == "coefficient"


def test_the_limit_caps_the_training_examples_only(tokenizer, monkeypatch):
    seen = {}

    def note(model, source, loss, config, **options):
        seen["rows"] = source.indices

    monkeypatch.setattr("paper_repro.distill.glue.train", note)
    parts = {"train": sentiment(200, 0), "validation": sentiment(60, 1)}
    state = encoder(tokenizer.get_vocab_size())
    first = fine_tune(parts, state, SPEC, "sst2", RECIPE, 0, "cpu", tokenizer=tokenizer, limit=50)
    rows = seen["rows"]
    assert len(set(rows)) == 50 and rows.max() > 60 and first[0].n == 60
    fine_tune(parts, state, SPEC, "sst2", RECIPE, 1, "cpu", tokenizer=tokenizer, limit=50)
    assert np.array_equal(seen["rows"], rows)  # the same for every repetition


def test_the_real_tasks_load_and_a_few_steps_run(data_root, tokenizer):
    rows = {"sst2": 872, "cola": 1043, "mrpc": 408, "rte": 277, "stsb": 1500}
    for task, count in rows.items():
        dev = load_glue(task, "validation")
        assert len(dev.texts) == len(dev.labels) == count
        assert (dev.pairs is None) == (task in ("sst2", "cola"))
    scored = load_glue("stsb", "train")
    assert scored.labels.dtype == np.float32 and scored.labels.min() == 0 and scored.labels.max() == 5
    assert len(np.unique(scored.labels)) > 50 and not scored.classes
    recipe = RECIPE.model_copy(update={"epochs": None, "steps": 2})
    state = encoder(tokenizer.get_vocab_size())
    for task, kind in TASKS.items():
        if task in ("rte", "stsb"):
            parts = {split: load_glue(task, split) for split in ("train", "validation")}
            found = fine_tune(parts, state, SPEC, task, recipe, 0, "cpu", tokenizer=tokenizer, limit=64)
            assert {*kind.metrics, "score"} <= {metric.name for metric in found}
