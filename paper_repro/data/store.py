"""The commands behind ``paper-repro data``: what is here (status), is it right (verify), get it (fetch)."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from paper_repro.config import canonical_json
from paper_repro.data.load import (
    FETCHED,
    local_folder,
    missing,
    offline,
    open_split,
    parquet_rows,
    read_fetched,
    sha256_of,
    wrong_rows,
)
from paper_repro.data.manifest import MANIFEST, DatasetInfo, lookup
from paper_repro.errors import UserError
from paper_repro.paths import data_root, write_atomic


@dataclass(frozen=True)
class Status:
    """Where a data set is: below the data root, built from installed libraries, to be had from the Hub, or nowhere.

    ``here`` and ``absent`` are its splits; ``folder`` is where it lies.
    """

    info: DatasetInfo
    state: Literal["local", "embedded", "hub", "missing"]
    here: list[str]
    absent: list[str]
    folder: Path | None


@dataclass(frozen=True)
class Check:
    """One verified file (or built split). ``checksum`` is "ok", or "unknown" where nothing is known to compare with."""

    name: str
    split: str
    rows: int
    checksum: Literal["ok", "unknown"]


def status(names: Iterable[str] = ()) -> list[Status]:
    """The state of the named data sets, of all when none is named. Opens and downloads nothing."""
    return [_status(info) for info in _chosen(names)]


def _status(info: DatasetInfo) -> Status:
    splits = list(info.splits)
    if info.source == "embedded":
        return Status(info, "embedded", splits, [], None)
    folder = local_folder(info)
    if folder is None:
        return Status(info, "hub" if info.hub and info.revision else "missing", [], splits, None)
    here = [split for split in splits if (folder / f"{split}.parquet").exists()]
    return Status(info, "local", here, [split for split in splits if split not in here], folder)


def verify(names: Iterable[str] = ()) -> list[Check]:
    """Check every file of the named data sets, or of all that are here: readable, row count, checksum.

    A split that is not here is not an error; a data set that is named and not here is. Checksums are compared with
    what ``fetch`` noted, else with the manifest. Raises one UserError: the problem, or all of them if there are more.
    """
    named, root = list(names), data_root()
    if not named and root is not None and not root.exists():
        raise UserError(f"PAPER_REPRO_DATA is {root}, which does not exist; set it to a folder, or unset it.")
    checks: list[Check] = []
    problems: list[str] = []
    for info in _chosen(named):
        for split in info.splits:
            try:
                check = _check_split(info, split)
            except UserError as problem:
                problems.append(str(problem))
            else:
                checks += [check] if check else []
        if named and not problems and not any(check.name == info.name for check in checks):
            raise missing(info)
    problems = list(dict.fromkeys(problems))  # files that belong to neither of two data sets are met under both
    if problems:
        head = f"{len(problems)} things are wrong: " if len(problems) > 1 else ""
        raise UserError(head + "; ".join(text.rstrip(".") for text in problems) + ".")
    return checks


def _check_split(info: DatasetInfo, split: str) -> Check | None:
    """The check of one split; None when it is not here."""
    if info.source == "embedded":
        return Check(info.name, split, len(open_split(info.name, split).dataset), "ok")
    root = data_root()
    path = root / info.folder / f"{split}.parquet" if root and info.folder else None
    if path is None or not path.exists():
        return None
    rows = parquet_rows(path)  # first, so that a truncated file is called that and not a file of unknown origin
    if local_folder(info) is None:
        return None
    known = info.splits[split]
    noted = (read_fetched(path.parent) or {}).get("files")
    if isinstance(noted, dict) and split in noted:
        expected, allowed = noted[split]["sha256"], {noted[split]["rows"]}
    else:
        expected, allowed = known.sha256, {known.copy_rows or known.rows} - {None}
    if allowed and rows not in allowed:
        raise UserError(wrong_rows(path, rows, allowed))
    if expected is None:
        return Check(info.name, split, rows, "unknown")
    found = sha256_of(path)
    if found != expected:
        raise UserError(
            f"{path} has a SHA-256 that starts with {found[:12]} and not {expected[:12]}; replace it with a good copy."
        )
    return Check(info.name, split, rows, "ok")


def fetch(name: str) -> Path | None:
    """Download the absent splits of ``name`` at its pinned revision into the data root; None for embedded data sets.

    Where the manifest pins no revision, the Hub's current one is taken and noted. Files appear whole, and beside them
    ``fetched.json`` with repository, revision, row counts and checksums. Raises UserError when offline, without a data
    root, or when the Hub does not give the data.
    """
    info = lookup(name)
    if info.source == "embedded":
        return None
    root = data_root()
    folder = local_folder(info)
    if folder is not None and all((folder / f"{split}.parquet").exists() for split in info.splits):
        return folder
    if info.hub is None:
        raise missing(info, info.note)
    if root is None or info.folder is None:
        raise UserError(f"There is no place to put '{name}': set PAPER_REPRO_DATA to a folder for data sets.")
    if offline():
        raise UserError(f"HF_HUB_OFFLINE forbids to download '{name}'; unset it, or fetch on a machine with network.")
    target = root / info.folder
    if folder is None and any(target.glob("*.parquet")):
        raise UserError(f"{target} already holds another data set; choose an empty data root for '{name}'.")
    try:
        _download(info, target)
    except Exception as error:  # the client raises its own, the HTTP library's and the operating system's errors
        first = " ".join(str(error).split())[:200]
        raise UserError(f"'{name}' could not be fetched ({type(error).__name__}: {first}); try again later.") from error
    return target


def _download(info: DatasetInfo, target: Path) -> None:
    import datasets
    from huggingface_hub import HfApi

    assert info.hub is not None
    before = read_fetched(target) or {}
    revision = info.revision or before.get("revision") or HfApi().dataset_info(info.hub).sha
    note = {"dataset": info.name, "hub": info.hub, "config": info.config, "revision": revision, "files": {}}
    note["files"] = files = dict(before.get("files") or {})  # type: ignore[call-overload]
    target.mkdir(parents=True, exist_ok=True)
    (datasets.enable_progress_bars if sys.stderr.isatty() else datasets.disable_progress_bars)()
    for split in info.splits:
        path = target / f"{split}.parquet"
        if path.exists():
            continue
        temporary = path.with_suffix(".partial")
        data = datasets.load_dataset(info.hub, info.config, revision=revision, split=split)
        data.to_parquet(temporary)
        files[split] = {"rows": len(data), "sha256": sha256_of(temporary)}
        note["fetched_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomic(target / FETCHED, canonical_json(note) + "\n")  # first: a file here is never of unknown origin
        temporary.replace(path)


def _chosen(names: Iterable[str]) -> list[DatasetInfo]:
    return [lookup(name) for name in names] or list(MANIFEST.values())
