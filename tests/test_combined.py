"""The combined experiment: a task with one teacher, deployed models and cascades, its cells, and bad input."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from experiments import combined
from paper_repro import data, runner, zoo
from paper_repro.cascade.calibration import calibrate_threshold
from paper_repro.cascade.rules import margin
from paper_repro.cascade.served import BATCH, PIECES, Summoning, alike
from paper_repro.distill.image_task import ImageTask
from paper_repro.distill.kd import Distillation
from paper_repro.distill.ngram_student import NgramSpec
from paper_repro.distill.sentence_task import SentenceTask
from paper_repro.distill.taught import Reads, TaughtSpec, TaughtTexts, taught
from paper_repro.distill.teacher import ModelSpec
from paper_repro.errors import UserError
from paper_repro.timing.served import time_served
from paper_repro.train import Step, TrainConfig

ADAM = TrainConfig.model_validate(
    {"epochs": 1, "global_batch": 32, "optimizer": "adamw", "lr": 3e-3, "schedule": "linear"}
)
SGD = TrainConfig.model_validate(
    {"epochs": 1, "global_batch": 32, "optimizer": "sgd", "lr": 0.1, "schedule": "linear", "momentum": 0.9}
)
NGRAMS = NgramSpec(vocab=2000, dim=8, dropout=0.0, feature_dropout=0.0)
NET = ModelSpec(model="transformer", options={"dim": 16, "layers": 1}, max_length=32, train=ADAM)
IMAGES = ModelSpec(model="resnet8-w4", image_size=4, train=SGD)
PICTURES = Reads(spec=IMAGES)


def texts(**changes: Any) -> TaughtSpec:
    teacher = ModelSpec(model="transformer", options={"dim": 16}, max_length=32, train=ADAM)
    given = {
        "dataset": "docstrings", "modality": "text", "validation_fraction": 0.2, "teacher": teacher, "limit": 96,
        "corpus": {"name": "docstrings-unlabelled", "rows": 60}, "shards": 2,
    }  # fmt: skip
    return TaughtSpec.model_validate(given | changes)


def digits(**changes: Any) -> TaughtSpec:
    teacher = ModelSpec(model="resnet8-w4", train=SGD)
    given = {"dataset": "digits", "modality": "image", "validation_fraction": 0.2, "teacher": teacher, "limit": 96}
    return TaughtSpec.model_validate(given | changes)


# ---------------------------------------------------------------------------------------------------------------------
# A task with one teacher


def test_a_limit_takes_some_of_each_part_and_mixes_none() -> None:
    whole, part = taught(digits(limit=None), "cpu"), taught(digits(), "cpu")
    for name in ("train", "validation", "test"):
        assert part.size(name) == 96 and set(part.task.rows[name]) <= set(whole.task.rows[name])
    assert not set(part.task.rows["train"]) & set(part.task.rows["validation"])
    assert part.name_of("train") != whole.name_of("train"), "logits of one are not taken for those of the other"


def test_the_teachers_logits_do_not_depend_on_how_they_are_shared_out() -> None:
    one, three = taught(texts(shards=1), "cpu"), taught(texts(shards=3), "cpu")
    for part in ("validation", "corpus"):
        assert one.size(part) == len(three.teacher_logits(part))
        torch.testing.assert_close(one.teacher_logits(part), three.teacher_logits(part), rtol=1e-4, atol=1e-5)
    assert three.labelling_s(["validation", "corpus"]) > 0


def test_unlabelled_texts_that_are_also_held_out_are_left_out() -> None:
    subject = TaughtTexts(texts(), "cpu")
    before, again = len(subject.corpus[1]), TaughtTexts(texts(), "cpu")
    test, validation = (subject.corpus[0].texts[subject.corpus[1][place]] for place in (0, 1))
    again.sentences.parts["test"].texts.append(test.upper())
    again.sentences.parts["train"].texts[again.task.rows["validation"][0]] = validation
    assert len(again.corpus[1]) == before - 2


def test_n_grams_are_those_of_what_a_student_is_trained_on() -> None:
    subject = taught(texts(), "cpu")
    few, more = (
        subject.reader(Reads(spec=NGRAMS.model_copy(update={"vocab": 10**6}), corpus=c)) for c in (False, True)
    )
    assert few.features.size < more.features.size


def test_a_piece_of_nothing_has_no_logits() -> None:
    subject = taught(texts(limit=2, shards=3), "cpu")
    assert [len(subject.shard("test", number)) for number in range(3)] == [1, 1, 0]
    assert subject.teacher_logits("test").shape == (2, len(subject.classes))


@pytest.mark.parametrize("spec", [NET, NGRAMS, IMAGES], ids=["network", "n-grams", "images"])
def test_what_is_deployed_gives_the_logits_that_were_measured(spec: Any, tmp_path: Path) -> None:
    subject, student = taught(digits() if spec is IMAGES else texts(), "cpu"), Reads(spec=spec)
    model = subject.build(student, 0).eval()
    served = subject.served(student, model, tmp_path / "student")
    raw = subject.raw("test", np.arange(40))
    expected = subject.logits(student, model, "test")[:40]
    torch.testing.assert_close(torch.from_numpy(served.logits(raw)), expected, rtol=1e-3, atol=1e-4)
    alone = np.concatenate([served.logits(raw[row : row + 1]) for row in range(5)])
    np.testing.assert_allclose(alone, served.logits(raw)[:5], rtol=1e-3, atol=1e-4)


def test_the_deployed_teacher_gives_its_stored_logits() -> None:
    for spec in (texts(), digits()):
        subject = taught(spec, "cpu")
        found = subject.served_teacher().logits(subject.raw("test", np.arange(30)))
        np.testing.assert_allclose(found, subject.teacher_logits("test")[:30], rtol=1e-3, atol=1e-4)


@hypothesis.given(st.lists(st.integers(0, 2 * PIECES), max_size=100))
def test_few_long_texts_and_many_short_ones_make_a_batch(lengths: list[int]) -> None:
    batches = alike(np.array(lengths, dtype=np.int64))
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths))), "each text once"
    assert [lengths[row] for row in rows] == sorted(lengths), "texts of alike lengths together"
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or (len(batch) <= BATCH and len(batch) * longest <= PIECES)
    for batch, following in pairwise(batches):
        assert len(batch) == BATCH or (len(batch) + 1) * lengths[following[0]] > PIECES, "as many as go"


def test_a_cascade_asks_the_teacher_for_what_the_student_is_not_sure_of(tmp_path: Path) -> None:
    subject = taught(digits(), "cpu")
    student, teacher = subject.served(PICTURES, subject.build(PICTURES, 0).eval(), tmp_path), subject.served_teacher()
    raw = subject.raw("test", np.arange(60))
    own, best = student.logits(raw), teacher.logits(raw)
    sure = margin(torch.from_numpy(own)).numpy()
    rho = float(np.median(sure))
    found, deferred = Summoning(student, teacher, rho).answers(raw)
    assert set(deferred) == set(np.flatnonzero(sure < rho)) and 0 < len(deferred) < 60
    np.testing.assert_allclose(found, np.where((sure < rho)[:, None], best, own), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(Summoning(student, teacher, float("inf")).logits(raw), best, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(Summoning(student, teacher, 0.0).logits(raw), own, rtol=1e-4, atol=1e-5)


def test_deployed_models_are_timed_against_the_teacher(tmp_path: Path) -> None:
    subject = taught(digits(), "cpu")
    student, teacher = subject.served(PICTURES, subject.build(PICTURES, 0).eval(), tmp_path), subject.served_teacher()
    served = {"teacher": teacher, "net": student, "kd+teacher": Summoning(student, teacher, float("inf"))}
    found = time_served(served, subject.raw("test", np.arange(12)), singles=3, rounds=6, block_s=0.001)
    values = {metric["name"]: metric["value"] for metric in found["metrics"]}
    assert values["kd+teacher/deferred"] == 1.0 and "speedup/teacher/latency" not in values
    assert values["speedup/kd+teacher/throughput"] < values["speedup/net/throughput"], "it does the work of both"
    assert values["kd+teacher/weights_bytes"] == values["net/weights_bytes"] + values["teacher/weights_bytes"]
    assert len(found["samples"]["net/latency"]) == 6


# ---------------------------------------------------------------------------------------------------------------------
# Arms


def config(*arms: dict[str, Any], spec: TaughtSpec | None = None, **changes: Any) -> combined.CombinedConfig:
    students = {
        "net": {"spec": IMAGES if spec is None else NET, "lrs": [0.05, 0.1]},
        "ngrams": {"spec": NGRAMS, "recipe": {**ADAM.plain(), "optimizer": "sparse_adam"}, "lrs": [0.01]},
    }
    task = {
        "taught": spec or digits(), "students": students, "arms": arms, "timed_examples": 8, "timed_singles": 2
    }  # fmt: skip
    given = {"tier": "smoke", "seeds": 2, "timed_seeds": 1, "epsilon": 0.05, "delta": 0.2, "tasks": [task | changes]}
    return combined.CombinedConfig.model_validate(given)


def run_of(arm: dict[str, Any], spec: TaughtSpec | None = None) -> combined.Run:
    task = config({"name": "x", "student": "net", **arm}, spec=spec).tasks[0]
    return combined.run_of(task, task.arms[0])


def test_arms_without_a_teacher_are_tuned_while_it_trains_and_all_students_come_last() -> None:
    found = combined.cells(config({"name": "plain", "student": "net"}, {"name": "kd", "student": "net", "kd": {}}))
    stages = {(cell.experiment, cell.method): cell.stage for cell in found}
    assert stages["teacher", "teacher"] == stages["tuning", "plain"] == 0 and stages["labels", "train"] == 1
    assert stages["tuning", "kd"] == 2 and stages["student", "plain"] == stages["student", "kd"] == 3
    assert len({cell.key() for cell in found}) == len(found)


def test_an_arm_that_is_timed_is_the_same_run_as_one_that_is_not() -> None:
    assert run_of({"timed": True}) == run_of({"timed": False})


def test_the_loss_is_that_of_the_labels_the_teacher_and_the_window() -> None:
    model, logits = torch.nn.Linear(3, 4), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    labels, teacher = torch.tensor([0, 1, 2, 3, 0]), torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    batch = {"pixels": logits, "label": labels, "teacher_logits": teacher}

    def value(arm: dict[str, Any], step: int = 0) -> float:
        function = combined.training_loss(combined.Arm(name="x", student="net", **arm), model, 0)
        return float(function(lambda pixels: pixels, batch, Step(step, 10, lambda: None)))

    task = float(F.cross_entropy(logits, labels))
    p, q = F.log_softmax(teacher / 2, 1), F.log_softmax(logits / 2, 1)
    kl = 4 * float((p.exp() * (p - q)).sum(1).mean())
    assert value({}) == pytest.approx(task)
    kd = Distillation(temperature=2.0)
    assert value({"kd": kd}) == pytest.approx(0.1 * task + 0.9 * kl)
    half = kd.model_copy(update={"window": kd.window.model_copy(update={"end": 0.5})})
    assert value({"kd": half}, 4) == pytest.approx(0.1 * task + 0.9 * kl) and value({"kd": half}, 5) == pytest.approx(
        task
    )
    words = Distillation(temperature=2.0, task_weight=0, kd_weight=1)
    assert value({"kd": words, "corpus": True}) == pytest.approx(kl)


def test_majority_kernels_leave_a_plain_model_and_distilling_changes_it() -> None:
    plain, _ = combined.trained(run_of({}), 0, "cpu")
    majority, _ = combined.trained(run_of({"k": 2}), 0, "cpu")
    again, _ = combined.trained(run_of({"k": 2}), 0, "cpu")
    assert {n: v.shape for n, v in plain.state_dict().items()} == {n: v.shape for n, v in majority.state_dict().items()}
    pixels = torch.rand(4, 3, 4, 4)
    assert torch.equal(majority(pixels), again(pixels)), "a repetition is reproducible"
    distilled, _ = combined.trained(run_of({"kd": {}}), 0, "cpu")
    assert not torch.allclose(plain(pixels), distilled(pixels), atol=1e-4)


def test_a_student_reads_more_text_where_its_arm_says_so() -> None:
    words = {"task_weight": 0, "kd_weight": 1}
    _, few = combined.trained(run_of({"student": "ngrams", "kd": words}, texts()), 0, "cpu")
    _, more = combined.trained(run_of({"student": "ngrams", "kd": words, "corpus": True}, texts()), 0, "cpu")
    assert few.examples == 96 and more.examples == 32 * round((96 + taught(texts(), "cpu").size("corpus")) / 32)


@pytest.mark.parametrize(
    ("arm", "complaint"),
    [
        ({"student": "nobody"}, "names 'nobody', which its task lacks"),
        ({"student": "ngrams", "kd": {}, "corpus": True}, "'kd' with task_weight 0"),
        ({"student": "ngrams", "k": 2}, "has no majority kernels"),
    ],
)
def test_an_arm_that_cannot_be_is_one_sentence(arm: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        combined.cells(config({"name": "x", **arm}, spec=texts()))


# ---------------------------------------------------------------------------------------------------------------------
# Own data


@pytest.fixture
def own(tmp_path: Path) -> str:
    words = [f"w{i} w{i % 7} w{i % 3}" for i in range(200)]
    path = tmp_path / "own.parquet"
    pd.DataFrame({"text": words, "label": [i % 2 for i in range(200)]}).to_parquet(path)
    return str(path)


def test_own_text_takes_the_recipe_of_texts_for_as_many_examples(own: str) -> None:
    given = runner.load_config("combined", "smoke")
    found = combined.own_config(given, own)
    task, template = found.tasks[0], given.tasks[0]
    assert task.taught.corpus is None and not any(arm.corpus for arm in task.arms)
    assert task.taught.teacher.max_length == task.students["net"].spec.max_length == 32, "short texts"
    rows = 200 * 0.8 * (1 - task.taught.validation_fraction)
    epochs = task.taught.teacher.train.epochs
    assert epochs == pytest.approx(min(3 * template.taught.limit / rows, combined.MOST_EPOCHS))
    half = combined.own_config(given, own, thrift=combined.Thrift(share=0.5, teacher=0.5)).tasks[0]
    assert half.taught.teacher.train.epochs == pytest.approx(epochs / 2)
    assert half.students["ngrams"].recipe.epochs == pytest.approx(task.students["ngrams"].recipe.epochs / 2)
    few = combined.own_config(given, own, thrift=combined.Thrift(limit=50, longest=16, timed=5, singles=2)).tasks[0]
    assert (few.taught.limit, few.timed_examples, few.timed_singles) == (50, 5, 2)
    assert few.taught.teacher.max_length == few.students["net"].spec.max_length == 16
    labels = template.taught.model_copy(update={"label_length": 512})
    reads = given.model_copy(update={"tasks": [template.model_copy(update={"taught": labels})]})
    assert task.taught.label_length is None and combined.own_config(reads, own).tasks[0].taught.label_length == 32
    corpus = combined.own_config(given, own, "docstrings-unlabelled").tasks[0]
    assert corpus.taught.corpus is not None and any(arm.corpus for arm in corpus.arms)


def test_a_cascade_promises_what_the_held_out_examples_can_show(own: str) -> None:
    given = runner.load_config("combined", "smoke").model_copy(update={"epsilon": 0.001})
    held_out = 200 * 0.8 * given.tasks[0].taught.validation_fraction
    assert combined.own_config(given, own).epsilon == combined.MOST_LOST < combined.PROVABLE / held_out
    many = given.model_copy(update={"epsilon": 0.2})
    assert combined.own_config(many, own).epsilon == combined.MOST_LOST
    right, sure = np.ones(int(combined.PROVABLE / 0.05), dtype=bool), np.linspace(0.5, 1, int(combined.PROVABLE / 0.05))
    assert calibrate_threshold(sure, right, right, epsilon=0.05, delta=0.1) < 0.5, "enough for a perfect student"


def test_own_images_are_pooled_where_that_goes(tmp_path: Path) -> None:
    assert combined.own_config(config({"name": "plain", "student": "net"}), "digits").tasks[0].students[
        "net"
    ].spec.image_size == 4  # fmt: skip
    odd = config({"name": "plain", "student": "net"})
    student = odd.tasks[0].students["net"]
    spec = student.spec.model_copy(update={"image_size": 5})
    task = odd.tasks[0].model_copy(update={"students": {"net": student.model_copy(update={"spec": spec})}})
    found = combined.own_config(odd.model_copy(update={"tasks": [task]}), "digits")
    assert found.tasks[0].students["net"].spec.image_size is None


def test_own_data_of_another_kind_is_one_sentence(own: str) -> None:
    with pytest.raises(UserError, match="has no text task to take the recipe from"):
        combined.own_config(config({"name": "plain", "student": "net"}), own)
    with pytest.raises(UserError, match="leave --corpus out"):
        combined.own_config(config({"name": "plain", "student": "net"}), "digits", "docstrings-unlabelled")


def test_the_data_of_a_tier_and_of_its_corpora_are_named() -> None:
    assert combined.data_sets(runner.load_config("combined", "cpu")) == {
        "imdb", "sst2", "trec", "trec-coarse", "cifar10-jpeg", "qnli"
    }  # fmt: skip
    assert set(combined.data_sets(runner.load_config("combined", "paper"))) <= set(data.MANIFEST)


@pytest.mark.parametrize("tier", ["smoke", "cpu", "gpu"])
def test_every_network_of_a_tier_can_be_built(tier: str) -> None:
    subjects = {"text": SentenceTask("docstrings", 0.2, "cpu"), "image": ImageTask("digits", 0.2, "cpu")}
    for task in runner.load_config("combined", tier).tasks:
        networks = [one.spec for one in task.students.values() if isinstance(one.spec, ModelSpec)]
        for spec in (task.taught.teacher, *networks):
            options = subjects[task.taught.modality].options(spec)
            with torch.device("meta"):
                assert zoo.build(spec.model, 3, **{k: v for k, v in options.items() if k != "pretrained"}) is not None


def test_a_student_that_diverges_is_recorded_with_the_weights_it_began_with() -> None:
    run = combined._single(run_of({}), 1e12)
    outcome = combined._compute_student(run, {"epsilon": 0.05, "delta": 0.1}, 1, "cpu", False)
    found = {f"{metric.split}/{metric.name}": metric.value for metric in outcome.metrics}
    assert found["train/diverged"] == 1 and "train/seconds" not in found and found["test/accuracy"] < 0.3
    lost = found["test/cascade/missed"] - found["test/cascade/gained"]
    assert found["test/cascade/lost"] == pytest.approx(lost, abs=1e-12)
