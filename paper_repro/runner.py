"""Run an experiment's cells: skip what is done, compute the rest in worker processes, write one record per cell.

An experiment module (see ``paper_repro.papers``) says which cells exist and how one is computed; this file knows
nothing about any paper. A finished cell is one file, so a killed run loses only the cells that were in flight.
"""

import ctypes
import importlib
import inspect
import os
import platform
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from paper_repro.config import Config, load_yaml, sha256_key
from paper_repro.errors import UserError
from paper_repro.papers import PAPERS
from paper_repro.paths import REPO
from paper_repro.results.environment import capture, code_state
from paper_repro.results.schema import SCHEMA, Metric, Record, Status
from paper_repro.results.store import Store

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGE = 32 << 20  # bytes; the most that glibc takes for this threshold


class Cell(Config):
    """One unit of work. Everything that decides its result is here, so the key of these fields names the result.

    ``stage`` orders the work: teachers before students.
    """

    paper: str
    experiment: str
    tier: str
    dataset: str
    model: str
    method: str
    params: dict[str, Any]
    seed: int
    stage: int = 0

    @property
    def name(self) -> str:
        """What progress bars, error messages and file names call this cell."""
        return f"{self.experiment}-{self.dataset}-{self.model}-{self.method}-s{self.seed}"

    def key(self) -> str:
        """SHA-256 over the fields that decide the result; not over when it is computed."""
        return sha256_key(self.model_dump(mode="json", exclude={"stage"}))


@dataclass
class Outcome:
    """What an experiment returns for one cell; see ``results.schema`` for the meaning of each part."""

    metrics: list[Metric]
    samples: dict[str, list[float | None]] = field(default_factory=dict)
    clocks: dict[str, float] = field(default_factory=dict)
    cost: Mapping[str, float | None] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    environments: list[dict[str, Any]] = field(default_factory=list)  # those of earlier parts of a resumed run


@dataclass(frozen=True)
class Summary:
    """How many cells there are, how many were already done, computed now, and failed now."""

    cells: list[Cell]
    already: int
    computed: int
    failed: list[str]


def experiment(paper: str) -> ModuleType:
    """The experiment module of ``paper``; UserError when this release has none."""
    if paper not in PAPERS:
        raise UserError(f"There is no experiment for the paper '{paper}'; choose one of: {', '.join(PAPERS)}.")
    return importlib.import_module(PAPERS[paper])


def load_config(paper: str, tier: str) -> Any:
    """The validated configuration of ``paper`` at ``tier``."""
    folder = REPO / "experiments" / "configs" / paper
    path = folder / f"{tier}.yaml"
    if not path.exists():
        tiers = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise UserError(f"The paper '{paper}' has no tier '{tier}'; choose one of: {tiers}.")
    return load_yaml(path, experiment(paper).CONFIG)


def select(cells: Iterable[Cell], only: str | None) -> list[Cell]:
    """The cells whose name contains ``only``; UserError when none does."""
    cells = list(cells)
    chosen = [cell for cell in cells if only is None or only in cell.name]
    if not chosen:
        raise UserError(f"No cell's name contains '{only}'; --dry-run without --only lists what there is.")
    return chosen


def run(
    paper: str,
    tier: str,
    *,
    results: Path,
    only: str | None = None,
    seeds: int | None = None,
    device: str = "cpu",
    data: str | None = None,
    corpus: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
) -> Summary:
    """Compute every cell of ``paper`` at ``tier`` that has no successful record under ``results``.

    ``data`` replaces the tier's data sets by one data set name or parquet file, and ``corpus`` (likewise) is its
    unlabelled text, for papers that use any; ``seeds`` caps the seeds per method;
    ``workers`` is the number of processes (default: one per core on a CPU, one on a GPU).
    """
    module = experiment(paper)
    own = {"data": data} if corpus is None else {"data": data, "corpus": corpus}
    if corpus is not None and data is None:
        raise UserError("A corpus is unlabelled text beside data of your own; give --data too.")
    if corpus is not None and "corpus" not in inspect.signature(module.cells).parameters:
        raise UserError(f"The paper '{paper}' uses no unlabelled text; leave --corpus out.")
    cells = select(module.cells(load_config(paper, tier), seeds=seeds, **own), only)
    return run_cells(cells, results, device, workers, dry_run)


def bench(
    paper: str, tier: str, *, results: Path, only: str | None = None, device: str = "cpu", dry_run: bool = False
) -> Summary:
    """Measure the timing cells of ``paper``: one after another, each with all cores, nothing beside them."""
    if "WORLD_SIZE" in os.environ:
        raise UserError("Timings are of one process; start 'paper-repro bench' without torchrun.")
    module = experiment(paper)
    cells = select(module.timing_cells(load_config(paper, tier), device), only)
    return run_cells(cells, results, device, 1, dry_run)


def plan(paper: str, tier: str) -> list[dict[str, Any]]:
    """Estimated cost of each experiment of a tier that this machine need not be able to run."""
    return list(experiment(paper).plan(load_config(paper, tier)))


def explain(key: str, results: Path) -> str:
    """What the cell with this key (or the start of one) is, and whether a run would compute it."""
    matches = [cell for cell in _all_cells() if cell.key().startswith(key)]
    if not matches:
        raise UserError(f"No cell of any paper and tier has a key that starts with '{key}'; check it in the record.")
    if len(matches) > 1:
        raise UserError(f"{len(matches)} cells have keys that start with '{key}'; give more characters.")
    cell = matches[0]
    record = Store(results).get(cell.key())
    if record is None:
        state = f"would run: there is no record of it in {results}"
    elif record.status != "ok":
        state = f"would run again: its last attempt ended as '{record.status}' ({record.error})"
    else:
        state = f"would not run: it finished at {record.finished_at}"
        if record.code.get("source_sha256") != code_state()["source_sha256"]:
            state += "; the source has changed since, which does not change keys (delete the record to recompute)"
    body = cell.model_dump_json(indent=2, exclude={"stage"})
    return f"{cell.name}\nkey {cell.key()}\n{state}\n{body}"


