"""Masked language modelling as a task: who is held out, the tokenizer, sources, quality and cost."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from paper_repro import data
from paper_repro.data.masked import IGNORED, MaskedSource
from paper_repro.data.wordpiece import MASK, SPECIAL, train_wordpieces
from paper_repro.distill import masked_lm_task
from paper_repro.distill.masked_lm_task import MaskedLmTask, masked_quality, split_documents
from paper_repro.distill.teacher import ModelSpec
from paper_repro.errors import UserError
from paper_repro.seeds import torch_rng
from paper_repro.train import TrainConfig, forward, train

SPEC = ModelSpec(
    model="mlm",
    options={"layers": 1, "dim": 16, "heads": 2, "max_length": 16, "dropout": 0.0},
    tokenizer="wordpiece-120",
    max_length=16,
    train=TrainConfig(steps=60, global_batch=16, optimizer="adamw", lr=1e-2, schedule="linear", warmup_fraction=0.1),
)
WORDS = ["the", "film", "was", "good", "and", "the", "plot", "was", "bad", "but", "we", "liked", "every", "scene"]


def sentences(count):
    """Different texts of the words above, always in their order."""
    rng = np.random.default_rng(0)
    return [f"number {i}: " + " ".join(word for word in WORDS if rng.random() < 0.8) for i in range(count)]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "reviews.parquet"
    pd.DataFrame({"text": sentences(400), "label": [i % 2 for i in range(400)]}).to_parquet(path)
    return MaskedLmTask(str(path), 0.2, "cpu")


def test_documents_are_on_one_side_with_their_copies_and_none_of_the_test():
    texts = sentences(300)
    found = split_documents([texts, texts[:50]], texts[280:], 0.2)
    train_, validation, test = (set(found[rows]) for rows in ("train", "validation", "test"))
    assert not train_ & validation and not test & (train_ | validation)
    assert train_ | validation | test == set(texts)
    assert 0.1 < len(validation) / 280 < 0.3
    assert len(found["train"]) + len(found["validation"]) == 280 + 50  # copies stay, side by side
    reordered = split_documents([texts[::-1]], texts[280:], 0.2)
    assert set(reordered["validation"]) == validation  # a document's side is its content's


def test_the_test_is_a_fixed_part_of_a_long_one(monkeypatch):
    monkeypatch.setattr(masked_lm_task, "TEST_DOCUMENTS", 10)
    texts = sentences(100)
    first = split_documents([texts[:50]], texts[50:], 0.2)["test"]
    assert len(first) == 10 and split_documents([texts[:50]], texts[:49:-1], 0.2)["test"] == first


@pytest.mark.parametrize(
    ("fraction", "message"), [(1.0, "must lie between 0 and 1"), (1e-9, "No document is left for validation")]
)
def test_a_fraction_that_leaves_nothing_is_refused(fraction, message):
    with pytest.raises(UserError, match=message):
        split_documents([sentences(20)], ["a test"], fraction)


def test_the_tokenizer_is_the_same_in_every_process_and_begins_with_the_special_tokens():
    program = (
        "from paper_repro.data.wordpiece import train_wordpieces\n"
        "print(train_wordpieces(['the thin cat thawed', 'a bath, then thinner'] * 3, 60).to_str())"
    )
    outputs = {subprocess.check_output([sys.executable, "-c", program], text=True) for _ in range(2)}
    assert len(outputs) == 1
    tokenizer = train_wordpieces(sentences(50), 120)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    assert vocabulary[:5] == list(SPECIAL) and len(vocabulary) <= 120
    assert tokenizer.encode("The FILM<br />was g\u00f6od").tokens == ["[CLS]", "the", "film", "was", "good", "[SEP]"]
    assert tokenizer.encode("the", "film").tokens == ["[CLS]", "the", "[SEP]", "film", "[SEP]"]


def test_the_users_own_text_is_packed_and_its_masks_are_fixed_where_it_is_evaluated(task):
    assert task.label.startswith("reviews-") and task.unit == "sequences"
    assert task.train_rows == len(task.documents["train"]) and len(task.documents["train"]) < 320
    tokens = data.encode(task._splits["train"], task.tokenizer(SPEC), 1000)
    train_source, validation = task.source(SPEC, "train"), task.source(SPEC, "validation")
    assert isinstance(train_source, MaskedSource) and len(train_source) == len(tokens.ids) // 16
    assert np.array_equal(train_source.rows.numpy().ravel(), tokens.ids[: len(tokens.ids) // 16 * 16])
    batches = [validation.batch(torch.tensor([3, 1]), torch_rng(step, "step")) for step in (0, 1)]
    assert torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])
    assert batches[0]["label"].shape == (2, 2) and (batches[0]["input_ids"] == MASK).any()
    assert task.where(batches[0]) is None


def test_models_of_one_repetition_start_from_the_same(task):
    first, again, other = (task.build(SPEC, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(first["tokens.weight"], again["tokens.weight"])
    assert not torch.equal(first["tokens.weight"], other["tokens.weight"])
    assert len(first["tokens.weight"]) == task.tokenizer(SPEC).get_vocab_size() <= 120


def test_a_model_gets_better_at_the_task(task):
    model = task.build(SPEC, 0)
    before = task.quality(SPEC, model, "validation")
    source = task.source(SPEC, "train")
    train(model, source, lambda net, b, _: task.task_loss(forward(net, b), b), SPEC.train, seed=0)
    after = task.quality(SPEC, model, "validation")
    assert [(m.name, m.unit, m.split) for m in after] == [
        ("loss", "nat", "validation"), ("accuracy", "fraction", "validation")
    ]  # fmt: skip
    assert after[0].n == 2 * len(task.source(SPEC, "validation"))
    assert before[0].value == pytest.approx(math.log(task.tokenizer(SPEC).get_vocab_size()), abs=0.9)
    assert after[0].value < before[0].value - 1.0 and after[1].value > before[1].value
    assert model.training  # as it was


def test_quality_is_over_all_hidden_positions_of_all_batches(task, monkeypatch):
    model, source = task.build(SPEC, 0).eval(), task.source(SPEC, "test")
    whole = source.batch(torch.arange(len(source)), torch_rng(0, "step"))
    with torch.no_grad():
        logits = forward(model, whole)
    monkeypatch.setattr(masked_lm_task, "EVALUATION_BATCH", 7)
    loss, accuracy, count = masked_quality(model, source, "cpu")
    assert loss == pytest.approx(float(task.task_loss(logits, whole)), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(-1) == whole["label"]).double().mean()))
    assert count == whole["label"].numel()
    assert masked_quality(model, task.source(SPEC, "test", everywhere=True), "cpu") == pytest.approx(
        (loss, accuracy, count), rel=1e-5
    )


def test_the_loss_is_over_hidden_positions_with_smoothed_labels(task):
    logits = torch.tensor([[[2.0, 0.0, 1.0], [9.0, 9.0, 0.0]]])
    batch = {"label": torch.tensor([[0, IGNORED]])}
    total = math.log(math.exp(2) + 1 + math.exp(1))
    assert float(task.task_loss(logits, batch, 0.0)) == pytest.approx(total - 2)
    assert float(task.task_loss(logits, batch, 0.3)) == pytest.approx(0.7 * (total - 2) + 0.3 * (total - 1))


def test_flops_count_the_head_where_it_is_computed(task):
    vocabulary, dim, length = task.tokenizer(SPEC).get_vocab_size(), 16, 16
    encoder = length * 12 * dim**2 + 2 * length**2 * dim  # multiply-accumulates of one layer
    head = dim**2 + dim * vocabulary  # per position
    assert task.flops(SPEC) == 2 * (encoder + 2 * head)
    assert task.flops(SPEC, everywhere=True) == 2 * (encoder + length * head)


def test_a_tokenizer_with_other_special_tokens_and_too_little_text_are_refused(task, monkeypatch):
    from paper_repro import zoo

    monkeypatch.setattr(zoo, "load_tokenizer", lambda name: zoo_like())
    with pytest.raises(UserError, match=r"the tokenizer 'minilm-l6' do not begin with \[PAD\]"):
        task.tokenizer(SPEC.model_copy(update={"tokenizer": "minilm-l6"}))
    with pytest.raises(UserError, match="do not fill one block of 1000000 tokens"):
        task.source(SPEC.model_copy(update={"max_length": 1_000_000}), "validation")


def zoo_like():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))


def test_provenance_and_fingerprint_name_the_data(task):
    found = task.provenance()
    assert found["train_fingerprint"] == task.fingerprint
    assert found["rows"]["train_documents"] == task.train_rows
    assert MaskedLmTask(task.dataset, 0.3, "cpu").fingerprint != task.fingerprint


def test_imdb_has_its_unlabelled_reviews(data_root, monkeypatch):
    read = []
    monkeypatch.setattr(masked_lm_task, "split_documents", lambda train, test, _: read.append(train) or NOTHING)
    MaskedLmTask("imdb", 0.01, "cpu")
    assert [len(part) for part in read[0]] == [25_000, 50_000]


NOTHING = {rows: ["a text"] for rows in ("train", "validation", "test")}


def test_quality_leaves_the_mode_of_the_model_as_it_was(task):
    model = task.build(SPEC, 0)
    assert isinstance(model, nn.Module)
    masked_quality(model.eval(), task.source(SPEC, "test"), "cpu")
    assert not model.training
