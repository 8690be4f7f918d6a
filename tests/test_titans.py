"""The Titans experiment: its cells, its losses by method, and runs that are cut short, resumed and repeated."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from experiments import titans_cascade as titans
from paper_repro import runner
from paper_repro.cascade.measure import CascadeSettings, Predictions, measure_cascade
from paper_repro.errors import UserError
from paper_repro.results.store import Store

TIERS = ("smoke", "cpu", "gpu", "paper")


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_has_its_own_cells_with_keys_of_their_own(tier: str) -> None:
    cells = titans.cells(runner.load_config("titans", tier))
    assert len({cell.key() for cell in cells}) == len(cells) > 40
    assert [cell.stage for cell in cells] == sorted(cell.stage for cell in cells)


def test_the_decisive_comparison_has_as_many_seeds_as_the_smallest_effect_needs() -> None:
    names = [cell.name for cell in titans.cells(runner.load_config("titans", "cpu"))]
    for method in ("ce", "kd", "md", "ce+kd", "ce+kd-t4", "md-random"):
        assert sum(f"cifar10-jpeg-resnet8-w8-{method}-s" in name for name in names) == 16
    assert not [
        name for name in names if name.startswith("student") and f"{name[:-1]}4" not in names and name[-2:] == "s0"
    ]


def test_how_a_cell_is_scheduled_does_not_change_its_key() -> None:
    cell = titans.cells(runner.load_config("titans", "smoke"))[0]
    assert cell.model_copy(update={"stage": 5}).key() == cell.key()
    assert cell.model_copy(update={"seed": 1}).key() != cell.key()


def test_gatekeeper_starts_from_the_ce_student_of_the_same_repetition() -> None:
    cells = {cell.name: cell for cell in titans.cells(runner.load_config("titans", "smoke"))}
    plain = titans.Method(name="ce", kind="distillation", a=1.0, b=0.0, seeds=1)
    for name, cell in cells.items():
        if cell.method == "gatekeeper":
            assert titans.plain_cell(cell, plain).key() == cells[name.replace("gatekeeper", "ce")].key()


def method(name: str) -> titans.Method:
    return next(m for m in runner.load_config("titans", "smoke").methods if m.name == name)


@pytest.mark.parametrize("name", [m.name for m in runner.load_config("titans", "smoke").methods])
def test_every_method_has_a_loss_that_trains(name: str) -> None:
    torch.manual_seed(0)
    teacher = torch.randn(20, 4) * 2
    in_domain = torch.tensor([True, True, False, False])
    loss, easy = titans.training_loss(method(name), teacher, in_domain, seed=0)
    model = torch.nn.Linear(6, 3 if name == "cd3" else 4)
    batch = {"pixels": torch.randn(20, 6), "label": torch.arange(20) % 4, "teacher_logits": teacher}
    batch |= {} if easy is None else {"easy": easy}
    before = loss(model, batch, None)
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.05 * parameter.grad
    assert loss(model, batch, None) < before


def test_the_random_subset_is_as_large_as_the_easy_one_but_another() -> None:
    teacher = torch.randn(500, 4) * 2
    _, easy = titans.training_loss(method("md"), teacher, torch.ones(4, dtype=torch.bool), seed=0)
    _, subset = titans.training_loss(method("md-random"), teacher, torch.ones(4, dtype=torch.bool), seed=0)
    _, other = titans.training_loss(method("md-random"), teacher, torch.ones(4, dtype=torch.bool), seed=1)
    assert easy is not None and subset is not None and other is not None
    assert easy.sum() == subset.sum() == other.sum()
    assert not torch.equal(easy, subset) and not torch.equal(subset, other)


def predictions(n: int, seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    truth = torch.nn.functional.one_hot(labels, 4).float()
    student = 1.5 * truth + torch.randn(n, 4, generator=generator)
    teacher = 3.0 * truth + torch.randn(n, 4, generator=generator)
    return Predictions(student, teacher, labels, torch.tensor([True, True, False, False]))


SETTINGS = CascadeSettings(0.4, 0.8, 0.5, 0.05, 0.2, student_cost=1.0, teacher_cost=10.0)


def test_no_threshold_depends_on_the_test_split() -> None:
    """Swapping the test labels changes accuracies, never a fraction kept at a threshold learnt on validation."""
    validation, test = predictions(1000, 0), predictions(1000, 1)
    shuffled = Predictions(test.student, test.teacher, test.labels.flip(0), test.in_domain)
    first, second = (
        {metric.name: metric.value for metric in measure_cascade(validation, split, SETTINGS)[0]}
        for split in (test, shuffled)
    )
    for name in ("fraction_at_80/margin", "fraction_at_80/head", "calibrated/threshold", "calibrated/fraction"):
        assert first[name] == second[name]
    assert first["accuracy_at_80/margin"] != second["accuracy_at_80/margin"]


def test_measures_agree_with_a_second_reading_of_the_definitions() -> None:
    validation, test = predictions(500, 0), predictions(700, 1)
    metrics, samples = measure_cascade(validation, test, SETTINGS)
    value = {(metric.name, metric.split): metric.value for metric in metrics}
    student = (test.student.argmax(1) == test.labels).float()
    teacher = (test.teacher.argmax(1) == test.labels).float()
    top = test.student.softmax(1).sort(1, descending=True).values
    order = (top[:, 0] - top[:, 1]).argsort(descending=True)
    areas = [torch.cat([student[order[:k]], teacher[order[k:]]]).mean().item() for k in range(701)]
    assert value["auc/margin", "test"] == pytest.approx(np.trapezoid(areas) / 700, abs=1e-6)
    assert samples["curve/margin"][10] == pytest.approx(areas[350], abs=1e-6)
    assert value["auc/random", "test"] == pytest.approx((student.mean() + teacher.mean()).item() / 2, abs=1e-6)
    assert value["auc/random", "test"] < value["auc/margin", "test"] < value["auc/oracle", "test"]
    assert samples["curve_cost/margin"][0] == pytest.approx(1.1) and samples["curve_cost/margin"][-1] == pytest.approx(
        0.1
    )


def command(*arguments: str, results: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "paper_repro.cli",
        "run",
        "titans",
        "--tier",
        "smoke",
        *arguments,
        "--results",
        str(results),
    ]


@pytest.mark.slow
def test_a_killed_run_resumes_and_a_second_run_computes_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PAPER_REPRO_CACHE": str(tmp_path / "cache")}
    results = tmp_path / "runs"
    arguments = command("--only", "digits-mlp-c", "--seeds", "1", "--workers", "2", results=results)
    process = subprocess.Popen(arguments, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(results.rglob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*-s0-*.json")}
    assert 2 <= len(before) < 7
    subprocess.run(arguments, env=environment, check=True, timeout=180)
    after = {path: path.stat().st_mtime_ns for path in results.rglob("*-s0-*.json")}
    assert len(after) == 7
    threads = {json.loads(path.read_text())["protocol"]["threads"] for path in after}
    assert threads == {1}, "results would depend on the number of cores"
    assert before.items() <= after.items(), "a finished cell was computed again"
    subprocess.run(arguments, env=environment, check=True, timeout=60)
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*-s0-*.json")} == after


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a call of git that ended meanwhile, or is about to be collected
        return False


def test_workers_end_with_a_run_that_is_killed_while_they_start(tmp_path: Path) -> None:
    environment = {**os.environ, "PAPER_REPRO_CACHE": str(tmp_path / "cache")}
    run = psutil.Popen(command("--only", "digits-mlp-c", "--workers", "2", results=tmp_path), env=environment)
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        workers = [child for child in run.children() if _is_worker(child)]
        time.sleep(0.02)
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert len(workers) == 2 and not alive


def test_a_run_is_repeatable_bit_for_bit_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = next(c for c in titans.cells(runner.load_config("titans", "smoke")) if c.name == "student-digits-mlp-md-s0")
    texts = []
    for attempt in ("first", "second"):
        monkeypatch.setenv("PAPER_REPRO_CACHE", str(tmp_path / attempt))
        titans._task_by_key.cache_clear()
        assert runner.compute_cell(cell, tmp_path / attempt / "runs", "cpu", 1, 1) == "ok"
        record = Store(tmp_path / attempt / "runs").get(cell.key())
        assert record is not None
        texts.append(json.dumps([metric.model_dump() for metric in record.metrics]) + json.dumps(record.samples))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("damage", ["a flipped byte", "cut off", "the header"])
def test_damaged_weights_in_the_cache_are_noticed(tmp_path: Path, damage: str) -> None:
    model, path = torch.nn.Linear(30, 30), tmp_path / "model.safetensors"
    titans.save_model(model, path, {"train_s": 1.5})
    other = torch.nn.Linear(30, 30)
    assert titans.load_model(other, path) == {"train_s": 1.5}
    assert torch.equal(other.weight, model.weight)
    raw = bytearray(path.read_bytes())
    if damage == "cut off":
        raw = raw[:-100]
    else:
        raw[-1 if damage == "a flipped byte" else 20] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match="are not those that were saved there; delete the file"):
        titans.load_model(other, path)


def test_the_spelling_of_a_path_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"text": [f"word{i} and {i % 7}" for i in range(40)], "label": [i % 2 for i in range(40)]})
    frame.to_parquet(tmp_path / "my.parquet")
    monkeypatch.chdir(tmp_path)
    config = runner.load_config("titans", "smoke")
    spelt = [titans.cells(config, data=name) for name in ("my.parquet", "./my.parquet", str(tmp_path / "my.parquet"))]
    assert len({tuple(cell.key() for cell in cells) for cells in spelt}) == 1


def test_a_failure_is_recorded_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = titans.cells(runner.load_config("titans", "smoke"))[0]

    def fail(cell: runner.Cell, device: str) -> runner.Outcome:
        raise RuntimeError("no luck")

    monkeypatch.setattr(titans, "compute", fail)
    assert runner.compute_cell(cell, tmp_path, "cpu", 1, 1) == "failed"
    record = Store(tmp_path).get(cell.key())
    assert record is not None and record.error is not None and "no luck" in record.error
    assert not Store(tmp_path).done(cell.key())
    assert "would run again" in runner.explain(cell.key()[:16], tmp_path)


def test_own_text_becomes_a_task_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    rows = [(f"good nice lovely {i}", "up") for i in range(60)] + [(f"bad awful poor {i}", "down") for i in range(60)]
    pd.DataFrame(rows, columns=["text", "label"]).to_parquet(path)
    config = runner.load_config("titans", "smoke")
    cells = titans.cells(config, data=str(path), seeds=1)
    assert {cell.params["task"]["modality"] for cell in cells} == {"text"}
    assert all("/" not in cell.dataset and "mine" in cell.dataset for cell in cells)
    assert cells[0].key() != titans.cells(config, data="docstrings", seeds=1)[0].key()
    by_method = {cell.method: cell for cell in cells}
    assert runner.compute_cell(by_method["md"], tmp_path / "runs", "cpu", 1, 1) == "ok"


def test_a_selection_that_matches_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No cell's name contains 'resnet999'"):
        runner.run("titans", "smoke", results=tmp_path, only="resnet999")
    with pytest.raises(UserError, match="No cell's name contains 'resnet999'"):
        runner.bench("titans", "smoke", results=tmp_path, only="resnet999")
    few = runner.bench("combined", "cpu", results=tmp_path, only="trec-coarse", dry_run=True)
    assert {cell.dataset for cell in few.cells} == {"trec-coarse"}


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no experiment for the paper 'titan'"):
        runner.run("titan", "smoke", results=tmp_path)
    with pytest.raises(UserError, match="has no tier 'tiny'; choose one of: cpu, gpu, paper, smoke"):
        runner.run("titans", "tiny", results=tmp_path)
    with pytest.raises(UserError, match="No cell of any paper"):
        runner.explain("ffff0000ffff", tmp_path)