def _all_cells() -> list[Cell]:
    found: list[Cell] = []
    for paper in PAPERS:
        for path in sorted((REPO / "experiments" / "configs" / paper).glob("*.yaml")):
            config = load_config(paper, path.stem)
            found += experiment(paper).cells(config)
            found += [cell for device in ("cpu", "cuda") for cell in experiment(paper).timing_cells(config, device)]
    return found


def run_cells(
    cells: Sequence[Cell], results: Path, device: str, workers: int | None = None, dry_run: bool = False
) -> Summary:
    """Compute those of ``cells`` that have no successful record under ``results``; see ``run``."""
    store = Store(results)
    pending = [cell for cell in cells if not store.done(cell.key())]
    already = len(cells) - len(pending)
    if dry_run or not pending:
        return Summary(list(cells), already, 0, [])
    if "WORLD_SIZE" in os.environ:
        failed = _run_ranks(pending, results, device)
        return Summary(list(cells), already, len(pending) - len(failed), failed)
    cores = os.cpu_count() or 1
    size = min(workers or (cores if device == "cpu" else 1), len(pending))
    # On a CPU one thread each: sums, and so results, then do not depend on how many cores or cells there are.
    threads = 1 if device == "cpu" else max(1, cores // size)
    start = (threads, os.getpid())
    pool = ProcessPoolExecutor(size, get_context("spawn"), initializer=_start_worker, initargs=start)
    failed = []
    try:
        with _progress(len(pending)) as advance:
            for stage in sorted({cell.stage for cell in pending}):
                group = [cell for cell in pending if cell.stage == stage]
                jobs = {pool.submit(compute_cell, cell, results, device, threads, size): cell for cell in group}
                failed += _failures(jobs, advance)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return Summary(list(cells), already, len(pending) - len(failed), failed)


def _failures(jobs: dict[Future[str], Cell], advance: Any) -> list[str]:
    """Wait for all jobs; the names of the cells that failed."""
    failed = []
    waiting = set(jobs)
    while waiting:
        finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for future in finished:
            try:
                status = future.result()  # a UserError stops everything: it would hit every other cell as well
            except BrokenProcessPool:
                raise UserError(
                    "A worker process was killed, most likely for want of memory; run again with --workers 1 "
                    "(finished cells are kept)."
                ) from None
            if status != "ok":
                failed.append(jobs[future].name)
            advance(jobs[future].name)
    return failed


def _run_ranks(cells: Sequence[Cell], results: Path, device: str) -> list[str]:
    """Under torchrun all processes compute every cell together, one cell after another."""
    from paper_repro.train import distributed, rank_and_world

    with distributed(device) as own_device:
        world = rank_and_world()[1]
        statuses = [compute_cell(cell, results, own_device, torch_threads(), world) for cell in cells]
    return [cell.name for cell, status in zip(cells, statuses, strict=True) if status != "ok"]


def torch_threads() -> int:
    """Threads that torch uses in this process."""
    import torch

    return torch.get_num_threads()


def _start_worker(threads: int, parent: int) -> None:
    """Pin the threads, keep freed memory, and end this process should ``parent`` be killed, even while this starts."""
    import torch

    torch.set_num_threads(threads)
    if platform.libc_ver()[0] == "glibc":  # else every step gives its activations back and faults them in again
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)  # larger ones go back: of changing size, they would fragment the heap
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def compute_cell(cell: Cell, results: Path, device: str, threads: int, workers: int) -> str:
    """Compute one cell, write its record, return its status. A failure is recorded and never counts as done."""
    import torch

    from paper_repro.train import Diverged, rank_and_world

    started_at, started = datetime.now(UTC), time.perf_counter()
    error = None
    outcome = Outcome(metrics=[])
    status: Status = "ok"
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        outcome = experiment(cell.paper).compute(cell, device)
    except Exception as problem:
        if isinstance(problem, UserError) and not isinstance(problem, Diverged):
            raise  # it would hit every other cell as well
        out_of_memory = isinstance(problem, MemoryError | torch.OutOfMemoryError)
        status = "oom" if out_of_memory else "failed"
        error = f"{type(problem).__name__}: {problem}\n{traceback.format_exc(limit=-3)}"
    here = capture()
    record = Record(
        schema=SCHEMA,
        paper=cell.paper,
        experiment=cell.experiment,
        tier=cell.tier,
        dataset=cell.dataset,
        model=cell.model,
        method=cell.method,
        params=cell.params,
        seed=cell.seed,
        key=cell.key(),
        status=status,
        error=error,
        metrics=outcome.metrics,
        samples=outcome.samples,
        clocks={**outcome.clocks, "total_s": time.perf_counter() - started},
        # a CPU process computes many cells, so the most that it ever held says nothing of one
        cost={"peak_memory_bytes": float(torch.cuda.max_memory_allocated(device)) if on_gpu else None, **outcome.cost},
        protocol={"device": device, "threads": threads, "workers": workers, **outcome.protocol},
        data=outcome.data,
        environment=[*(past for past in outcome.environments if past != here), here],
        code=code_state(),
        started_at=started_at.isoformat(timespec="seconds"),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if rank_and_world()[0] == 0:
        Store(results).write(record)
    return status


class _progress:
    """A progress bar on a terminal, silence elsewhere."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("cells", total=total)

    def __enter__(self) -> Any:
        self.bar.start()
        return lambda name: self.bar.update(self.task, advance=1, description=name)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
