"""The ledger of Sparse Distillation: transcribed rightly, every claim there, and judged by what it says."""

import re
from collections import Counter
from itertools import product

import pytest
import yaml
from synthetic_sparse import sparse_records

from paper_repro.ledger import judge_all, judge_results, listed, load_ledger, papers, read_verdicts, write_verdicts
from paper_repro.paths import REPO
from paper_repro.plots.claims import claims_table, counts_table
from paper_repro.report.readme import results_table
from paper_repro.results import Store, samples_to_frame, to_frame

TASKS = ("imdb", "sst2", "trec", "agnews", "ccom", "wtoxic")
CERTAINTY = {  # raising one of these needs a new source
    "1": "derived", "2": "quoted", "3": "derived", "4": "quoted", "5": "derived", "6": "derived", "7": "derived",
    "8": "derived", "9": "derived", "10": "derived", "11": "derived", "12": "quoted", "13": "derived",
    "14": "derived", "15": "derived", "16": "derived", "17": "derived", "18": "derived",
    "speed-cpu-model": "quoted", "speed-cpu-end-to-end": "derived", "speed-gpu-model": "quoted",
    "speed-gpu-end-to-end": "derived",
}  # fmt: skip
# What the experiment and the benchmark record. A check that asks for anything else could never be run.
DATASETS = {"imdb", "sst2", "trec", "trec-coarse", "docstrings"}
MODELS = {
    "dan", "dan-sum", "dan-max", "dan-attention", "dan-tanh", "dan-deep", "dan-deeper", "dan-whitespace", "dan-hashed",
    "dan-n1", "dan-n2", "dan-n3", "dan-v1m-d10", "dan-v333k-d30", "dan-v100k-d100", "dan-v1m-d30", "dan-v333k-d90",
    "dan-v100k-d300", "lstm", "cnn", "transformer", "tfidf-lr", "nbsvm", "fasttext", "model2vec",
}  # fmt: skip
METHODS = {
    "scratch", "kd-c", "kd", "kd+ft", "scratch+ft", "kd-train", "kd-u25", "scratch-own", "from-imdb", "from-sst2",
    "from-imdb+ft", "from-imdb+ft-head", "from-sst2+ft", "from-sst2+ft-head",
}  # fmt: skip
EVERYWHERE = {"accuracy", "cross_entropy", "teacher/accuracy", "agreement"}
OF_DAN = re.compile(
    r"accuracy/(n[123]|bf16|int8|fp32|keep-(train|all)/0\.(01|03|1|3))|cross_entropy/coverage-q[1-4]|slope/coverage"
)
COMPETITORS = {
    "roberta-large", "distilbert", "mobilebert", "distilroberta", "lstm", "cnn", "dan", "dan-bf16", "dan-int8",
    "dan-padded", "dan-torch", "dan-1core", "tfidf-lr", "fasttext", "model2vec", "minilm-onnx-int8", "sklearn",
    "sklearn-1core", "roberta-large-sorted",
}  # fmt: skip


@pytest.fixture(scope="module")
def sparse():
    return load_ledger("sparse")


# ----------------------------------------------------------------------------------------------------------------------
# The tables


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [
        ("T2.imdb.kd+ft", 93.5, "%"),
        ("T2.qqp.kd-c", 63.2, "%"),
        ("T2.wtoxic.transformer-base", 91.5, "%"),
        ("T3.ccom.dan-x", 1091, "times"),
        ("T3.trec.mobilebert", 402, "samples/s"),
        ("T4.accuracy.lstm-64", 95.3, "%"),
        ("T4.params-sparse.dan", 1000, "million"),
        ("T5.imdb.pooling-max", 91.8, "%"),
        ("T6.imdb-to-sst2.kd+ft-head", 86.7, "%"),
        ("T8.2b-d.v2m", 900, "dimensions"),
        ("T8.500m.v20m", 92.0, "%"),
        ("T9.imdb.ngram", 16.45, "seconds"),
        ("T10.agnews-size.n3", 882489, "n-grams"),
        ("T11.disk-gb.dan", 3.99, "GB"),
        ("T11.disk-fp16.roberta-large", 711, "MB"),
        ("T12.imdb.lstm-64", 94.0, "%"),
        ("T12.sst2-cpu-fp32.dan", 16478.6, "samples/s"),
        ("T12.sst2-gpu-fp16-x.cnn", 3, "times"),
        ("T13.dev-by-v0.trec", None, None),  # rows and columns do not change places
        ("T13.trec.dev-by-v0", 57.73, "%"),
    ],
)
def test_cells_read_by_hand(sparse, name, value, unit):
    found = {entry.id: entry for entry in sparse.entries}.get(f"sparse/{name}")
    assert (found and found.value, found and found.unit) == (value, unit)


