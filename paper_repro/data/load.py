"""One way to open a data set: the data root if it is there, else the pinned Hub revision, else a clear sentence."""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paper_repro.config import sha256_key
from paper_repro.data.manifest import MANIFEST, DatasetInfo, lookup
from paper_repro.errors import UserError
from paper_repro.paths import data_root

if TYPE_CHECKING:
    import datasets

IMPLICIT_GIGABYTES = 5.0  # more than this is only downloaded by an explicit fetch
FETCHED = "fetched.json"  # what ``fetch`` writes beside the files: where they came from and their checksums


@dataclass(frozen=True)
class Opened:
    """A split with the entry that describes it and the fingerprint of its content."""

    dataset: "datasets.Dataset"
    info: DatasetInfo
    fingerprint: str

    def strings(self, column: str) -> list[str]:
        """A text column, read at once (several times faster than through the data set's own rows)."""
        return list(self.dataset.with_format("arrow")[:][column].to_pylist())

    def labels(self) -> np.ndarray:
        """Labels int64 [N]; UserError when the data set has no class labels."""
        self.classes()
        return np.asarray(self.dataset.with_format("numpy")[self.info.columns.label][:], dtype=np.int64)

    def classes(self) -> list[str]:
        """Names of the classes, in label order; UserError when the data set has no class labels."""
        feature = self.dataset.features.get(self.info.columns.label or "")
        if not hasattr(feature, "names"):
            raise UserError(f"The data set '{self.info.name}' has no class labels; choose a classification data set.")
        return list(feature.names)


def load(name_or_path: str, split: str) -> "datasets.Dataset":
    """The split as a ``datasets.Dataset`` with the Hub's column names.

    ``name_or_path`` is a name of the manifest or the path of a parquet file (see ``own``); ``split`` is the
    publisher's name of a split, or "test" for the official labelled test.
    """
    return open_split(name_or_path, split).dataset


def describe(name_or_path: str) -> DatasetInfo:
    """The entry of a data set, with its classes read from the data."""
    opened = open_split(name_or_path, "train")
    return opened.info.model_copy(update={"classes": tuple(opened.classes())})


def fingerprint(name_or_path: str, split: str) -> str:
    """SHA-256 that names the content of a split."""
    return open_split(name_or_path, split).fingerprint


def label(name: str) -> str:
    """What records call a data set: its name, or for a user's file its stem and the start of its fingerprint."""
    return f"{Path(name).stem}-{fingerprint(name, 'train')[:8]}" if name.endswith(".parquet") else name


def absolute(name: str) -> str:
    """``name``, or the one spelling of a file's path: the same file then gives the same keys."""
    return str(Path(name).resolve()) if name.endswith(".parquet") else name


def open_split(name: str, split: str, *, as_published: bool = False) -> Opened:
    """Open ``split`` of ``name``; ``as_published``: "test" is the publisher's own, labelled or not.

    Raises UserError: unknown name or split, missing, damaged or ambiguous data.
    """
    if name.endswith(".parquet"):
        from paper_repro.data.own import open_own

        return Opened(*open_own(Path(name), split))
    info = lookup(name)
    split = split if as_published else info.split_name(split)
    if split not in info.splits:
        raise UserError(f"The data set '{name}' has no split '{split}'; choose one of: {', '.join(info.splits)}.")
    if info.source == "embedded":
        from paper_repro.data.embedded import open_embedded

        return Opened(*open_embedded(info, split))
    folder = local_folder(info)
    return _open_local(info, split, folder) if folder else _open_hub(info, split)


def local_folder(info: DatasetInfo) -> Path | None:
    """The folder of this data set below the data root, None when it is not there.

    Two data sets may share a folder name (CIFAR-10 and its JPEG copy); then the checksum of a file says which one is
    there, and UserError is raised when the files are neither.
    """
    root = data_root()
    if root is None or info.folder is None or not any((root / info.folder).glob("*.parquet")):
        return None
    folder = root / info.folder
    rivals = _rivals(info)
    if len(rivals) == 1:
        return folder
    owner = owner_of(folder, rivals)
    if owner is None:
        names = " nor ".join(f"'{rival.name}'" for rival in rivals)
        raise UserError(f"By their checksums the files in {folder} are neither {names}; restore the folder.")
    return folder if owner.name == info.name else None


