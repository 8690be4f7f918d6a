"""The ledger itself: complete, cited, never upgraded, and in step with what is run."""

from pathlib import Path

import pytest
import yaml

from paper_repro.errors import UserError
from paper_repro.ledger import deviations, judge_results, listed, load_ledger, papers, read_verdicts
from paper_repro.ledger.deviations import fill
from paper_repro.ledger.loader import Check, Entry, Part, Table, Term
from paper_repro.paths import REPO, RESULTS

# What could be read, and how; see papers/titans.md of the project. Raising one of these needs a new source.
CERTAINTY = {
    "C1-weak": "quoted", "C1-strong": "quoted", "C2": "secondary", "C2-gap": "design", "C3": "quoted", "C4": "design",
    "C4-out": "design", "C5-margin": "design", "C5-auroc": "design", "C6": "secondary", "C7-ends": "derived",
    "C7-concave": "design", "C7-flat": "design", "C8": "quoted", "N1": "design", "N2-alpha0": "design",
    "N2-alpha1": "design", "N3": "design", "N4": "design", "N5": "design", "N6": "design", "X1": "design",
    "X2-gatekeeper": "design", "X2-head": "design", "T4": "design", "speed-vision": "secondary",
    "speed-nlp": "secondary", "teacher-imagenet": "secondary",
}  # fmt: skip
CONFIGS = REPO / "experiments" / "configs" / "titans"


@pytest.fixture(scope="module")
def titans():
    return load_ledger("titans")


def test_every_claim_is_there_and_none_is_upgraded(titans):
    assert {name: titans.entry(name).certainty for name in CERTAINTY} == CERTAINTY
    assert titans.entry("titans/C2") is titans.entry("C2")
    with pytest.raises(UserError, match="no entry 'C9'"):
        titans.entry("C9")


def test_only_the_abstract_is_quoted(titans):
    quoted = {entry.source.where for entry in titans.entries if entry.certainty == "quoted"}
    assert quoted == {"abstract"}


def test_enough_is_judged_and_every_tolerance_is_derived(titans):
    assert sum("cpu" in entry.checks for entry in titans.entries) >= 8
    assert all(entry.checks or entry.kind == "number" for entry in titans.entries)
    for entry in titans.entries:
        for check in entry.checks.values():
            assert len(check.derivation.split()) >= 8, entry.id


def tasks(tier):
    config = yaml.safe_load((CONFIGS / f"{tier}.yaml").read_text())
    models = {task["dataset"]: {s["spec"]["model"] for s in task["students"]} for task in config["tasks"]}
    methods = {method["name"] for method in config["methods"]}
    timing = {f"{pair['student']}|{pair['teacher']}" for pair in config["timing"]}
    return models, methods, timing


def names(*values):
    return {name for value in values for name in (value if isinstance(value, list) else [value]) if name is not None}


@pytest.mark.parametrize("tier", ["smoke", "cpu"])
def test_what_is_judged_is_what_is_run(titans, tier):
    models, methods, timing = tasks(tier)
    for entry in titans.entries:
        check = entry.checks.get(tier)
        if check is None:
            continue
        for part in check.parts:
            terms = part.terms or check.terms or []
            if check.experiment == "timing":
                assert names(part.model) <= timing, entry.id
                continue
            assert part.dataset in models, entry.id
            assert names(part.model, *(term.model for term in terms)) <= models[part.dataset], entry.id
            assert names(part.method, *(term.method for term in terms)) <= methods, entry.id
            assert all(names(part.model, term.model) and names(part.method, term.method) for term in terms), entry.id


def test_calibration_is_judged_at_the_epsilon_and_delta_that_are_run(titans):
    for tier, check in titans.entry("X1").checks.items():
        if tier in ("smoke", "cpu"):
            config = yaml.safe_load((CONFIGS / f"{tier}.yaml").read_text())
            assert (check.exceeds.threshold, check.value) == (config["epsilon"], config["delta"])


def check(**changes):
    fields = {"terms": [{"metric": "accuracy"}], "relation": "greater", "tolerance": 0.1, "derivation": "made up " * 4}
    return {**fields, **changes}