def test_every_table_is_there_with_as_many_numbers_as_it_prints(sparse):
    cells = [entry for entry in sparse.entries if entry.table]
    assert Counter(entry.table for entry in cells) == {
        "T2": 9 * 7 - 4, "T3": 7 * 7, "T4": 10 * 8 - 3, "T5": 11, "T6": 6 * 2, "T8": 2 * 19, "T9": 3, "T10": 4 * 4,
        "T11": 15, "T12": 10 * 14 - 6, "T13": 6 * 6,
    }  # fmt: skip
    assert all((entry.kind, entry.certainty) == ("number", "quoted") and not entry.checks for entry in cells)
    assert all(entry.source.where.startswith(f"table {entry.table[1:]}") for entry in cells)
    assert all("{" not in entry.statement and entry.statement.endswith(".") for entry in cells)
    assert not {"sparse/T2.ccom.convnet", "sparse/T4.params-dense.lstm-4", "sparse/T8.500m.v40m"} & set(
        entry.id for entry in cells
    )


def test_accuracies_say_how_they_were_selected(sparse):
    for name in ("T2.imdb.kd", "T5.imdb.pooling-mean", "T6.sst2-to-imdb.kd-c", "T8.1b.v1m", "T10.imdb.n4"):
        entry = sparse.entry(name)
        assert entry.paper_seeds == 1 and "development set" in entry.selection_rule


@pytest.mark.parametrize(("row", "retention"), [("kd+ft", 97.1), ("kd", 96.4), ("kd-c", 96.1), ("scratch", 91.6)])
def test_the_retention_that_follows_from_table_2(sparse, row, retention):
    cells = sparse.tables["T2"].cells()
    mean = sum(cells[task, row] / cells[task, "teacher"] for task in TASKS) / 6
    assert 100 * mean == pytest.approx(retention, abs=0.05)


def test_the_share_of_the_gap_that_follows_from_table_2(sparse):
    cells = sparse.tables["T2"].cells()
    gaps = {task: cells[task, "teacher"] - cells[task, "scratch"] for task in TASKS}
    closed = {task: (cells[task, "kd+ft"] - cells[task, "scratch"]) / gaps[task] for task in TASKS}
    assert {task: round(100 * share) for task, share in closed.items()} == {
        "imdb": 65, "sst2": 54, "trec": 87, "agnews": 44, "ccom": 100, "wtoxic": 16
    }  # fmt: skip
    gain = [round(cells[task, "kd+ft"] - cells[task, "scratch"], 1) for task in TASKS]
    assert gain == [5.2, 9.0, 14.2, 1.9, 0.6, 0.3]


