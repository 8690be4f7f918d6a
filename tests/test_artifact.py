"""ARTIFACT.md: every row has checks that exist, and those that are made for it alone."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from paper_repro.ledger import load_ledger
from paper_repro.papers import PAPERS
from paper_repro.paths import REPO, RESULTS
from paper_repro.plots.notebooks import notebooks

CHECK = r"`(tests/\w+\.py)::(\w+)`"
LARGEST = 1_000_000  # bytes of a file
DATA = {".parquet", ".arrow", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".bin", ".csv", ".whl"}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=REPO, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (REPO / ".git").exists():
        pytest.skip("needs a clone: this is a copy without git's history")
    return [REPO / name for name in git("ls-files", "-z").split("\0") if name]


def rows() -> list[list[str]]:
    lines = (REPO / "ARTIFACT.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return table[2:]


def test_every_row_has_checks_that_exist() -> None:
    assert {row[0].partition(":")[0] for row in rows()} == {"available", "functional", "reusable", "reproduced"}
    for row in rows():
        assert len(row) == 5 and row[3] in ("yes", "no"), row
        checks = re.findall(CHECK, row[4])
        assert checks, f"no check: {row[1]}"
        for file, name in checks:
            assert f"def {name}(" in (REPO / file).read_text(encoding="utf-8"), f"{file} has no {name}"


def test_no_archive_is_claimed_that_does_not_exist() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    claimed = "doi" in citation or any(one["type"] == "doi" for one in citation.get("identifiers", []))
    (row,) = [row for row in rows() if "DOI" in row[1]]
    assert claimed == (row[3] == "yes")


def test_the_licence_is_the_same_everywhere() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (REPO / "LICENSE").read_text(encoding="utf-8")[:200]


@pytest.mark.parametrize("document", ["README.md", "REPRODUCE.md", "ARTIFACT.md"])
def test_documents_name_what_exists(document: str) -> None:
    text = (REPO / document).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!http)([^)\s]+)\)", text)]
    files = re.findall(r"`((?:paper_repro|experiments|notebooks|figures|tests|docs|requirements)/[\w/.-]+)`", text)
    missing = [name for name in {*links, *files} - {""} if not (REPO / name).exists()]
    assert not missing
    sessions = set(re.findall(r"^def (\w+)\(session", (REPO / "noxfile.py").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"nox -s (\w+)", text)) <= sessions


def test_every_paper_has_all_its_parts() -> None:
    experiments = "\n".join(path.read_text(encoding="utf-8") for path in (REPO / "experiments").glob("*.py"))
    for paper in PAPERS:
        tiers = {path.stem for path in (REPO / "experiments" / "configs" / paper).glob("*.yaml")}
        assert tiers == {"smoke", "cpu", "gpu", "paper"}
        assert f'PAPER = "{paper}"' in experiments and notebooks(paper)
        assert load_ledger(paper).entries


def test_nothing_is_committed_that_does_not_belong_here(tracked: list[Path]) -> None:
    assert not [path for path in tracked if path.suffix in DATA or path.stat().st_size > LARGEST]
    private = re.compile(rb"/(?:home|Users|root)/\w|https?://[\w.]*(?:pypi|files\.pythonhosted|simple)[\w.]*/")
    texts = [path for path in tracked if path.suffix not in {".png", ".pdf"} and path != Path(__file__)]
    assert not [path for path in texts if private.search(path.read_bytes())]


def test_every_record_names_a_commit_that_is_here_and_was_clean(tracked: list[Path]) -> None:
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("needs the whole history: this clone is shallow")
    codes = {}
    for path in tracked:
        if path.suffix == ".json" and path.is_relative_to(RESULTS) and path.name != "claims.json":
            code = json.loads(path.read_text(encoding="utf-8"))["code"]
            codes[code["commit"]] = codes.get(code["commit"], False) or code["dirty"]
    assert codes and not any(codes.values()), "a record of changed code names none"
    for commit in codes:
        git("cat-file", "-e", f"{commit}^{{commit}}")


@pytest.mark.parametrize("paper", PAPERS)
def test_numbers_of_the_papers_are_judged_at_their_own_scale_only(paper: str) -> None:
    """What is quoted as a number has no check at a tier that is smaller than the paper's runs."""
    for entry in load_ledger(paper).entries:
        if entry.kind == "number":
            assert set(entry.checks) <= {"paper"}, entry.id


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_smoke_tier_runs_in_a_new_clone_as_reproduce_md_says(tracked: list[Path], tmp_path: Path) -> None:
    """The commands of its sections 0 and 1, as they stand there; the clone is of this repository's last commit."""
    text = (REPO / "REPRODUCE.md").read_text(encoding="utf-8")
    install, smoke = re.findall(r"^## [01]\..*?^```sh\n(.+?)^```", text, re.M | re.S)
    commands = (install + smoke).replace("<this repository>", str(REPO))
    left_out = {"PYTHONPATH", "VIRTUAL_ENV", "PAPER_REPRO_DATA", "OMP_NUM_THREADS", "NOXSESSION", "NOX_CURRENT_SESSION"}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["PAPER_REPRO_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    for paper in PAPERS:
        assert re.search(rf"{paper} smoke: \d+ cells, 0 already done, \d+ computed, 0 failed", said), paper
    report = tmp_path / "paper_repro" / "runs" / "report.html"
    assert report.stat().st_size > 100_000 and "runs/report.html" in said