def entry(**changes):
    fields = {
        "id": "titans/T", "kind": "claim", "statement": "s", "source": {"paper": "p", "where": "w"},
        "certainty": "design",
    }  # fmt: skip
    return {**fields, **changes}


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        (Check, check(derivation="because"), "at least 20"),
        (Check, check(terms=None), "exactly one"),
        (Check, check(exceeds={"metric": "a", "threshold": 0}), "exactly one"),
        (Check, check(relation="equal", tolerance=0), "positive tolerance"),
        (Check, check(relation="better"), "relation"),
        (Check, check(terms=[{"metric": "a", "shared": True}]), "one term at least"),
        (Check, check(terms=None, parts=[{"terms": [{"metric": "a", "shared": True}]}]), "one term at least"),
        (Term, {"metric": "a", "curve": "b", "at": 0.5}, "either"),
        (Term, {"curve": "b"}, "either"),
        (Entry, entry(certainty="sure"), "certainty"),
        (Entry, entry(checks={"cpu": check(min_seeds=2)}), "at least 3"),
        (Entry, entry(checks={"tpu": check()}), "smoke"),
        (Entry, entry(id="C1"), "pattern"),
    ],
)
def test_a_malformed_entry_is_refused(model, fields, message):
    with pytest.raises(ValueError, match=message):
        model.model_validate(fields)


def table(**changes):
    fields = {
        "source": {"paper": "p", "version": "v2", "where": "table 9"}, "certainty": "quoted", "unit": "%",
        "statement": "{row} on {column}", "paper_seeds": 1, "note": "One run.",
        "columns": {"imdb": "IMDB", "speed": {"name": "speed", "unit": "1/s"}},
        "rows": {
            "kd+ft": {"name": "KD+FT", "values": [93.5, 12]},
            "cnn": {"name": "CNN", "values": [None, 5.5], "note": "Small."},
            "times": {"name": "CNN over KD+FT", "unit": "times", "values": [None, 0.5]},
        },
        "notes": {"speed.cnn": "Printed twice."},
    }  # fmt: skip
    return {**fields, **changes}


def test_a_table_becomes_one_entry_per_number():
    entries = Table.model_validate(table()).entries("sparse", "T9")
    assert [entry.id for entry in entries] == [
        "sparse/T9.imdb.kd+ft", "sparse/T9.speed.kd+ft", "sparse/T9.speed.cnn", "sparse/T9.speed.times"
    ]  # fmt: skip
    assert entries[2] == Entry(
        id="sparse/T9.speed.cnn", kind="number", statement="CNN on speed", certainty="quoted", value=5.5, unit="1/s",
        source={"paper": "p", "version": "v2", "where": "table 9, CNN, speed"}, table="T9", paper_seeds=1,
        note="Printed twice. Small. One run.",
    )  # fmt: skip
    assert [entry.unit for entry in entries] == ["%", "1/s", "1/s", "times"]
    assert Table.model_validate(table()).cells() == {
        ("imdb", "kd+ft"): 93.5, ("speed", "kd+ft"): 12, ("speed", "cnn"): 5.5, ("speed", "times"): 0.5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"a": {"name": "A", "values": [1]}}}, "1 values for 2 columns"),
        ({"rows": {"a": {"name": "A", "values": [1, "-"]}}}, "valid number"),
        ({"rows": {"a.b": {"name": "A", "values": [1, 2]}}}, "pattern"),
        ({"unit": None}, "without a unit: \\['imdb.kd\\+ft'\\]"),
        ({"notes": {"imdb.cnn": "There is no number."}}, "notes on no number: \\['imdb.cnn'\\]"),
        ({"statement": "{rwo} on {column}"}, "names its {row}"),
    ],
)
def test_a_malformed_table_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Table.model_validate(table(**changes))


@pytest.mark.parametrize("paper", papers())
def test_part_names_tell_parts_apart(paper):
    assert Part(dataset="d", model=["a", "b"], label="vision").name == "vision, d, a / b"
    for item in load_ledger(paper).entries:
        for tier, judged in item.checks.items():
            assert len({part.name for part in judged.parts}) == len(judged.parts), (item.id, tier)