def test_multiples_are_quotients_of_the_speeds_unless_a_note_says_otherwise(sparse):
    odd = {"T3": {"sst2.mobilebert-x"}, "T4": {"gpu-fp32-x.cnn"}, "T12": {"imdb-gpu-fp32-x.cnn"}}
    odd["T12"] |= {f"sst2-gpu-{kind}-x.lstm-{units}" for kind in ("fp32", "fp16") for units in (4, 64, 256, 512)}
    compared = 0
    for name, half in (("T3", 0.5), ("T4", 0.05), ("T12", 0.05)):
        table = sparse.tables[name]
        cells = table.cells()
        for (column, row), printed in cells.items():
            if not (column.endswith("-x") or row.endswith("-x")):
                continue
            speed = cells[column.removesuffix("-x"), row.removesuffix("-x")]
            base = cells[column.removesuffix("-x"), "roberta-large"]
            low, high = (speed - half) / (base + half), (speed + half) / (base - half)
            agrees = round(low) <= printed <= round(high)
            assert agrees != (f"{column}.{row}" in odd[name]), (name, column, row)
            assert agrees or f"{column}.{row}" in table.notes
            compared += 1
    assert compared == 3 * 7 + 2 * 9 + 6 * 9


def test_tables_that_repeat_a_number_agree_unless_a_note_says_otherwise(sparse):
    two, three, four, six, twelve = (sparse.tables[name].cells() for name in ("T2", "T3", "T4", "T6", "T12"))
    rows = {"roberta-large": "teacher", "distilbert": "distilbert", "mobilebert": "mobilebert", "dan": "kd+ft"}
    for model, row in rows.items():
        assert twelve["imdb", model] == four["accuracy", model] == two["imdb", row]
        assert twelve["sst2", model] == two["sst2", row]
        assert abs(three["imdb", model] - twelve["imdb-gpu-fp32", model]) < 1
        assert f"sst2-gpu-fp32.{model}" in sparse.tables["T12"].notes
    for (column, row), value in four.items():
        repeated = twelve.get(({"accuracy": "imdb"}.get(column, f"imdb-{column}"), row))
        assert repeated in (None, value) or row == "lstm-64"
    assert four["accuracy", "lstm-64"] != twelve["imdb", "lstm-64"]
    for target, column in (("sst2", "imdb-to-sst2"), ("imdb", "sst2-to-imdb")):
        assert (six[column, "scratch"], six[column, "teacher-target"]) == (
            two[target, "scratch"],
            two[target, "teacher"],
        )
    assert two["imdb", "kd"] == sparse.entry("T5.imdb.pooling-mean").value == sparse.entry("T8.1b.v1m").value
    assert two["imdb", "kd+ft"] == pytest.approx(sparse.entry("T10.imdb.n4").value, abs=0.05)
    size = {"v1m": 1, "v2m": 2, "v4m": 4, "v5m": 5, "v10m": 10, "v20m": 20, "v40m": 40}
    for (column, row), dimension in sparse.tables["T8"].cells().items():
        if column.endswith("-d") and f"{column}.{row}" not in sparse.tables["T8"].notes:
            assert dimension * size[row] == {"500m": 500, "1b": 1000, "2b": 2000}[column[:-2]]


# ----------------------------------------------------------------------------------------------------------------------
# The claims


def test_every_claim_is_there_and_none_is_upgraded(sparse):
    assert {name: sparse.entry(name).certainty for name in CERTAINTY} == CERTAINTY
    assert {sparse.entry(name).kind for name in CERTAINTY} == {"claim"}
    assert sum("cpu" in sparse.entry(str(number)).checks for number in range(1, 19)) >= 14
    assert {entry.id for entry in sparse.entries if not entry.table and "cpu" not in entry.checks} == {
        "sparse/14", "sparse/speed-gpu-model", "sparse/speed-gpu-end-to-end"
    }  # fmt: skip
    assert "Not judged" in sparse.entry("14").note and not sparse.entry("14").checks
    for name in ("speed-gpu-model", "speed-gpu-end-to-end"):
        assert "takes a GPU" in sparse.entry(name).note.replace("\n", " ") and "gpu" in sparse.entry(name).checks


def test_ids_are_unique_and_every_tolerance_is_derived(sparse):
    ids = [entry.id for entry in sparse.entries]
    assert len(set(ids)) == len(ids) > 450
    for entry in sparse.entries:
        for check in entry.checks.values():
            assert len(check.derivation.split()) >= 8, entry.id
            assert check.tolerance > 0 or "target" in check.derivation, entry.id


