"""Records, the store, the environment and the frames."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_repro.errors import UserError
from paper_repro.results import Metric, Record, Store, environment, load, load_samples
from paper_repro.results.frame import COLUMNS, SAMPLE_COLUMNS


def record(**changes) -> Record:
    fields = {
        "paper": "titans", "experiment": "student", "tier": "smoke", "dataset": "digits", "model": "mlp",
        "method": "md-rho0.6", "seed": 3, "key": "ab" * 32,
        "params": {"lr": 0.1, "classes": [1, 2]},
        "metrics": [
            Metric(name="accuracy", value=0.5, unit="fraction", split="test", n=10),
            Metric(name="accuracy", value=0.6, unit="fraction", split="validation"),
        ],
        "samples": {"curve/margin": np.array([0.25, 0.5])},
    }  # fmt: skip
    return Record(**{**fields, **changes})


def test_a_record_survives_the_disk(tmp_path):
    store = Store(tmp_path)
    path = store.write(record())
    assert path == tmp_path / "titans" / "smoke" / "student-digits-mlp-md-rho0.6-s3-abababababab.json"
    assert store.get("ab" * 32) == record()
    assert store.records() == store.records("titans", "smoke") == [record()]
    assert store.records("sparse") == store.records("titans", "cpu") == []
    assert json.loads(path.read_text())["schema"] == 1
    assert record().metric("accuracy", "validation") == 0.6
    with pytest.raises(KeyError):
        record().metric("auc/margin")


@pytest.mark.parametrize("status", ["failed", "oom", "timeout", "skipped"])
def test_a_failure_is_recorded_but_not_done_and_success_replaces_it(tmp_path, status):
    store = Store(tmp_path)
    store.write(record(status=status, error="why", metrics=[]))
    assert not store.done("ab" * 32)
    assert store.get("ab" * 32).error == "why"
    store.write(record())
    assert store.done("ab" * 32)
    assert len(store.records()) == 1


def test_only_the_whole_key_counts(tmp_path):
    store = Store(tmp_path)
    store.write(record())
    assert not store.done("ab" * 6 + "cd" * 26)


def test_a_newer_schema_is_refused(tmp_path):
    store = Store(tmp_path)
    path = store.write(record())
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(UserError, match="schema 2, this version reads up to 1; update"):
        store.records()
    with pytest.raises(UserError, match="schema 2"):
        store.done("ab" * 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1, ', "not valid JSON"),
        ("[]", "no integer 'schema'"),
        ('{"schema": 0}', "cannot be migrated"),
        ('{"schema": 1, "paper": "titans"}', "'experiment': Field required"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_damaged_record_is_one_clear_sentence(tmp_path, content, message):
    path = Store(tmp_path).write(record())
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message) as raised:
        load(tmp_path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_copy_of_a_record_is_one_clear_sentence(tmp_path):
    path = Store(tmp_path).write(record())
    copy = path.with_name("copy-s0-000000000000.json")
    copy.write_text(path.read_text())
    with pytest.raises(UserError, match="hold the same cell; delete the one that is a copy"):
        Store(tmp_path).records()


def test_what_is_no_record_is_left_alone(tmp_path):
    path = Store(tmp_path).write(record())
    (path.parent / "claims.json").write_text("[]")
    (path.parent / ".student-x-s0-abababababab.json.tmp1").write_text("{half")
    assert len(Store(tmp_path).records()) == 1


def test_undefined_values_are_null_and_unknown_fields_refused():
    assert Metric(name="a", value=float("nan"), unit="fraction", split="test").value is None
    assert record(samples={"x": [1.0, float("inf")]}).samples["x"] == [1.0, None]
    with pytest.raises(ValueError, match="acuracy"):
        record(acuracy=1)
    with pytest.raises(ValueError, match="pattern"):
        record(key="short")


text = st.text(min_size=0, max_size=12)


@given(dataset=text, model=text, method=text)
def test_no_name_leads_out_of_the_folder(dataset, model, method):
    path = Store("/root-of-results").path(record(dataset=dataset, model=model, method=method))
    assert path.parent == Path("/root-of-results/titans/smoke")
    assert path.name.isascii() and not path.name.startswith(".")


def test_a_record_is_written_whole(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write(record())

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write(record(status="failed"))
    assert store.done("ab" * 32)
    assert len(list((tmp_path / "titans" / "smoke").iterdir())) == 1


def test_frames_are_tidy(tmp_path):
    store = Store(tmp_path)
    store.write(record())
    store.write(record(key="cd" * 32, seed=4, status="failed", metrics=[], samples={"x": [1.0]}))
    frame = load(tmp_path, "titans", "smoke")
    assert list(frame.columns) == [*COLUMNS, "param.classes", "param.lr"]
    good = frame[frame["status"] == "ok"].reset_index(drop=True)
    assert good[["metric", "split", "value", "seed"]].to_dict("list") == {
        "metric": ["accuracy", "accuracy"], "split": ["test", "validation"], "value": [0.5, 0.6], "seed": [3, 3]
    }  # fmt: skip
    assert set(good["param.classes"]) == {"[1,2]"}
    failed = frame[frame["status"] == "failed"]
    assert list(failed["metric"]) == [""] and failed["value"].isna().all()
    samples = load_samples(tmp_path)
    assert samples[["name", "index", "value"]].to_numpy().tolist() == [
        ["curve/margin", 0, 0.25],
        ["curve/margin", 1, 0.5],
    ]


def test_an_empty_folder_gives_empty_frames(tmp_path):
    assert list(load(tmp_path / "none").columns) == COLUMNS
    assert list(load_samples(tmp_path / "none").columns) == SAMPLE_COLUMNS
    assert load(tmp_path).empty


def test_equal_environments_are_equal_and_name_nobody():
    here = environment.capture()
    assert here == environment.capture()
    assert here["packages"]["numpy"] == np.__version__
    assert here["cores"] >= 1
    assert json.loads(json.dumps(here)) == here
    assert not {"hostname", "node", "user", "cwd"} & set(here)


def test_the_source_hash_follows_the_source_only(tmp_path):
    module = tmp_path / "paper_repro" / "a.py"
    module.parent.mkdir()
    module.write_text("x = 1\n")
    before = environment.source_sha256(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    (module.parent / "a.pyc").write_bytes(b"1")
    assert environment.source_sha256(tmp_path) == before
    module.write_text("x = 2\n")
    changed = environment.source_sha256(tmp_path)
    module.rename(module.with_name("b.py"))
    assert len({before, changed, environment.source_sha256(tmp_path)}) == 3
    assert environment.code_state()["source_sha256"] == environment.code_state()["source_sha256"]
    assert set(environment.code_state()) == {"commit", "dirty", "source_sha256"}


def test_nothing_here_imports_torch():
    code = (
        "import sys, paper_repro.results, paper_repro.stats, paper_repro.ledger, paper_repro.results.environment as e;"
        "e.capture(); e.code_state(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
