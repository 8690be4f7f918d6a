"""The experiment: which cells exist, what decides a student, and that nothing is learnt or chosen from test data."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer

from experiments import sparse_distillation as sparse
from paper_repro import data
from paper_repro.config import load_yaml
from paper_repro.data.corpora import CorpusSpec
from paper_repro.data.text import plain_words
from paper_repro.errors import UserError
from paper_repro.paths import REPO

TIERS = ("smoke", "cpu", "gpu", "paper")


def config(tier="smoke"):
    return load_yaml(REPO / "experiments" / "configs" / "sparse" / f"{tier}.yaml", sparse.CONFIG)


def training(name, model="dan"):
    task = config().tasks[0]
    return next(
        t for t in sparse.trainings(config(), task) if (t.method.name, sparse.name_of(t.student)) == (name, model)
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a teacher that is never asked: logits are made up, so that nothing needs training."""
    monkeypatch.setenv("PAPER_REPRO_CACHE", str(tmp_path))
    sparse._task.cache_clear()
    sparse._ngram_reader.cache_clear()

    def logits(labels, device):
        texts = labels.texts().texts
        return torch.tensor([[len(text) % (3 + k) for k in range(4)] for text in texts], dtype=torch.float32)

    monkeypatch.setattr(sparse, "teacher_logits", logits)
    yield tmp_path
    sparse._task.cache_clear()
    sparse._ngram_reader.cache_clear()


@pytest.mark.parametrize("tier", TIERS)
def test_every_cell_has_its_own_key_and_comes_after_what_it_needs(tier):
    cells = sparse.cells(config(tier))
    assert len({cell.key() for cell in cells}) == len(cells)
    assert len({cell.name for cell in cells if cell.experiment == "student"}) == sum(
        cell.experiment == "student" for cell in cells
    ), "records of different cells are told apart by their names"
    stage = {}
    for cell in cells:
        if cell.experiment == "student":
            stage[cell.dataset, cell.model, cell.method] = cell.stage
    for (dataset, model, method), number in stage.items():
        start = method.removesuffix("-head").removesuffix("+ft")
        if start != method:
            assert stage[dataset, model, start] < number


def test_parameters_survive_the_record():
    for cell in sparse.cells(config()):
        if "training" in cell.params:
            again = sparse.Training.model_validate(cell.params["training"])
            assert again.plain() == cell.params["training"]


def test_methods_of_one_repetition_start_from_the_same_model(cache):
    models = [sparse.fresh(training(name), 3, "cpu") for name in ("scratch", "kd")]
    assert torch.equal(models[0].table.weight, models[1].table.weight)
    assert not torch.equal(models[0].table.weight, sparse.fresh(training("kd"), 4, "cpu").table.weight)


def test_a_bigger_share_of_the_corpus_holds_the_smaller_and_no_test_text(cache, monkeypatch):
    task = sparse._task(sparse._key(training("kd").task), "cpu")
    corpus = CorpusSpec(name="docstrings-unlabelled")
    texts = corpus.load().texts
    task.tests.add(plain_words(texts[5].upper()))
    rows = task.corpus_rows(corpus)
    assert sorted(rows) == [row for row in range(len(texts)) if row != 5]
    bags = {}
    for name in ("kd-u25", "kd"):
        source, _ = sparse._lesson(training(name), task, "cpu")
        bags[name] = source
    train = len(task.split.train)
    assert len(bags["kd-u25"]) == train + round(0.25 * len(rows))
    small, big = (bags[name].bags for name in ("kd-u25", "kd"))
    assert np.array_equal(small.ids, big.ids[: len(small.ids)])


def test_distillation_reads_no_labels(cache):
    task = sparse._task(sparse._key(training("kd").task), "cpu")
    source, loss = sparse._lesson(training("kd"), task, "cpu")
    batch = source.batch(torch.arange(8), torch.Generator())
    model = sparse.fresh(training("kd"), 0, "cpu").eval()
    value = loss(model, batch, None)
    assert torch.equal(value, loss(model, {**batch, "label": (batch["label"] + 1) % 4}, None))
    teacher = batch["teacher_logits"].log_softmax(1)
    student = model(batch["bags"].ids, batch["bags"].offsets).log_softmax(1)
    kl = (teacher.exp() * (teacher - student)).sum(1).mean()
    entropy = -(teacher.exp() * teacher).sum(1).mean()
    torch.testing.assert_close(value, kl + entropy)  # KL(teacher || student) up to what does not depend on the student


def test_validation_rows_are_in_no_lesson_and_test_labels_decide_nothing(cache):
    results = []
    for shift in (0, 1):
        sparse._task.cache_clear()
        task = sparse._task(sparse._key(training("scratch").task), "cpu")
        task.parts["test"].labels[:] = (task.parts["test"].labels + shift) % 4
        source, _ = sparse._lesson(training("scratch"), task, "cpu")
        assert len(source) == len(task.split.train)
        assert not set(task.split.train) & set(task.split.validation)
        one = sparse._single(training("scratch"), 1e-2)
        model, _ = sparse.trained(one, 0, "cpu")
        results.append((model.table.weight.detach().clone(), sparse._validation(one, model, "cpu")))
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]