def names(*values):
    return {name for value in values for name in (value if isinstance(value, list) else [value]) if name is not None}


def test_what_is_judged_is_what_is_recorded(sparse):
    for entry in sparse.entries:
        for tier, check in entry.checks.items():
            for part in check.parts:
                if check.speedup:
                    assert check.experiment == "timing" and part.method == ("cuda" if tier == "gpu" else "cpu"), (
                        entry.id
                    )
                    series = [check.speedup.slow, check.speedup.fast]
                    series += [check.speedup.relative_to.slow] if check.speedup.relative_to else []
                    samples = {one.sample for one in series} | {check.speedup.fast.sample}
                    if part.model == "step":
                        assert samples <= {"v10k/step", "v100k/step", "v1m/step", "v10m/step"}, entry.id
                        continue
                    assert part.model == "table-12" and part.dataset in DATASETS, entry.id
                    for competitor, _, column in (sample.partition("/") for sample in samples):
                        assert competitor in COMPETITORS and column in ("model", "tokenise", "end_to_end"), entry.id
                    continue
                for term in part.terms or check.terms:
                    where = {
                        axis: names(getattr(term, axis) or getattr(part, axis))
                        for axis in ("dataset", "model", "method")
                    }
                    assert all(where.values()), (entry.id, "an axis is open")
                    assert where["dataset"] <= DATASETS and where["model"] <= MODELS and where["method"] <= METHODS, (
                        entry.id
                    )
                    assert term.split == "test" and term.curve is None
                    main = where["model"] == {"dan"} and where["method"] <= {"kd", "kd+ft"}
                    assert term.metric in EVERYWHERE or (main and OF_DAN.fullmatch(term.metric)), (
                        entry.id,
                        term.metric,
                    )


def configured(tier):
    """The cells of a tier: (data set, model, method)."""
    config = yaml.safe_load((REPO / "experiments" / "configs" / "sparse" / f"{tier}.yaml").read_text(encoding="utf-8"))
    tasks = {task["dataset"]: task.get("transfer") for task in config["tasks"]}
    found = {(dataset, model, "scratch") for dataset in tasks for model in config["baselines"]}
    for student in [*config["students"], *config["token_students"]]:
        model = student["spec"].get("name") or student["spec"].get("model") or "dan"
        for dataset in student.get("datasets") or tasks:
            for method in student["methods"]:
                transfer = tasks[dataset] if method.startswith("from") else {"teacher": ""}
                if transfer:
                    found.add((dataset, model, method.replace("from", f"from-{transfer['teacher']}")))
    return found | {(table["dataset"], "table-12", tier) for table in config["timing"]}


@pytest.mark.parametrize("tier", ["smoke", "cpu", "gpu"])
def test_what_is_judged_at_a_tier_is_what_it_runs(sparse, tier):
    cells = configured(tier)
    for entry in sparse.entries:
        check = entry.checks.get(tier)
        for part in check.parts if check else []:
            if check.speedup:
                assert part.model == "step" or (part.dataset, part.model, tier) in cells, entry.id
            for term in [] if check.speedup else part.terms or check.terms:
                axes = [getattr(term, axis) or getattr(part, axis) for axis in ("dataset", "model", "method")]
                wanted = set(product(*(axis if isinstance(axis, list) else [axis] for axis in axes)))
                assert wanted <= cells, (entry.id, wanted - cells)


# ----------------------------------------------------------------------------------------------------------------------
# Judging made-up records


def judged(sparse, *numbers, tier="cpu", seeds=5, changes=None):
    records = sparse_records(tier, seeds, changes)
    entries = [sparse.entry(number) for number in numbers] if numbers else sparse.entries
    return {v.id.partition("/")[2]: v for v in judge_all(to_frame(records), entries, tier, samples_to_frame(records))}


