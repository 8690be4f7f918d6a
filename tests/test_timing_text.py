"""The timing table of text classifiers on small models, and what a training step costs as the table grows."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared_work import spin, trouble

from paper_repro import zoo
from paper_repro.errors import UserError
from paper_repro.results.schema import Metric
from paper_repro.timing import competitors as shop
from paper_repro.timing import peers, ratio
from paper_repro.timing.competitors import Materials, build
from paper_repro.timing.harness import MIN_ROUNDS
from paper_repro.timing.text import (
    READ,
    Net,
    Pass,
    TextTiming,
    alike_batches,
    as_many_as_fit,
    time_text_models,
)
from paper_repro.timing.training_step import TorchStudent, _spread, label, time_training_step
from paper_repro.timing.workers import Family, Workers
from paper_repro.train import TrainConfig, make_optimizer
from paper_repro.zoo.dan import Dan

SMALL = {"vocab_size": 600}
CONFIG = TextTiming(
    dataset="docstrings",
    nets=(
        Net(name="roberta-large", model="transformer", options={**SMALL, "dim": 32, "layers": 1}),
        Net(name="lstm", model="lstm", options={**SMALL, "embedding": 8, "hidden": 4}),
        Net(name="cnn", model="cnn", options={**SMALL, "embedding": 8, "channels": 8}),
    ),
    students=("dan", "dan-bf16", "dan-int8", "dan-torch", "dan-padded"),
    peers=("sklearn", "tfidf-lr"),
    rows=2_000,
    dim=32,
    batch=8,
    max_length=64,
    subwords=600,
    fitted_on=200,
    documents=48,
    rounds=MIN_ROUNDS,
    block_s=0.01,
    threads=1,
)


# ---------------------------------------------------------------------------------------------------------------------
# Which texts are timed


def texts_of(lengths: list[int]) -> list[str]:
    return [f"{number} ".ljust(length, "x") for number, length in enumerate(lengths)]


def test_all_batches_have_the_same_lengths_and_no_text_comes_twice():
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 1003).astype(int) + 10
    texts = texts_of(lengths.tolist())
    batches = alike_batches(texts, 16)
    assert len(batches) == 62 and all(len(batch) == 16 for batch in batches)
    assert len({text for batch in batches for text in batch}) == 62 * 16
    parts = np.array_split(np.sort(lengths), 16)
    for batch in batches:
        assert [texts.index(text) for text in batch] == sorted(texts.index(text) for text in batch)
        drawn = np.sort([len(text) for text in batch])
        assert all(part[0] <= length <= part[-1] for part, length in zip(parts, drawn, strict=True))
    means = [np.mean([len(text) for text in batch]) for batch in batches]
    off = np.abs(np.array(means) - lengths.mean())
    assert (np.diff(off) >= 0).all() and off[0] < 1
    assert batches == alike_batches(texts, 16) != alike_batches(texts, 16, seed=1)


def test_fewer_documents_are_alike_too():
    texts = texts_of(list(range(10, 1010)))
    few = alike_batches(texts, 10, documents=39)
    assert len(few) == 3
    assert np.mean([len(text) for batch in few for text in batch]) == pytest.approx(509.5, rel=0.05)
    with pytest.raises(UserError, match="There are 1,000 texts"):
        alike_batches(texts, 1001)
    with pytest.raises(UserError, match="smaller"):
        alike_batches(texts, 10, documents=9)


@pytest.mark.parametrize(("seconds", "batches"), [(3.0, 1), (0.5, 2), (0.01, 100), (1e-4, 200)])
def test_a_pass_has_as_many_batches_as_last_a_block(seconds, batches):
    now, calls, prepared = [0.0], [], []

    def function(batch):
        calls.append(batch)
        now[0] += 100.0 if len(calls) == 1 else seconds  # compilation

    def prepare(batch):
        prepared.append(batch)
        return batch

    texts = [[f"{number} " + 300 * "x"] * 4 for number in range(200)]
    found = as_many_as_fit(function, prepare, texts, 1.0, lambda: None, lambda: now[0])
    assert [len(text) for text in calls[0]] == [200, 200]
    assert found.inputs == found.texts == texts[:batches] and found.documents == 4 * batches
    assert len(prepared) == 1 + max(batches, 1)  # nothing is prepared that is not used
    started, before = now[0], len(calls)
    found.run()
    assert calls[before:] == texts[:batches] and now[0] - started == pytest.approx(seconds * batches)


def test_a_pass_calls_its_function_on_each_input():
    seen: list[int] = []
    Pass(seen.append, [1, 2, 3], [["a"], ["b"], ["c"]]).run()
    assert seen == [1, 2, 3]


# ---------------------------------------------------------------------------------------------------------------------
# The table


@pytest.fixture(scope="module")
def outcome():
    threads = torch.get_num_threads()
    found = time_text_models(CONFIG)
    assert torch.get_num_threads() == threads and not torch.is_inference_mode_enabled()
    return found


def values(outcome) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in outcome["metrics"]}


NETS = ("roberta-large", "lstm", "cnn")
TIMED = {
    *(f"{name}/{column}" for name in (*NETS, *CONFIG.students) for column in ("model", "tokenise", "end_to_end")),
    "sklearn/tokenise",
    "tfidf-lr/end_to_end",
}


def test_the_table_has_every_column_that_makes_sense(outcome):
    samples = outcome["samples"]
    assert {name for name in samples if not name.endswith("_other_cores")} == TIMED | {READ}
    for name, series in samples.items():
        assert len(series) == MIN_ROUNDS, name
        assert name.endswith("_other_cores") or (np.array(series) > 0).all()
    assert len({Metric(**metric).name for metric in outcome["metrics"]}) == len(outcome["metrics"])
    assert set(outcome) == {"metrics", "samples", "cost", "protocol", "clocks"}


def test_metrics_follow_from_the_samples(outcome):
    found, samples = values(outcome), outcome["samples"]
    for name in TIMED:
        per_s = 1 / np.array(samples[name])
        assert found[f"{name}_per_s"] == pytest.approx(np.median(per_s))
        assert found[f"{name}_per_s/low"] == per_s.min() and found[f"{name}_per_s/high"] == per_s.max()
        reference = samples.get(f"roberta-large/{name.partition('/')[2]}")
        assert found[f"speedup/{name}"] == pytest.approx(ratio(reference, samples[name]).estimate)
    assert found["speedup/roberta-large/end_to_end/low"] == 1.0
    for name in NETS:  # tokenised alike, so timed once
        assert samples[f"{name}/tokenise"] == samples["roberta-large/tokenise"]
    assert outcome["protocol"]["timed_as"]["cnn/tokenise"] == "roberta-large/tokenise"
    assert samples["dan/model"] != samples["dan-int8/model"]


def test_seconds_are_per_document(outcome):
    protocol, samples = outcome["protocol"], outcome["samples"]
    for name, documents in protocol["documents_per_call"].items():
        assert documents == 8 * protocol["batches_per_call"][name] <= 48
        assert protocol["mean_characters"][name] == pytest.approx(protocol["mean_characters_of_all"], rel=0.1)
    assert sum(samples["roberta-large/model"]) < outcome["clocks"]["rounds_s"]


def test_sizes_and_look_ups_are_told(outcome):
    found = values(outcome)
    assert found["dan/params"] == found["dan-torch/params"] == 2_000 * 32 + 32 * 33 + 4 * 33
    assert found["memory/dan-torch"] == 4 * found["dan-torch/params"]
    assert found["memory/dan"] > found["memory/dan-bf16"] > found["memory/dan-int8"]
    assert found["dan/bytes_per_look_up"] == found["dan-torch/bytes_per_look_up"] == 4 * 32
    assert found["dan-bf16/bytes_per_look_up"] == 2 * 32 and 32 + 4 <= found["dan-int8/bytes_per_look_up"] < 2 * 32
    assert found["dan/table_bytes"] == 4 * 32 * 2_000
    each = found["dan/look_ups_per_document"]
    assert 5 < each < 200 and 5 < found["dan/distinct_rows"] <= 2_000
    assert found["dan/look_up_ns"] == pytest.approx(1e9 * np.median(outcome["samples"]["dan/model"]) / each)
    assert found["dan/share_of_read"] == pytest.approx(
        np.median(np.array(outcome["samples"][READ]) * 128 * each / np.array(outcome["samples"]["dan/model"]))
    )
    assert outcome["cost"]["memory/dan"] == found["memory/dan"]
    assert "sklearn/params" not in found


def test_a_configuration_survives_its_record():
    assert TextTiming.model_validate(CONFIG.model_dump(mode="json")) == CONFIG
    paper = TextTiming(dataset="imdb")
    assert paper.rows * paper.dim == 1_000_000_000 and paper.batch == 32 and paper.reference == "roberta-large"


# ---------------------------------------------------------------------------------------------------------------------
# The competitors


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    found = Materials(CONFIG, "cpu", tmp_path_factory.mktemp("materials"), 0)
    yield found
    found.close()


@pytest.fixture(scope="module")
def built(materials):
    return build(materials)[0]


TEXTS = ["draw the axes of the figure in the given color", "", "the estimator is fitted to the data, and then", "x y z"]


def test_labels_from_raw_text_are_those_of_the_models_own_output(built, materials):
    with torch.inference_mode():
        for name, one in built.items():
            if one.end_to_end is None:
                continue
            labels = one.end_to_end(TEXTS)
            assert len(labels) == 4 and set(labels) <= set(materials.train.classes), name
            if one.model is not None:
                numbers = torch.as_tensor(one.model(one.tokenise(TEXTS))).argmax(1)
                assert list(labels) == [materials.train.classes[number] for number in numbers], name


def test_the_students_compute_the_same_thing(built):
    with torch.inference_mode():
        logits = {
            name: torch.as_tensor(built[name].model(built[name].tokenise(TEXTS))).float()
            for name in ("dan", "dan-bf16", "dan-int8", "dan-torch", "dan-padded")
        }
    assert torch.allclose(logits["dan"], logits["dan-torch"], atol=1e-5)
    assert torch.allclose(logits["dan-padded"], logits["dan-torch"], atol=1e-5)
    spread = logits["dan"].std()
    for name in ("dan-bf16", "dan-int8"):
        assert (logits[name] - logits["dan"]).abs().max() < 0.05 * spread, name


def test_scikit_learn_finds_the_same_ngrams(built, materials):
    counts = built["sklearn"].tokenise(TEXTS)
    bags = materials.vocabulary.transform(TEXTS)
    assert counts.shape == (4, 2_000) and counts.sum() == len(bags.ids) > 10
    for row in range(4):
        ids = bags.ids[bags.offsets[row] : bags.offsets[row + 1]]
        assert np.array_equal(counts[row].toarray()[0], np.bincount(ids, minlength=2_000))


def test_subwords_are_cut_padded_and_those_of_roberta(built):
    ids, mask = built["roberta-large"].tokenise(["a b", "the data " * 200])
    assert ids.shape == mask.shape == (2, 64) and mask.sum(1).tolist() == [int((ids[0] != 1).sum()), 64]
    assert ids[:, 0].tolist() == [0, 0] and ids[1, -1] == 2 and ids.max() < 600


def test_padding_does_not_change_the_student(materials):
    model = materials.dan
    with torch.inference_mode():
        ids, offsets = torch.tensor([5, 6, 5]), torch.tensor([0, 3, 3])
        padded = torch.tensor([[5, 6, 5, 1_999], [1_999] * 4])
        found = shop.padded_logits(model, (padded, torch.tensor([3, 0])))
        assert torch.allclose(found, model(ids, offsets), atol=1e-6)


def test_what_is_missing_is_left_out_and_said(monkeypatch, materials):
    monkeypatch.setitem(peers.PACKAGES, "fasttext", ("no_such_package",))
    config = CONFIG.model_copy(update={"nets": CONFIG.nets[:1], "students": (), "peers": ("fasttext",)})
    monkeypatch.setattr(materials, "config", config)
    found, skipped = build(materials)
    assert list(found) == ["roberta-large"] and skipped == {"fasttext": "the package no_such_package is not installed"}
    with pytest.raises(UserError, match=r"'fasttext' is not timed \(the package no_such_package"):
        time_text_models(config.model_copy(update={"reference": "fasttext"}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"students": ("dan-fp8",)}, "no student 'dan-fp8'"),
        ({"students": ("dan-torch-1core",)}, "no student 'dan-torch-1core'"),
        ({"peers": ("svm",)}, "no peer 'svm'"),
        ({"nets": (CONFIG.nets[0], CONFIG.nets[0]), "peers": ()}, "Two competitors are called"),
        ({"nets": (Net(name="x", model="roberta-huge"),)}, "no model 'roberta-huge'"),
    ],
)
def test_a_wrong_name_is_one_sentence(monkeypatch, materials, changes, message):
    monkeypatch.setattr(materials, "config", CONFIG.model_copy(update={"students": (), **changes}))
    with pytest.raises(UserError, match=message):
        build(materials)


def test_a_table_that_does_not_fit_is_refused(monkeypatch, materials):
    with pytest.raises(UserError, match="make rows or dim smaller"):
        materials._check_room(10_000_000, 1_000_000)


def test_parts_of_alike_lengths_give_the_logits_of_the_whole_batch_with_less_padding():
    model = zoo.build("transformer", 3, vocab_size=50, dim=16, layers=1).eval()
    lengths = torch.tensor([3, 12, 1, 7, 2, 9, 5])
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids = torch.randint(1, 50, (7, 12)) * mask
    seen = []

    def watched(ids, mask):
        seen.append(tuple(ids.shape))
        return model(ids, mask)

    with torch.inference_mode():
        torch.testing.assert_close(shop.in_parts(watched, 3)((ids, mask)), model(ids, mask))
    assert seen == [(3, 3), (3, 9), (1, 12)]


def test_minilm_in_onnx_reads_batches_of_any_shape(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = peers.OnnxMiniLM(3, tmp_path, threads=1)
    ids = np.arange(100, 112).reshape(2, 6)
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    both = model(ids, mask)
    alone = model(ids[1:, :4], mask[1:, :4])
    assert both.shape == (2, 3) and np.isfinite(both).all()
    assert np.abs(both[1] - alone[0]).max() < 0.1 * both.std() + 0.02
    assert model.path.stat().st_size < 1.2 * model.params


# ---------------------------------------------------------------------------------------------------------------------
# Sharing work among threads and processes


def test_workers_keep_the_order_and_pass_errors_on():
    workers = Workers(partial(partial, trouble), 2)
    try:
        assert workers(list("abcde")) == [["A", "B", "C"], ["D", "E"]]
        assert workers(["a"]) == [["A"]] and workers([]) == []
        with pytest.raises(UserError, match="No"):
            workers(["a", "fail"])
        assert workers(["b"]) == [["B"]]
        with pytest.raises(RuntimeError, match="has died"):
            workers(["die"])
    finally:
        workers.close()
    with pytest.raises(TypeError):
        Workers(partial(int, []), 1)  # what cannot be made is said at once


def test_the_work_of_children_is_not_that_of_others():
    machine = Family()
    workers = Workers(partial(partial, spin), 1)
    try:
        before = machine.read()
        workers([0.5])
        after = machine.read()
    finally:
        workers.close()
    assert after.own_cpu_s - before.own_cpu_s == pytest.approx(0.5, abs=0.15)


# ---------------------------------------------------------------------------------------------------------------------
# A training step


def test_the_cost_of_a_step_is_told_per_table():
    found = time_training_step(
        [100, 1_000, 10_000], dim=4, batch=4, ngrams=20, batches=2, compared_at=1_000, rounds=MIN_ROUNDS, block_s=0.005
    )
    names = {f"v{size}{kind}/step" for size in ("100", "1k", "10k") for kind in ("", "-first-rows")}
    names.add("torch-v1k/step")
    samples = found["samples"]
    assert {name for name in samples if not name.endswith("_other_cores")} == names
    assert all(len(samples[name]) == MIN_ROUNDS for name in names)
    metrics = values(found)
    assert metrics["v10k/step_s"] == np.median(samples["v10k/step"])
    assert metrics["growth/v10k"] == pytest.approx(ratio(samples["v10k/step"], samples["v100/step"]).estimate)
    assert metrics["speedup/torch-v1k"] == pytest.approx(ratio(samples["torch-v1k/step"], samples["v1k/step"]).estimate)
    assert found["cost"]["v100/params"] == sum(p.numel() for p in Dan(2, 100, 4).parameters())
    assert all(Metric(**metric) for metric in found["metrics"])
    with pytest.raises(UserError, match="at least two"):
        time_training_step([100])


def test_every_table_gets_the_same_work_at_random_places():
    ids = torch.randint(50, (400,))
    rows, offsets, labels = _spread((ids, torch.tensor([0, 400]), torch.tensor([1])), 50, 10_000, 0, 3)
    assert offsets.tolist() == [0, 400] and labels.tolist() == [1]
    assert torch.equal(rows[:, None] == rows[None], ids[:, None] == ids[None])  # equal where the ids are
    assert 0 <= rows.min() < 2_000 and 8_000 <= rows.max() < 10_000
    assert not torch.equal(rows, _spread((ids, offsets, labels), 50, 10_000, 0, 4)[0])
    assert label(10_000) == "v10k" and label(2_000_000) == "v2m" and label(1_234) == "v1234"


def test_torchs_own_student_takes_the_same_step():
    torch.manual_seed(0)
    theirs, ours = TorchStudent(50, 4), Dan(2, 50, 4)
    ours.load_state_dict(
        {
            "table.weight": theirs.table.weight, "layers.0.weight": theirs.hidden.weight,
            "layers.0.bias": theirs.hidden.bias, "head.weight": theirs.head.weight, "head.bias": theirs.head.bias,
        }
    )  # fmt: skip
    recipe = TrainConfig(steps=1, global_batch=1, optimizer="sparse_adam", lr=1e-3, schedule="constant")
    steps = [(theirs, theirs.optimizer()), (ours, make_optimizer(ours, recipe).step)]
    ids, offsets, labels = torch.randint(50, (30,)), torch.arange(0, 31, 10), torch.tensor([0, 1, 1])
    for model, update in steps:
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            F.cross_entropy(model(ids, offsets), labels).backward()
            update()
    assert torch.allclose(theirs.table.weight, ours.table.weight, atol=1e-6)
    assert torch.allclose(theirs.head.weight, ours.head.weight, atol=1e-6)