def test_the_rate_with_the_best_validation_accuracy_is_taken_and_serves_the_variants(monkeypatch):
    accuracies = {3e-3: 0.7, 1e-2: 0.8}
    monkeypatch.setattr(sparse, "_tuned", lambda training, device: accuracies[training.lrs[0]])
    several = training("scratch").model_copy(update={"lrs": [1e-2, 3e-3]})
    assert sparse.rate(several, "cpu") == 1e-2
    assert sparse.rate(training("kd-c").model_copy(update={"rate_of": several}), "cpu") == 1e-2
    accuracies[1e-2] = 0.7
    assert sparse.rate(several, "cpu") == 3e-3, "among equals the smaller"


def test_fine_tuning_starts_from_the_kept_student(cache, monkeypatch):
    started = []

    def train(model, source, loss, recipe, **named):
        started.append(model.table.weight.detach().clone())
        torch.nn.init.constant_(model.head.bias, 7.0)
        return type("Result", (), {"clocks": {}})

    monkeypatch.setattr(sparse, "train", train)
    kept, _ = sparse.trained(training("kd"), 1, "cpu")
    sparse.trained(training("kd+ft"), 1, "cpu")
    assert len(started) == 2 and torch.equal(started[1], kept.table.weight)
    again, clocks = sparse.trained(training("kd"), 1, "cpu")
    assert len(started) == 2 and clocks == {} and torch.equal(again.head.bias, kept.head.bias)
    source, _ = sparse.trained(training("from"), 1, "cpu")
    again, _ = sparse.trained(training("from+ft-head"), 1, "cpu")
    assert torch.equal(again.table.weight, source.table.weight)
    for before, after in zip((*source.layers, source.head), (*again.layers, again.head), strict=True):
        assert not torch.equal(before.weight, after.weight), "the head is both layers"


def test_a_student_made_without_a_text_does_not_know_its_ngrams(cache):
    task = sparse._task(sparse._key(training("kd").task), "cpu")
    read = CountVectorizer(ngram_range=(1, 4)).build_analyzer()
    train = {ngram for row in task.split.train for ngram in read(task.parts["train"].texts[row])}
    corpus = {ngram for text in CorpusSpec(name="docstrings-unlabelled").load().texts for ngram in read(text)}
    known = {
        name: set(sparse.reader_of(training(name), "cpu").features.ngrams()) for name in config().students[0].methods
    }
    for name, ngrams in known.items():
        without_train, without_corpus = name == "kd-c" or name.startswith("from"), name == "scratch-own"
        assert (ngrams <= corpus) == without_train and (ngrams <= train) == without_corpus, name


def test_what_is_distilled_on_less_text_is_updated_as_often(cache, monkeypatch):
    steps = {}

    def train(model, source, loss, recipe, **named):
        steps[name] = recipe.total_steps(len(source))
        return type("Result", (), {"clocks": {}})

    monkeypatch.setattr(sparse, "train", train)
    for name in ("kd", "kd-c", "kd-train", "kd-u25", "from"):
        sparse.trained(training(name), 0, "cpu")
    assert len(steps) == 5 and len(set(steps.values())) == 1


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_users_own_files_give_cells_with_and_without_unlabelled_text(tmp_path):
    texts = [f"text number {i} is {'good' if i % 2 else 'bad'}" for i in range(100)]
    own = parquet(tmp_path / "own.parquet", text=texts, label=[i % 2 for i in range(100)])
    corpus = parquet(tmp_path / "more.parquet", text=[f"more {text}" for text in texts])
    methods = {cell.method for cell in sparse.cells(config(), data=own) if cell.experiment == "student"}
    assert {"scratch", "kd-train"} <= methods and not {"kd", "kd-c", "kd+ft"} & methods
    cells = sparse.cells(config(), data=own, corpus=corpus)
    assert {"kd", "kd-c", "kd+ft"} <= {cell.method for cell in cells}
    assert {cell.dataset for cell in cells} == {data.label(own)}
    keys = {cell.key() for cell in cells if cell.method == "kd"}
    parquet(tmp_path / "more.parquet", text=[f"other {text}" for text in texts])
    assert not keys & {cell.key() for cell in sparse.cells(config(), data=own, corpus=corpus)}, "another content"
    assert not any("/" in cell.method or str(tmp_path.name) in cell.method for cell in cells)
    with pytest.raises(UserError, match="needs a column text"):
        sparse.cells(config(), data=own, corpus=parquet(tmp_path / "bad.parquet", words=texts))
    with pytest.raises(UserError, match=r"no file .*none\.parquet"):
        sparse.cells(config(), data=own, corpus=str(tmp_path / "none.parquet"))
    with pytest.raises(UserError, match="images"):
        sparse.cells(config(), data="digits")


def test_the_plan_counts_teachers_and_students():
    rows = sparse.plan(config("paper"))
    assert {row["role"] for row in rows} == {"teacher", "student"}
    assert all(row["gpu_hours"] > 0 and row["disk_gb"] > 0 for row in rows)
    student = next(row for row in rows if row["role"] == "student")
    # one distillation of a million steps at the paper's 8 a second is 34.7 hours; each seed has three of them
    assert student["gpu_hours"] > 3 * 3 * 1e6 / 8 / 3600
