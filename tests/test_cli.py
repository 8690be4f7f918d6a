"""The command line: what it passes on, what it prints, and how it fails."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paper_repro import cli, doctor, ledger, runner
from paper_repro.errors import UserError
from paper_repro.papers import PAPERS
from paper_repro.paths import REPO, RESULTS, RUNS
from paper_repro.report import readme
from paper_repro.results import Metric, Record, Store

COMMANDS = ["doctor", "run", "bench", "claims", "figures", "report", "plan", "explain", "zoo", "data"]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Call the entry point; return exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        captured = capsys.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return call


def test_help_names_every_command(invoke: Invoke) -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert all(f" {command} " in out for command in COMMANDS)


def test_the_version_needs_no_command(invoke: Invoke) -> None:
    assert invoke("--version") == (0, f"{cli.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["run", "titanic"],
            "There is no paper 'titanic' here; choose one of: titans, sparse, recycle, majority, combined, all.",
        ),
        (["run", "titans", "--tier", "huge"], "has no tier 'huge'; choose one of: cpu, gpu, paper, smoke."),
        (["run", "titans", "--only", "nothing-like-it"], "No cell's name contains 'nothing-like-it'"),
        (["run", "titans", "--device", "tpu", "--dry-run"], "There is no device 'tpu'; choose cpu or cuda."),
        (["run", "titans", "--data", "absent.parquet"], "absent.parquet"),
        (["run", "titans", "--data", "."], "is a folder; give the path of one .parquet file"),
        (["claims", "--tier", "huge"], "There is no tier 'huge'"),
        (["explain", "zz"], "No cell of any paper and tier has a key that starts with 'zz'"),
        (["data", "verify", "sst3"], "There is no data set 'sst3'"),
        (["report", "--results", "absent"], "There are no records in absent"),
        (["figures", "--results", "absent"], "There are no records in"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(invoke: Invoke, arguments: list[str], sentence: str) -> None:
    code, out, err = invoke(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err and err.startswith("Error: ") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "run", "titanic"], ["run", "titanic", "--debug"]])
def test_debug_shows_the_traceback(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="no paper 'titanic'"):
        cli.main(arguments)


def test_a_folder_that_cannot_be_written_is_one_sentence_too(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, err = invoke("report", "--results", str(records(tmp_path)), "-o", str(tmp_path / "file" / "page.html"))
    assert code == 2 and "file" in err and "Traceback" not in err


def test_run_hands_its_options_on(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []

    def run(paper: str, tier: str, **options: Any) -> runner.Summary:
        seen.append((paper, tier, options))
        return runner.Summary([], 3, 2, ["student-x-s0"])

    monkeypatch.setattr(runner, "run", run)
    options = ["--only", "md", "--seeds", "2", "--workers", "1", "--results", str(tmp_path)]
    code, out, err = invoke("run", "titans", "--tier", "cpu", *options)
    expected = {
        "results": tmp_path, "only": "md", "seeds": 2, "device": "cpu", "data": None, "corpus": None,
        "workers": 1, "dry_run": False,
    }  # fmt: skip
    assert seen == [("titans", "cpu", expected)]
    assert code == 1 and "student-x-s0" in err, "a failed cell is named and the exit code says so"
    assert "3 already done, 2 computed, 1 failed" in out
    invoke("run", "all")
    assert seen[-1][:2] == (list(PAPERS)[-1], "smoke") and seen[-1][2]["results"] == RUNS


def test_a_dry_run_lists_every_cell_and_leaves_nothing(invoke: Invoke, tmp_path: Path) -> None:
    code, out, _ = invoke("run", "titans", "--dry-run", "--results", str(tmp_path / "runs"))
    cells = runner.experiment("titans").cells(runner.load_config("titans", "smoke"))
    assert code == 0 and all(cell.name in out and cell.key()[:12] in out for cell in cells)
    assert not (tmp_path / "runs").exists()


def test_explain_says_that_a_cell_would_run(invoke: Invoke, tmp_path: Path) -> None:
    cell = runner.experiment("titans").cells(runner.load_config("titans", "smoke"))[0]
    code, out, _ = invoke("explain", cell.key()[:16], "--results", str(tmp_path))
    assert code == 0 and cell.name in out and "would run" in out


def records(root: Path, accuracy: float = 0.8, seeds: int = 6) -> Path:
    """Records of kd and md students, md better by 0.02, so that claims have something to judge."""
    store = Store(root / "records")
    config = runner.load_config("titans", "smoke")
    for cell in runner.experiment("titans").cells(config):
        if cell.experiment == "student" and cell.seed < seeds:
            gain = 0.02 if cell.method == "md" else 0.0
            names = ["auc/margin", "accuracy", "auc/random", "teacher_accuracy", "deferred/teacher_accuracy"]
            metrics = [
                Metric(name=name, value=accuracy + gain + cell.seed / 1000, unit="fraction", split="test")
                for name in names
            ]
            fields = cell.model_dump(exclude={"stage"})
            store.write(Record(**fields, key=cell.key(), status="ok", metrics=metrics))
    return root / "records"


def test_claims_as_json_have_the_promised_fields(invoke: Invoke, tmp_path: Path) -> None:
    code, out, _ = invoke("claims", "titans", "--tier", "smoke", "--json", "--results", str(records(tmp_path)))
    found = json.loads(out)
    promised = [
        "id", "paper", "tier", "statement", "source", "certainty", "verdict", "expected", "measured", "ci_low",
        "ci_high", "n_seeds",
    ]  # fmt: skip
    assert code in (0, 1) and [entry["id"] for entry in found] == [e.id for e in ledger.load_ledger("titans").entries]
    assert all(set(promised) <= set(entry) for entry in found)
    assert any(entry["verdict"] != "not run" and entry["n_seeds"] for entry in found)


def test_claims_exit_with_1_when_a_verdict_got_worse(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = records(tmp_path)
    monkeypatch.setattr(cli, "RESULTS", tmp_path / "reference")
    options = ["claims", "titans", "--tier", "smoke", "--results", str(folder)]
    assert invoke(*options, "--write")[0] == 0, "there is no reference yet"
    written = ledger.claims_path(folder, "titans", "smoke")
    verdicts = ledger.read_verdicts(folder, "titans", "smoke")
    assert written.is_file() and verdicts

    ledger.write_verdicts(verdicts, tmp_path / "reference")
    code, out, _ = invoke(*options)
    assert code == 0 and "numbers agree with the reference results" in out

    worse = next(verdict for verdict in verdicts if verdict.reason == "no_check_at_tier")
    better = worse.model_copy(update={"verdict": "reproduced"})
    ledger.write_verdicts([better if v.id == worse.id else v for v in verdicts], tmp_path / "reference")
    code, _, err = invoke(*options)
    assert code == 1 and f"{worse.id} (smoke) got worse: reproduced -> {worse.verdict}" in err


def test_plan_is_printed_and_starts_nothing(invoke: Invoke) -> None:
    code, out, _ = invoke("plan", "majority", "--json")
    rows = json.loads(out)
    assert code == 0 and rows and all(row["paper"] == "majority" for row in rows)
    assert {"gpu_hours", "memory_gb", "disk_gb", "money_usd"} <= set(rows[0])
    code, out, _ = invoke("plan", "majority")
    assert code == 0 and f"In all {sum(row['gpu_hours'] for row in rows):,.1f} GPU-hours" in out


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("tier", ["gpu", "paper"])
def test_tiers_that_do_not_run_here_name_only_what_there_is(paper: str, tier: str) -> None:
    rows = runner.plan(paper, tier)
    assert rows and all(row["gpu_hours"] > 0 and row["runs"] > 0 for row in rows)
    hours, disk, money = (sum(row[name] for row in rows) for name in ("gpu_hours", "disk_gb", "money_usd"))
    said = f"| `{paper}` | {hours:,.0f} | {hours / 8:,.1f} | {disk:,.0f} | {money:,.0f} |"
    assert tier == "gpu" or said in (REPO / "REPRODUCE.md").read_text(encoding="utf-8")


def test_data_verify_checks_the_embedded_sets(invoke: Invoke) -> None:
    code, out, _ = invoke("data", "verify", "digits")
    assert code == 0 and "digits" in out and "2 splits are in order" in out


def test_data_list_names_all(invoke: Invoke) -> None:
    code, out, _ = invoke("data", "list")
    assert code == 0 and all(name in out for name in ("digits", "imdb", "cc_news"))


@pytest.mark.parametrize("there", [True, False])
def test_a_data_root_that_is_no_folder_is_not_passed_over(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    root = tmp_path / "root"
    if there:
        root.write_text("a file")
    monkeypatch.setenv("PAPER_REPRO_DATA", str(root))
    code, _, err = invoke("data", "verify")
    assert code == 2 and err.startswith(f"Error: PAPER_REPRO_DATA is {root}, which") and err.count("\n") == 1


def test_a_page_cannot_be_a_folder(invoke: Invoke, tmp_path: Path) -> None:
    code, _, err = invoke("report", "--results", str(records(tmp_path / "runs")), "-o", str(tmp_path))
    assert code == 2 and err == f"Error: {tmp_path} is a folder; give the name of a file in it.\n"


def test_figures_of_an_unknown_tier_are_refused(invoke: Invoke) -> None:
    code, _, err = invoke("figures", "--tier", "nope")
    assert code == 2 and err.startswith("Error: There is no tier 'nope'")


def test_judging_nothing_is_one_sentence(invoke: Invoke, tmp_path: Path) -> None:
    code, out, err = invoke("claims", "--json", "--results", str(tmp_path / "none"))
    assert (code, out) == (2, "") and err.startswith("Error: There are no records in ")


def test_the_data_root_is_in_order(invoke: Invoke, data_root: Path) -> None:
    code, out, err = invoke("data", "verify")
    assert (code, err) == (0, "") and "cifar10-jpeg" in out


def test_doctor_says_what_each_tier_lacks(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    monkeypatch.delenv("PAPER_REPRO_DATA", raising=False)
    code, out, _ = invoke("doctor", "--json")
    tiers = {(tier["paper"], tier["tier"]): tier for tier in json.loads(out)["tiers"]}
    assert code == 0 and tiers["titans", "smoke"]["possible"] and tiers["sparse", "smoke"]["possible"]
    assert not tiers["titans", "cpu"]["possible"] and "data set sst2" in tiers["titans", "cpu"]["lacks"]
    assert "data set qnli" in tiers["sparse", "cpu"]["lacks"], "a corpus is made of it"


def test_the_tier_chooses_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor.choose_device("", "cpu") == "cpu" == doctor.choose_device("cpu", "gpu")
    with pytest.raises(UserError, match="finds no CUDA device"):
        doctor.choose_device("", "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert doctor.choose_device("", "gpu") == "cuda"


def test_output_in_a_pipe_is_not_cut_and_the_module_can_be_run(tmp_path: Path) -> None:
    arguments = ["claims", "titans", "--tier", "smoke", "--results", str(records(tmp_path))]
    command = [sys.executable, "-m", "paper_repro.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
    assert "\x1b" not in done.stdout, "no colours in a pipe"
    entry = ledger.load_ledger("titans").entries[0]
    assert entry.statement[:120] in done.stdout


def test_readme_shows_the_reference_results() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert text == readme.filled(text, readme.results_table()), "stale: nox -s docs"
    entries = {entry.id for paper in PAPERS for entry in ledger.load_ledger(paper).entries}
    assert {f"{paper}/{claim}" for paper, claims in readme.HEADLINES.items() for claim in claims} <= entries
    with pytest.raises(UserError, match="lacks the markers"):
        readme.filled("nothing", "table")


def test_timings_name_data_and_seed_and_have_their_limits_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_timings("combined", "cpu", RESULTS)
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert len({tuple(row[:5]) for row in rows}) == len(rows), "no two rows alike"
    assert not any(row[4].endswith(("/low", "/high")) for row in rows)
    found = [record for record in Store(RESULTS).records("combined", "cpu") if record.experiment == "timing"]
    record = next(record for record in found if record.dataset == "trec" and record.seed == 1)
    metric = {one.name: f"{one.value:,.4g}" for one in record.metrics}
    name = "speedup/kd+teacher/throughput"
    expected = [metric[name], metric[f"{name}/low"], metric[f"{name}/high"], "ratio"]
    assert ["trec", "all", "cpu", "1", name, *expected] in rows