def test_in_a_world_where_every_claim_holds_every_claim_is_reproduced(sparse):
    verdicts = judged(sparse)
    held = {name: verdict.verdict for name, verdict in verdicts.items() if "cpu" in sparse.entry(name).checks}
    assert set(held.values()) == {"reproduced"}, held
    assert all(verdicts[name].n_seeds >= 5 for name in held)


def test_on_a_gpu_the_same_is_judged_from_timings_there(sparse):
    timings = [e.id for e in sparse.entries if "gpu" in e.checks and e.checks["gpu"].experiment == "timing"]
    verdicts = judged(sparse, "1-kd", "N1", *timings, tier="gpu")
    assert {verdict.verdict for verdict in verdicts.values()} == {"reproduced"}
    assert verdicts["speed-gpu-model"].decided_by == "imdb, table-12, cuda"


TIMED = ("imdb", "table-12", "cpu")
BIGRAMS = "step 1 to 2 above five steps 2 to 3"


@pytest.mark.parametrize(
    ("number", "changes", "decided_by"),
    [
        ("1", {("sst2", "dan", "kd+ft"): {"accuracy": 0.830}}, "KD+FT over KD, sst2, dan"),
        ("1-kd", {("trec", "dan", "kd"): {"accuracy": 0.760}}, "trec, dan"),
        ("2", {("imdb", "dan", "kd+ft"): {"accuracy": 0.890}}, "imdb, dan"),  # 40 % of the gap
        ("3", {("sst2", "dan", "scratch"): {"accuracy": 0.650}}, "TREC over SST-2, dan"),
        ("4", {("trec", "dan", "kd+ft"): {"accuracy": 0.860}}, "IMDB, SST-2, TREC, dan, kd+ft"),
        ("5", {("imdb", "dan", "kd-c"): {"accuracy": 0.880}}, "imdb, dan"),
        ("6", {("imdb", "dan-sum", "kd"): {"accuracy": 0.910}}, "mean over sum, imdb, kd"),
        ("7", {("imdb", "dan-deep", "kd"): {"accuracy": 0.910}}, "imdb, dan-deep, kd"),
        ("8", {("imdb", "dan-v100k-d100", "kd"): {"accuracy": 0.890}}, "10 million parameters, imdb, kd"),
        ("9", {("imdb", "dan-v1m-d30", "kd"): {"accuracy": 0.892}}, "d 10 to 30, imdb, kd"),
        ("9-diminishing", {("imdb", "dan-v1m-d30", "kd"): {"accuracy": 0.895}}, "d 10 to 30 to 100, imdb, kd"),
        ("10", {("imdb", "dan", "kd+ft"): {"accuracy/n1": 0.890}}, f"{BIGRAMS}, imdb, dan, kd+ft"),
        ("11", {("imdb", "dan", "kd+ft"): {"accuracy/keep-train/0.03": 0.860}}, "imdb, dan, kd+ft"),
        ("12", {("imdb", "dan", "kd"): {"cross_entropy/coverage-q4": 0.4}}, "imdb, dan, kd"),
        ("13", {("sst2", "dan", "from-imdb"): {"accuracy": 0.780}}, "IMDB to SST-2, sst2, dan"),
        ("15", {("sst2", "table-12", "cpu"): {"dan-1core/model": 4e-6}}, "IMDB against SST-2, sst2, table-12, cpu"),
        ("16", {("sst2", "lstm", "kd"): {"accuracy": 0.820}}, "LSTM over DAN, sst2, kd"),
        ("17", {TIMED: {"sklearn/tokenise": 5e-6}}, "imdb, table-12, cpu"),
        ("18", {("synthetic", "step", "cpu"): {"v10m/step": 0.02}}, "step, cpu"),
        ("speed-cpu-model", {TIMED: {"dan-torch/model": 2e-3}}, "imdb, table-12, cpu"),
        ("N2", {("imdb", "dan", "kd-train"): {"accuracy": 0.900}}, "imdb, dan"),
        ("N8", {("sst2", "dan", "scratch-own"): {"accuracy": 0.840}}, "sst2, dan"),
        ("13-teacher", {("imdb", "dan", "from-sst2"): {"teacher/accuracy": 0.82}}, "SST-2 to IMDB, imdb, dan"),
        ("B1", {("imdb", "nbsvm", "scratch"): {"accuracy": 0.920}}, "over NBSVM, imdb"),
        ("B4-int8", {("imdb", "dan", "kd+ft"): {"accuracy/int8": 0.900}}, "imdb, dan, kd+ft"),
        ("B8-fp32-sorted", {TIMED: {"roberta-large-sorted/end_to_end": 0.5}}, "imdb, table-12, cpu"),
        ("B11", {TIMED: {"dan-torch/model": 4e-4}}, "imdb, table-12, cpu"),
        ("B8-int8", {TIMED: {"dan-int8/end_to_end": 1e-4}}, "imdb, table-12, cpu"),
    ],
)  # fmt: skip
def test_each_claim_can_be_refuted(sparse, number, changes, decided_by):
    verdict = judged(sparse, number, changes=changes)[number]
    assert (verdict.verdict, verdict.decided_by) == ("not reproduced", decided_by)


