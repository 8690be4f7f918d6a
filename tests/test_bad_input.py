"""Bad input through the command line: one clear sentence, exit code 2, nothing lost or half-written."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import titans_cascade as titans
from paper_repro import cli, paths, runner
from paper_repro.distill.logits import LogitSpec, TeacherLogits


def fails_with(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command line; check exit code 2 and one sentence without a traceback, and return the sentence."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    printed = capsys.readouterr().err.strip()
    assert caught.value.code == 2, printed
    assert printed.startswith("Error: ") and len(printed.splitlines()) == 1
    assert "Traceback" not in printed
    return printed


def test_a_malformed_config(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "experiments" / "configs" / "titans"
    folder.mkdir(parents=True)
    source = paths.REPO / "experiments" / "configs" / "titans" / "smoke.yaml"
    (folder / "smoke.yaml").write_text(source.read_text().replace("keep_fraction", "kep_fraction"))
    monkeypatch.setattr(runner, "REPO", tmp_path)
    sentence = fails_with(capsys, "run", "titans", "--results", str(tmp_path / "runs"))
    assert "unknown key 'kep_fraction'; did you mean 'keep_fraction'?" in sentence
    assert not (tmp_path / "runs").exists()


def test_missing_data(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPER_REPRO_DATA", str(tmp_path))
    runs = tmp_path / "runs"
    options = ["--tier", "cpu", "--only", "student-sst2-bag-kd-s0", "--results", str(runs)]
    sentence = fails_with(capsys, "run", "titans", *options)
    assert "sst2" in sentence and "paper-repro data fetch sst2" in sentence and str(tmp_path) in sentence
    assert not list(tmp_path.rglob("*.json"))


def test_a_truncated_parquet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    pd.DataFrame({"text": ["a b", "c d"] * 50, "label": [0, 1] * 50}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    sentence = fails_with(capsys, "run", "titans", "--data", str(path), "--results", str(tmp_path / "runs"))
    assert "mine.parquet is truncated or not a parquet file" in sentence
    assert not (tmp_path / "runs").exists()


def test_results_of_a_newer_schema(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cell = titans.cells(runner.load_config("titans", "smoke"))[0]
    path = tmp_path / "titans" / "smoke" / f"{cell.name}-{cell.key()[:12]}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": 99, "key": cell.key()}))
    before = path.read_bytes()
    for command in (["run", "titans", "--only", cell.name], ["claims", "titans", "--tier", "smoke"]):
        sentence = fails_with(capsys, *command, "--results", str(tmp_path))
        assert "result schema 99" in sentence and "update paper_repro" in sentence
    assert path.read_bytes() == before and len(list(tmp_path.rglob("*"))) == 3


def test_a_flipped_byte_in_the_teacher_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the experiment: what a student would have learnt from is refused before anything is trained."""
    monkeypatch.setenv("PAPER_REPRO_CACHE", str(tmp_path / "cache"))
    cell = next(c for c in titans.cells(runner.load_config("titans", "smoke")) if c.name == "student-digits-mlp-kd-s0")
    titans._task_by_key.cache_clear()
    assert runner.compute_cell(cell, tmp_path / "first", "cpu", 1, 1) == "ok"
    for path in (tmp_path / "cache" / "logits").rglob("logits.npy"):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    titans._task_by_key.cache_clear()
    with pytest.raises(runner.UserError, match="are damaged; delete that folder"):
        runner.compute_cell(cell, tmp_path / "second", "cpu", 1, 1)
    assert not (tmp_path / "second").exists()


def test_logits_of_another_length_are_refused(tmp_path: Path) -> None:
    store, spec = TeacherLogits(tmp_path), LogitSpec(weights="w", preprocessing="p", data="d")
    store.get(spec, lambda rows: np.ones((len(rows), 2), dtype=np.float32), 10)
    with pytest.raises(runner.UserError, match="another teacher or data set"):
        store.get(spec, lambda rows: np.ones((len(rows), 2), dtype=np.float32), 11)
