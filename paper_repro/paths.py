"""Where things are, and how a file is written so that nobody ever sees half of it."""

import os
import tempfile
from pathlib import Path

from paper_repro.errors import UserError

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "results"  # committed reference results
RUNS = REPO / "runs"  # what this machine computes; ignored by git
FIGURES = REPO / "figures"
NOTEBOOKS = REPO / "notebooks"


def cache_dir() -> Path:
    """Folder for what can be rebuilt: decoded images, teachers, teacher logits, checkpoints.

    ``$PAPER_REPRO_CACHE`` if set, else ``~/.cache/paper_repro``.
    """
    folder = Path(os.environ.get("PAPER_REPRO_CACHE") or Path.home() / ".cache" / "paper_repro")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"The cache {folder} is no folder; set PAPER_REPRO_CACHE to one, or unset it.")
    return folder


def data_root() -> Path | None:
    """``$PAPER_REPRO_DATA`` as a path, or None when it is not set. Raises UserError when it is a file."""
    root = os.environ.get("PAPER_REPRO_DATA")
    if root and Path(root).exists() and not Path(root).is_dir():
        raise UserError(f"PAPER_REPRO_DATA is {root}, which is no folder; set it to one, or unset it.")
    return Path(root) if root else None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` to a temporary name beside ``path``, flush it to disk, and rename it into place."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the name of a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
