"""From nothing to the report, as a user does it: the smoke tier through the command line, one seed of everything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from paper_repro import runner
from paper_repro.papers import PAPERS
from paper_repro.paths import FIGURES, REPO
from paper_repro.plots.own import plots
from paper_repro.results import Store

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(900)]


def paper_repro(*arguments: str) -> str:
    """Output of a command that must succeed and, outside a terminal, draw no progress bars."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PAPER_REPRO_DATA")
    }
    command = [sys.executable, "-m", "paper_repro.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=environment)
    assert done.returncode == 0, done.stderr or done.stdout
    assert "\r" not in done.stderr and "━" not in done.stderr
    return done.stdout


def test_from_nothing_to_the_report(tmp_path: Path) -> None:
    results = tmp_path / "runs"
    before = {path: path.stat().st_mtime_ns for path in FIGURES.rglob("*")}
    arguments = ["run", "all", "--tier", "smoke", "--seeds", "1", "--results", str(results)]
    computed, again = paper_repro(*arguments), paper_repro(*arguments)
    assert "0 failed" in paper_repro("bench", "--tier", "smoke", "--results", str(results))
    verdicts = json.loads(paper_repro("claims", "--tier", "smoke", "--json", "--results", str(results)))
    assert {verdict["tier"] for verdict in verdicts} == {"smoke"}
    paper_repro("figures", "--tier", "smoke", "--results", str(results))
    page = tmp_path / "report.html"
    paper_repro("report", "--results", str(results), "-o", str(page))
    text = page.read_text(encoding="utf-8")
    assert 'src="http' not in text and 'href="http' not in text.replace('href="https://arxiv.org', ""), "self-contained"
    for paper in PAPERS:
        cells = runner.experiment(paper).cells(runner.load_config(paper, "smoke"), seeds=1)
        assert f"{paper} smoke: {len(cells)} cells, 0 already done, {len(cells)} computed, 0 failed" in computed
        assert f"{len(cells)} already done, 0 computed" in again, "a second run computes nothing"
        records = Store(results).records(paper, "smoke")
        timings = [record for record in records if record.experiment == "timing"]
        assert {record.key for record in records} - {record.key for record in timings} == {c.key() for c in cells}
        assert timings and all(record.status == "ok" and record.metrics and record.environment for record in records)

        judged = [verdict for verdict in verdicts if verdict["paper"] == paper]
        assert any(verdict["measured"] is not None for verdict in judged)
        claims = [verdict["id"].partition("/")[2] for verdict in judged if verdict["table"] is None]
        assert all(claim in text for claim in claims), "numbers of a paper's tables stand in our tables"

        experiments = {record.experiment for record in records}
        shown = {name for name, plot in plots(paper).items() if experiments & set(plot.experiments)}
        drawn = {path.stem for path in (results / "figures" / paper).glob("*.json")}
        assert drawn == shown, "every figure and table of what was run, each with its data"
        assert set(plots(paper)) - shown <= {"glue"}, "GLUE is no data that comes with a package"
    assert {path: path.stat().st_mtime_ns for path in FIGURES.rglob("*")} == before, (
        "committed figures stay as they are"
    )


@pytest.mark.slow
def test_a_users_own_text_with_unlabelled_text_to_figures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(300)])

    def texts(count: int, labels: np.ndarray) -> list[str]:
        drawn = rng.choice(150, (count, 12)) + 100 * labels[:, None]
        return [" ".join(row) for row in words[drawn]]

    labels = rng.integers(0, 2, 300)
    own, more = tmp_path / "own.parquet", tmp_path / "more.parquet"
    pd.DataFrame({"text": texts(300, labels), "label": labels}).to_parquet(own)
    pd.DataFrame({"text": texts(400, rng.integers(0, 2, 400))}).to_parquet(more)
    results = tmp_path / "runs"
    arguments = ["run", "sparse", "--data", str(own), "--corpus", str(more), "--seeds", "1", "--results", str(results)]
    assert "0 failed" in paper_repro(*arguments)
    records = Store(results).records("sparse", "smoke")
    accuracy = {
        record.method: metric.value
        for record in records
        if (record.experiment, record.model) == ("student", "dan")
        for metric in record.metrics
        if (metric.name, metric.split) == ("accuracy", "test")
    }
    assert {"scratch", "kd", "kd-c", "kd+ft"} <= accuracy.keys()
    assert accuracy["scratch-own"] > 0.8, "what words alone tell; random n-grams and so small a teacher hide it"
    assert list(results.rglob("main-table.png")) and "0 computed" in paper_repro(*arguments)