def test_a_ledger_file_is_validated_as_a_whole(titans, tmp_path, monkeypatch):
    monkeypatch.setattr("paper_repro.ledger.loader.FOLDER", tmp_path)
    with pytest.raises(UserError, match="no ledger for the paper 'titans'"):
        load_ledger("titans")
    raw = titans.model_dump(mode="json", exclude_unset=True)
    for damage, message in (
        ({"entries": [raw["entries"][0]] * 2}, "twice: titans/C1-weak"),
        ({"settings": {"training": raw["settings"]["training"]}}, "unknown settings"),
        ({"entrys": []}, "did you mean 'entries'"),
        ({"entries": [entry(table="T1")]}, "belong under 'tables': titans/T"),
        ({"entries": [entry(id="titans/T1.imdb.kd+ft")], "tables": {"T1": table()}}, "twice: titans/T1.imdb.kd\\+ft"),
    ):
        (tmp_path / "titans.yaml").write_text(yaml.safe_dump({**raw, **damage}))
        with pytest.raises(UserError, match=message):
            load_ledger("titans")


def test_deviations_quote_the_configuration_that_is_run(titans):
    text = deviations([titans])
    rho = next(m["rho"] for m in yaml.safe_load((CONFIGS / "cpu.yaml").read_text())["methods"] if m["name"] == "md")
    assert f"| {rho:g} (md)" in text and "{" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}
    assert sum(len(group) for group in titans.settings.values()) == len(rows) - len(titans.settings)


def test_a_stale_quotation_is_noticed():
    config = {"methods": [{"name": "md", "rho": 0.4}], "students": [{"spec": {"model": "m", "lr": 1}}]}
    assert fill("rho {methods/md/rho}, lr {students/m/spec/lr}", config, "cpu.yaml") == "rho 0.4, lr 1"
    for stale in ("{methods/md/sigma}", "{methods/mdd/rho}", "{rho/x}"):
        with pytest.raises(UserError, match=r"cpu\.yaml does not have"):
            fill(stale, config, "cpu.yaml")


COMMITTED = sorted(RESULTS.glob("*/*/claims.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_committed_verdicts_are_what_the_committed_records_say(path: Path):
    paper, tier = path.parts[-3:-1]
    again = {verdict.id: verdict for verdict in listed(judge_results(RESULTS, paper, tier))}
    committed = read_verdicts(RESULTS, paper, tier)
    assert [verdict.id for verdict in committed] == list(again)
    for verdict in committed:
        now = again[verdict.id]
        assert (verdict.verdict, verdict.reason, verdict.n_seeds) == (now.verdict, now.reason, now.n_seeds), verdict.id
        assert verdict.measured == pytest.approx(now.measured, abs=1e-9), verdict.id


def test_every_metric_and_curve_of_the_ledger_is_measured(titans):
    torch = pytest.importorskip("torch")
    from paper_repro.cascade.measure import CascadeSettings, Predictions, measure_cascade

    settings = CascadeSettings(
        easy_margin=0.4, keep_fraction=0.8, rho=0.5, epsilon=0.1, delta=0.1, student_cost=1.0, teacher_cost=9.0
    )
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(200, 4, generator=generator) for _ in range(2))
    labels = torch.randint(4, (200,), generator=generator)
    predictions = Predictions(student, teacher, labels, torch.tensor([True, True, False, False]))
    metrics, samples = measure_cascade(predictions, predictions, settings)
    measured = {(metric.name, metric.split) for metric in metrics} | {(name, "curve") for name in samples}
    for entry in titans.entries:
        for check in entry.checks.values():
            if check.experiment != "student":
                continue
            terms = [term for part in check.parts for term in part.terms or check.terms or []]
            used = {(term.metric, term.split) if term.metric else (term.curve, "curve") for term in terms}
            used |= {(check.exceeds.metric, check.exceeds.split)} if check.exceeds else set()
            assert used <= measured, entry.id