def test_a_claim_is_not_decided_by_too_few_seeds_or_missing_parts(sparse):
    assert judged(sparse, "1", seeds=2)["1"].reason == "too_few_seeds"
    without = [record for record in sparse_records() if (record.dataset, record.method) != ("trec", "kd+ft")]
    (verdict,) = judge_all(to_frame(without), [sparse.entry("1")], "cpu")
    assert (verdict.verdict, verdict.reason) == ("inconclusive", "part_missing")


def test_a_deterministic_baseline_stands_for_all_seeds(sparse):
    verdict = judged(sparse, "B1")["B1"]
    assert verdict.n_seeds == 5 and verdict.measured == pytest.approx(0.910 - 0.900, abs=0.003)


# ----------------------------------------------------------------------------------------------------------------------
# Hundreds of numbers do not flood what people read


def write_some(root):
    """Records for a few claims."""
    for record in sparse_records(seeds=3):
        if (record.dataset, record.model) == ("imdb", "dan") and record.method in ("scratch", "kd"):
            Store(root).write(record)


def test_numbers_of_tables_are_in_json_only(sparse, tmp_path):
    write_some(tmp_path)
    verdicts = judge_results(tmp_path, "sparse", "cpu")
    assert [verdict.id for verdict in verdicts] == [entry.id for entry in sparse.entries]
    claims = [entry.id for entry in sparse.entries if not entry.table]
    assert [verdict.id for verdict in listed(verdicts)] == claims and len(claims) < 70
    assert len(claims_table(verdicts)) == len(claims) == counts_table(verdicts).select_dtypes("number").to_numpy().sum()
    write_verdicts(verdicts, tmp_path)
    assert [verdict.id for verdict in read_verdicts(tmp_path, "sparse", "cpu")] == claims
    cell = next(verdict for verdict in verdicts if verdict.id == "sparse/T2.imdb.kd+ft")
    assert (cell.verdict, cell.expected, cell.unit, cell.table) == ("not run", "= 93.5", "%", "T2")
    judged_cell = cell.model_copy(update={"verdict": "reproduced"})
    assert listed([judged_cell, cell]) == [judged_cell], "a number that a tier judges is shown"


def test_readme_lists_judged_claims_only(monkeypatch, tmp_path):
    write_some(tmp_path)
    monkeypatch.setattr("paper_repro.report.readme.PAPERS", {"sparse": "s"})
    monkeypatch.setattr("paper_repro.report.readme.TITLES", {"sparse": "Sparse Distillation"})
    text = results_table(tmp_path, "cpu")
    assert "| 1-kd |" in text and "T2.imdb" not in text and "| 14 |" not in text
    assert text.count("\n") < 70


def test_this_ledger_is_found():
    assert {"sparse", "titans"} <= set(papers())
