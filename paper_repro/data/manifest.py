"""What is known about every data set: ``manifest.yaml``, read once and validated."""

import difflib
from pathlib import Path
from typing import Literal

from paper_repro.config import Config, load_yaml
from paper_repro.errors import UserError


class SplitInfo(Config):
    """One split as the Hub names it.

    ``rows`` is what the publisher's split holds. ``sha256`` is that of a known good parquet file, whose row count is
    ``copy_rows`` where it differs. ``labelled`` is False where every label is withheld.
    """

    rows: int | None
    sha256: str | None = None
    copy_rows: int | None = None
    labelled: bool = True


class Columns(Config):
    """Which columns are the input, the second input of a pair, and the label."""

    input: str
    pair: str | None = None
    label: str | None = None


class DatasetInfo(Config):
    """One data set.

    ``folder`` is below the data root, ``hub`` a Hugging Face Hub id and ``config`` its configuration. ``revision`` is
    a commit of that repository, or None with the reason in ``revision_note``. ``gigabytes`` is the download, roughly.
    ``classes`` is filled in by ``describe``. ``test`` names the split that serves as the official test.
    """

    name: str = ""
    modality: Literal["image", "text"]
    source: Literal["hub", "local", "embedded", "own"] = "hub"
    folder: str | None = None
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    revision_note: str | None = None
    licence: str
    gigabytes: float | None = None
    columns: Columns
    splits: dict[str, SplitInfo]
    test: str | None = "test"
    papers: tuple[str, ...] = ()
    note: str | None = None
    classes: tuple[str, ...] = ()

    def split_name(self, split: str) -> str:
        """The publisher's name of ``split``: "test" means the labelled official test, GLUE's validation for example."""
        if split == "test" and self.test is not None:
            return self.test
        return split


class _Manifest(Config):
    datasets: dict[str, DatasetInfo]


def _read() -> dict[str, DatasetInfo]:
    manifest = load_yaml(Path(__file__).with_name("manifest.yaml"), _Manifest)
    return {name: info.model_copy(update={"name": name}) for name, info in manifest.datasets.items()}


MANIFEST: dict[str, DatasetInfo] = _read()


def lookup(name: str) -> DatasetInfo:
    """The entry of ``name``; UserError with the nearest names when there is none."""
    if name in MANIFEST:
        return MANIFEST[name]
    if Path(name).is_dir():
        raise UserError(f"'{name}' is a folder; give the path of one .parquet file.")
    near = difflib.get_close_matches(name, MANIFEST, n=3, cutoff=0.4) or list(MANIFEST)
    raise UserError(
        f"There is no data set '{name}'; choose one of {', '.join(near)} (all: paper-repro data list) "
        "or give the path of a .parquet file."
    )
