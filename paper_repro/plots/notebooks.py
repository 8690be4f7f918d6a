"""Run the notebooks headless, with this very interpreter, whatever kernels the machine has installed."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from paper_repro.errors import UserError
from paper_repro.paths import NOTEBOOKS, REPO, write_atomic
from paper_repro.plots.source import tiers_of


class _ThisInterpreter(KernelSpecManager):
    """Whatever kernel is asked for, it is this interpreter."""

    def get_kernel_spec(self, kernel_name: str) -> Any:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
        return KernelSpec(argv=argv, display_name="this interpreter", language="python")


def notebooks(paper: str) -> list[Path]:
    """The notebooks of ``paper``: its own and, for 'all', every one; what combines the papers is in the summary.

    Raises UserError when there is none.
    """
    name = {"all": "*", "combined": "*_summary"}.get(paper, f"*_{paper}")
    found = sorted(NOTEBOOKS.glob(f"{name}.ipynb"))
    if not found:
        names = ", ".join(path.stem.partition("_")[2] for path in sorted(NOTEBOOKS.glob("*.ipynb")))
        raise UserError(f"There is no notebook of '{paper}' in {NOTEBOOKS}; choose one of: all, {names}.")
    return found


def execute(
    paper: str, results: Path | str, figures: Path | str, tier: str = "cpu", timeout_s: float = 300
) -> list[Path]:
    """Execute the notebooks of ``paper`` ('all' for every one) on a results folder; return what was written.

    Figures go to ``figures/<paper>/``, and a copy of each notebook with its outputs to ``figures/notebooks/``.
    Where ``results`` has no records at ``tier``, the notebook takes another tier and says so. Raises UserError when
    the folder has none at all, or when a cell fails.
    """
    results, figures = Path(results).resolve(), Path(figures).resolve()
    chosen = notebooks(paper)
    if not any(tiers_of(results, folder.name) for folder in results.glob("*")):
        raise UserError(f"There are no records in {results}; 'paper-repro run titans --tier smoke' computes some.")
    environment = {
        **os.environ,
        "PAPER_REPRO_RESULTS": str(results),
        "PAPER_REPRO_FIGURES": str(figures),
        "PAPER_REPRO_TIER": tier,
        "MPLBACKEND": "agg",
    }

    async def all_() -> list[Path | BaseException]:  # side by side: each waits for a kernel, a process of its own
        running = (_execute(path, figures / "notebooks", environment, timeout_s) for path in chosen)
        return await asyncio.gather(*running, return_exceptions=True)  # one that fails stops no other in the middle

    written: list[Path] = []
    for outcome in asyncio.run(all_()):
        if isinstance(outcome, BaseException):
            raise outcome
        written.append(outcome)
    return written


async def _execute(path: Path, out: Path, environment: dict[str, str], timeout_s: float) -> Path:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=int(timeout_s),
        record_timing=False,
        resources={"metadata": {"path": str(REPO)}},
        km=AsyncKernelManager(kernel_spec_manager=_ThisInterpreter()),
    )
    try:
        await client.async_execute(env=environment, cleanup_kc=True)  # a manager that is handed in is else left running
    except CellExecutionError as error:
        last = str(error).strip().splitlines()[-1]
        raise UserError(f"The notebook {path.name} failed ({last}); run it in Jupyter to see where.") from error
    target = out / path.name
    write_atomic(target, nbformat.writes(notebook) + "\n")
    return target