def _rivals(info: DatasetInfo) -> list[DatasetInfo]:
    """``info`` and the data sets whose other files would lie in the same folder."""
    others = [other for other in MANIFEST.values() if other.folder == info.folder and other.splits != info.splits]
    return [info, *others]


def owner_of(folder: Path, rivals: list[DatasetInfo]) -> DatasetInfo | None:
    """Which of the data sets that share this folder name lies in ``folder``: by ``fetch``'s note, else by checksum."""
    fetched = read_fetched(folder)
    for rival in rivals:
        if fetched and fetched.get("dataset") == rival.name:
            return rival
        for split, known in rival.splits.items():
            path = folder / f"{split}.parquet"
            if known.sha256 and path.exists() and sha256_of(path) == known.sha256:
                return rival
    return None


def read_fetched(folder: Path) -> dict[str, object] | None:
    """The note that ``fetch`` left in ``folder``, None when there is none."""
    path = folder / FETCHED
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path} is not valid JSON; delete {folder} and fetch the data set again.") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a data file, remembered until the file changes."""
    stat = path.stat()
    return _sha256_of(str(path), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _sha256_of(path: str, modified_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parquet_rows(path: Path) -> int:
    """Rows of a parquet file by its own metadata; UserError when it is truncated or not parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(path).metadata.num_rows)
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"{path} is truncated or not a parquet file; replace it with a good copy.") from None


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "TRUE", "YES", "ON"}


def missing(info: DatasetInfo, why: str | None = None) -> UserError:
    """The one sentence for data that is not here: what is missing, how to fetch it, where to put it."""
    root = data_root()
    files = f"{info.folder}/<split>.parquet"
    if root and info.folder and (owner := owner_of(root / info.folder, _rivals(info))) and owner.name != info.name:
        why = f"{root / info.folder} holds '{owner.name}'"
    where = f"put {files} below {root}" if root else f"set PAPER_REPRO_DATA to a folder that holds {files}"
    fetch = f", or run 'paper-repro data fetch {info.name}' with network access" if info.hub else ""
    return UserError(f"The data set '{info.name}' is not here{f' ({why})' if why else ''}: {where}{fetch}.")


def _open_local(info: DatasetInfo, split: str, folder: Path) -> Opened:
    path = folder / f"{split}.parquet"
    if not path.exists():
        raise UserError(f"The split '{split}' of '{info.name}' is not here: put it at {path}.")
    known = info.splits[split]
    allowed = {rows for rows in (known.rows, known.copy_rows) if rows is not None}
    rows = parquet_rows(path)
    if allowed and rows not in allowed:
        raise UserError(wrong_rows(path, rows, allowed))
    fingerprint = sha256_key({"files": {path.name: sha256_of(path)}, "split": split})
    return Opened(_load_dataset(info, str(folder), split, file=path.name), info, fingerprint)


def wrong_rows(path: Path, rows: int, allowed: set[int]) -> str:
    """The sentence for a file with too few or too many rows."""
    expected = " or ".join(f"{count:,}" for count in sorted(allowed))
    return f"{path} has {rows:,} rows where the manifest says {expected}; replace it with a good copy."


def _open_hub(info: DatasetInfo, split: str) -> Opened:
    if info.hub is None:
        raise missing(info)
    if info.revision is None:
        raise missing(info, "the manifest pins no Hub revision")
    if (info.gigabytes or 0.0) > IMPLICIT_GIGABYTES:
        raise missing(info, f"about {info.gigabytes:g} GB, which are only downloaded when asked for")
    identity = {"hub": info.hub, "config": info.config, "revision": info.revision, "split": split}
    return Opened(_load_dataset(info, info.hub, split), info, sha256_key(identity))


def _load_dataset(info: DatasetInfo, path: str, split: str, file: str | None = None) -> "datasets.Dataset":
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    if file is not None:  # named, as the library guesses only the names train, validation and test
        return datasets.load_dataset(path, data_files={split: file}, split=split)
    try:
        if not offline():  # ask once with a short timeout: load_dataset would retry for half a minute without network
            huggingface_hub.HfApi().dataset_info(path, revision=info.revision, timeout=10.0)
        # Offline, this still finds what an earlier download left in the Hub's own cache.
        return datasets.load_dataset(path, info.config, revision=info.revision, split=split)
    except Exception as error:  # the client raises its own, the HTTP library's and the operating system's errors
        why = "HF_HUB_OFFLINE is set" if offline() else f"asking the Hub gave {type(error).__name__}"
        raise missing(info, why) from error
