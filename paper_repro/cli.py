"""The command line: parse, call the library, print. Nothing heavy is imported before a command needs it."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from paper_repro import __version__
from paper_repro.errors import UserError
from paper_repro.papers import PAPERS
from paper_repro.paths import FIGURES, RESULTS, RUNS

TIERS = ("smoke", "cpu", "gpu", "paper")


class Commands(TyperGroup):
    """Turns what the user can put right into one sentence and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (UserError, OSError) as error:
            if ctx.params.get("debug") or (isinstance(error, OSError) and error.filename is None):
                raise
            problem = f"{error.filename}: {error.strerror}." if isinstance(error, OSError) else str(error)
            typer.echo(f"Error: {problem}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="What data is here, is it right, and get it.")
app.add_typer(data_app, name="data")

Paper = Annotated[str, typer.Argument(metavar="PAPER|all", help=f"One of: {', '.join(PAPERS)}; or all.")]
Papers = Annotated[str, typer.Argument(metavar="[PAPER]", help=f"One of: {', '.join(PAPERS)}; or all.")]
Tier = Annotated[str, typer.Option(help=f"One of: {', '.join(TIERS)}.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.  [default: cuda for the tiers gpu and paper, else cpu]")]
Only = Annotated[str | None, typer.Option(help="Only cells whose name contains this.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Data sets.  [default: all]")]
Judged = Annotated[
    Path | None, typer.Option(help="Folder of records.  [default: runs/ where it has any of these, else results/]")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. ``--debug`` may stand anywhere."""
    import sys

    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = ["--debug"] if "--debug" in given else []
    app(args=debug + [argument for argument in given if argument != "--debug"], prog_name="paper-repro")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Four papers on big-model quality at small-model cost: run, judged and drawn."""


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine can run: Python, torch, devices, data present, disk, tiers possible."""
    from paper_repro import doctor as examination

    report = examination.examine()
    if as_json:
        print(json.dumps(report.model_dump(mode="json"), indent=1))
        return
    _table("this machine", ["", ""], report.facts.items())
    _table("tiers", ["tier", "paper", "possible", "why not"], [tier.row() for tier in report.tiers])


@data_app.command("list")
def data_list(names: Names = None) -> None:
    """The data sets of the manifest and where each of them is."""
    from paper_repro import data

    states = data.status(names or [])
    rows = [
        (s.info.name, s.state, ", ".join(s.here), ", ".join(s.absent), s.folder or s.info.hub, s.info.licence)
        for s in states
    ]
    _table("data sets", ["name", "state", "splits here", "not here", "where", "licence"], rows)


@data_app.command("fetch")
def data_fetch(names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets.")]) -> None:
    """Download data sets at their pinned revision into $PAPER_REPRO_DATA."""
    from paper_repro import data

    for name in names:
        folder = data.fetch(name)
        print(f"{name}: {folder or 'is made from the installed packages'}")


@data_app.command("verify")
def data_verify(names: Names = None) -> None:
    """Check the files that are here: readable, row counts, checksums."""
    from paper_repro import data

    checks = data.verify(names or [])
    rows = [(check.name, check.split, f"{check.rows:,}", check.checksum) for check in checks]
    _table("verified", ["name", "split", "rows", "checksum"], rows)
    print(f"{len(checks)} splits are in order.")


@app.command()
def run(
    paper: Paper,
    tier: Tier = "smoke",
    only: Only = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="At most this many seeds per method.")] = None,
    device: Device = "",
    data: Annotated[str | None, typer.Option(help="A data set, or a .parquet of text,label or img,label.")] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Unlabelled text for --data: a .parquet with a column text.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Where the records go.  [default: runs/, with --data runs/own/]")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.  [default: one per core, on cuda one]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and compute nothing.")] = False,
) -> None:
    """Compute what is not yet there. Can be stopped at any time and started again."""
    from paper_repro import doctor, runner

    where = results or (RUNS if data is None else RUNS / "own")
    _can_be_written(where)
    failed = False
    for name in _papers(paper):
        summary = runner.run(
            name, tier, results=where, only=only, seeds=seeds, device=doctor.choose_device(device, tier), data=data,
            corpus=corpus, workers=workers, dry_run=dry_run,
        )  # fmt: skip
        _print_summary(name, tier, summary, where, dry_run)
        failed |= bool(summary.failed)
        if data is not None and not dry_run and not summary.failed:
            from paper_repro.plots import own

            for dataset in sorted({cell.dataset for cell in summary.cells}):
                drawn = own.draw(where, name, tier, dataset, {cell.key() for cell in summary.cells})
                print(f"{len(drawn)} files in {_shown(drawn[0].parent)}" if drawn else "nothing to draw")
    raise typer.Exit(int(failed))


@app.command()
def bench(
    paper: Papers = "all",
    tier: Tier = "smoke",
    only: Only = None,
    device: Device = "",
    results: Annotated[Path, typer.Option(help="Where the records go.")] = RUNS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and measure nothing.")] = False,
) -> None:
    """The timing tables: models side by side, with nothing else running."""
    from paper_repro import doctor, runner

    _can_be_written(results)
    failed = False
    for name in _papers(paper):
        summary = runner.bench(
            name, tier, results=results, only=only, device=doctor.choose_device(device, tier), dry_run=dry_run
        )  # fmt: skip
        _print_summary(name, tier, summary, results, dry_run)
        if not dry_run:
            _print_timings(name, tier, results)
        failed |= bool(summary.failed)
    raise typer.Exit(int(failed))


@app.command()
def claims(
    paper: Papers = "all",
    tier: Annotated[str | None, typer.Option(help="A tier.  [default: every tier that has records]")] = None,
    as_json: Json = False,
    results: Judged = None,
    write: Annotated[bool, typer.Option("--write", help="Keep the verdicts beside the records.")] = False,
) -> None:
    """The verdict on every claim; exit code 1 if a verdict of the reference results got worse."""
    from paper_repro import ledger

    judged: list[ledger.Verdict] = []
    worse: list[ledger.Regression] = []
    for name in _papers(paper):
        for each in _tiers(name, tier, results):
            where = results or _records_folder(name, each)
            verdicts, reference = ledger.judge_results(where, name, each), ledger.read_verdicts(RESULTS, name, each)
            judged += verdicts
            worse += ledger.regressions(verdicts, reference)
            if write:
                ledger.write_verdicts(verdicts, where)
            if not as_json:
                _print_claims(f"{name}, tier {each}, records of {_shown(where)}", verdicts)
                if where.resolve() != RESULTS:
                    _print_agreement(ledger.compare(verdicts, reference))
    if not judged:
        raise UserError(f"There are no records in {_shown(results or RUNS)}; run 'paper-repro run {paper}' first.")
    if as_json:
        print(json.dumps([verdict.to_json() for verdict in judged], indent=1, allow_nan=False))
    for regression in worse:
        after = regression.after or "no longer in the ledger"
        typer.echo(f"{regression.id} ({regression.tier}) got worse: {regression.before} -> {after}", err=True)
    raise typer.Exit(int(bool(worse)))


@app.command()
def figures(
    paper: Papers = "all",
    tier: Annotated[str, typer.Option(help="The tier to draw; where it has no records, another.")] = "cpu",
    results: Judged = None,
    out: Annotated[
        Path | None, typer.Option("--figures", help="Where they go.  [default: figures/, or beside other records]")
    ] = None,
) -> None:
    """Execute the notebooks: every figure, with the data it shows beside it."""
    from paper_repro.plots import notebooks

    if paper != "all":
        _papers(paper)
    _tiers(paper, tier, results)
    where = results or _records_folder(paper, tier)
    for path in notebooks.execute(paper, where, out or _figures_folder(where), tier):
        print(_shown(path))


@app.command()
def report(
    out: Annotated[Path, typer.Option("-o", "--out", help="The page.")] = Path("report.html"),
    tier: Annotated[str | None, typer.Option(help="One tier only.  [default: all that have records]")] = None,
    results: Judged = None,
    figures: Annotated[Path | None, typer.Option(help="Where 'figures' drew.  [default: as there]")] = None,
) -> None:
    """One self-contained HTML page: claims, figures, environments, deviations."""
    from paper_repro.report import build

    where = results or _records_folder("all", tier)
    print(_shown(build(where, figures or _figures_folder(where), out, tier)))


@app.command()
def plan(paper: Papers = "all", tier: Tier = "paper", as_json: Json = False) -> None:
    """GPU-hours, memory, disk and money of each experiment of a tier; starts nothing."""
    from paper_repro import runner

    rows = [{"paper": name, **row} for name in _papers(paper) for row in runner.plan(name, tier)]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _rows(f"plan of tier {tier}", rows)
        hours, disk, money = (sum(row[name] for row in rows) for name in ("gpu_hours", "disk_gb", "money_usd"))
        print(f"In all {hours:,.1f} GPU-hours, {disk:,.1f} GB of disk, {money:,.0f} USD.")


@app.command()
def advise(
    data: Annotated[str, typer.Option(help="A data set, or a .parquet of text,label or img,label.")],
    budget: Annotated[
        str | None, typer.Option(help="What an example may cost: '2ms/example' (alone) or '500/s' (in batches).")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=10_000, help="About how long it may take.")] = 10.0,
    tier: Annotated[str, typer.Option(help="Whose recipes to shorten.")] = "cpu",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    results: Annotated[Path, typer.Option(help="Where the records go.")] = RUNS / "own",
    as_json: Json = False,
) -> None:
    """Which technique pays off on your own data and machine, by how much, and at what cost."""
    from paper_repro import advise as adviser
    from paper_repro import doctor

    limit = None if budget is None else adviser.parse_budget(budget)
    _can_be_written(results)
    advice = adviser.advise(
        data, limit, results, minutes=minutes, tier=tier, device=doctor.choose_device(device, tier),
        say=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    if as_json:
        print(advice.model_dump_json(indent=1))
        return
    _rows(f"advice for {data}" + (f" within {budget}" if budget else ""), [_option(one) for one in advice.options])
    for note in advice.notes:
        print(note)
    best = adviser.recommended(advice.options, limit)
    print(f"{best.name} in full, about {best.full_s / 60:.0f} minutes on one core: {best.command}")


def _can_be_written(results: Path) -> None:
    """Raises UserError where no records can be put: said before anything is computed."""
    nearest = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{_shown(nearest)} is a file; name a folder for the records with --results.")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"Nothing can be written in {_shown(nearest)}; name another folder with --results.")


def _option(option: Any) -> dict[str, Any]:
    """A line of ``advise``."""
    gain = "" if option.gain is None else f"{100 * option.gain:+.1f}"
    limits = "" if option.gain is None else f" [{100 * option.gain_low:+.1f}, {100 * option.gain_high:+.1f}]"
    return {
        "technique": option.name,
        "within budget": option.fits,
        "accuracy %": f"{100 * option.accuracy:.1f} [{100 * option.low:.1f}, {100 * option.high:.1f}]",
        "over plain, points": gain + limits,
        "deferred": "" if option.deferred is None else f"{option.deferred:.0%}",
        "ms alone": f"{1e3 * option.alone_s:.3g}",
        "examples/s in batches": f"{1 / option.among_s:,.0f}",
        "weights MB": f"{option.weights_bytes / 1e6:,.3g}",
        "training here, s": f"{option.training_s:,.3g}",
        "in full, min": f"{option.full_s / 60:,.3g}",
    }


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="A cell's key or its beginning, as in the name of its record.")],
    results: Annotated[Path, typer.Option(help="Folder of records.")] = RUNS,
) -> None:
    """What a cell is, and why it would, or would not, be run again."""
    from paper_repro import runner

    print(runner.explain(key, results))


@app.command()
def zoo() -> None:
    """The models: size, cost, licence, source."""
    from paper_repro.zoo import table

    _rows("models", table())


def _papers(name: str) -> list[str]:
    if name != "all" and name not in PAPERS:
        raise UserError(f"There is no paper '{name}' here; choose one of: {', '.join(PAPERS)}, all.")
    return list(PAPERS) if name == "all" else [name]


def _tiers(paper: str, tier: str | None, results: Path | None) -> list[str]:
    """The tier asked for, or those with records."""
    if tier is not None and tier not in TIERS:
        raise UserError(f"There is no tier '{tier}'; choose one of: {', '.join(TIERS)}.")
    if results is not None and not any(results.glob(f"*/{tier or '*'}")):
        raise UserError(f"There are no records in {_shown(results)}; run 'paper-repro run {paper}' first.")
    roots = [results] if results else [RUNS, RESULTS]
    return [tier] if tier else [name for name in TIERS if any((root / paper / name).is_dir() for root in roots)]


def _records_folder(paper: str, tier: str | None) -> Path:
    """What this machine computed, or else the reference results."""
    pattern = f"{'*' if paper == 'all' else paper}/{tier or '*'}/*-s*.json"
    return RUNS if any(RUNS.glob(pattern)) else RESULTS


def _figures_folder(records: Path) -> Path:
    """Figures of the reference results are committed beside them; those of other records lie within."""
    return FIGURES if records.resolve() == RESULTS else records / "figures"


def _shown(path: Path) -> str:
    """A path as people read it: from here, where it lies below."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)


def _print_summary(paper: str, tier: str, summary: Any, where: Path, dry_run: bool) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # torchrun: one of the processes speaks for all
    if dry_run:
        _table(f"{paper}, tier {tier}", ["key", "cell"], [(cell.key()[:12], cell.name) for cell in summary.cells])
    counts = f"{len(summary.cells)} cells, {summary.already} already done, {summary.computed} computed"
    print(f"{paper} {tier}: {counts}, {len(summary.failed)} failed; records in {_shown(where)}")
    for name in summary.failed:
        typer.echo(f"failed: {name} (its record says why)", err=True)


def _print_timings(paper: str, tier: str, results: Path) -> None:
    from paper_repro.results import load

    frame = load(results, paper, tier)
    timing = frame[(frame["experiment"] == "timing") & (frame["status"] == "ok")]
    rows = []
    for (data, models, where, seed), record in timing.groupby(["dataset", "model", "method", "seed"], sort=False):
        found = dict(zip(record["metric"], record["value"], strict=True))
        for name, value, unit in record[["metric", "value", "unit"]].itertuples(index=False):
            if name.rpartition("/")[0] not in found:  # else a limit or a detail of another number
                low, high = (found.get(f"{name}/{limit}") for limit in ("low", "high"))
                rows.append((data, models, where, seed, name, value, low, high, unit))
    columns = ["data", "models", "on", "seed", "metric", "value", "low", "high", "unit"]
    _table(f"{paper}, tier {tier}: timings", columns, rows)


def _print_claims(title: str, verdicts: Iterable[Any]) -> None:
    from paper_repro.ledger import listed
    from paper_repro.plots.claims import claims_table

    verdicts = list(verdicts)
    table = claims_table(verdicts)
    _table(title, list(table.columns), table.itertuples(index=False))
    unlisted = len(verdicts) - len(listed(verdicts))
    if unlisted:
        print(f"{unlisted} numbers of the paper's tables are not judged and not shown; --json prints them too.")


def _print_agreement(comparisons: Sequence[Any]) -> None:
    """How the numbers compare with the reference results. About one in a hundred differs by chance."""
    if not comparisons:
        return
    differing = [c for c in comparisons if not c.agrees]
    print(f"{len(comparisons) - len(differing)} of {len(comparisons)} numbers agree with the reference results.")
    for c in differing:
        print(f"  {c.id} {c.part}: {c.new:.4g} here, {c.committed:.4g} in the reference, tolerance {c.tolerance:.2g}")


def _rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of dictionaries with the same keys."""
    _table(title, list(rows[0]) if rows else [], [row.values() for row in rows])


def _table(title: str, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """A table as wide as the terminal; elsewhere as wide as it needs to be."""
    console = Console()
    if not console.is_terminal:
        console.width = 500
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)


def _cell(value: Any) -> Text:
    """A value as text that rich does not interpret: four significant digits, thousands separated."""
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}")
    return Text(f"{value:,}" if isinstance(value, int) else str(value))


if __name__ == "__main__":
    main()
