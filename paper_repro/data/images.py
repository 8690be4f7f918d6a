"""Images as one memory-mapped uint8 array, decoded once."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from paper_repro.config import sha256_key
from paper_repro.data.load import open_split
from paper_repro.data.own import rows_of
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir

if TYPE_CHECKING:
    import datasets

DECODING = 1  # raise when the pixels that decoding gives change: the cache is keyed on it


@dataclass(frozen=True)
class ImageSplit:
    """pixels uint8 [N, 3, H, W] (memory-mapped, read-only), labels int64 [N], names of the classes, fingerprint."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: list[str]
    fingerprint: str


def load_images(name: str, split: str, size: int | None = None) -> ImageSplit:
    """The images of ``split`` ("test" is the official labelled test), in RGB.

    ``size`` asks for size x size pixels: each is the mean of a block, rounded half up, so it must divide the height
    and width (our choice: exact, and the same in every library version). Decoded pixels are cached in
    ``<cache>/images/<fingerprint>.npy``; the fingerprint covers the files, the split and the size.

    Raises UserError for data that is missing, not images, of unequal sizes, or that ``size`` does not divide.
    """
    opened = open_split(name, split)
    if opened.info.modality != "image":
        raise UserError(f"The data set '{name}' holds text, not images; choose an image data set.")
    full_key = sha256_key({"data": opened.fingerprint, "decoding": DECODING})
    key = full_key if size is None else sha256_key({"data": full_key, "size": size})
    rows = rows_of(Path(name), split) if name.endswith(".parquet") else np.arange(len(opened.dataset))
    pixels = _cached(full_key, lambda path: _decode(opened.dataset, opened.info.columns.input, name, rows, path))
    if size is not None and tuple(pixels.shape[2:]) != (size, size):
        full = pixels
        pixels = _cached(key, lambda path: _pool(full, size, name, path))
    return ImageSplit(pixels, opened.labels(), opened.classes(), key)


def _cached(key: str, make: Callable[[Path], None]) -> np.ndarray:
    """The array of ``key`` in the cache; if it is not there one process makes it, and others wait."""
    path = cache_dir() / "images" / f"{key}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                temporary = path.with_suffix(".partial")
                try:
                    make(temporary)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _decode(dataset: "datasets.Dataset", column: str, name: str, rows: np.ndarray, path: Path) -> None:
    """``rows``: what messages call the images: their places in the file that they come from."""
    # One thread: two threads decode small JPEGs more slowly than one (the interpreter lock), 60,000 take 5 seconds.
    import datasets
    from PIL import Image

    raw = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    out: np.memmap[Any, Any] | None = None
    row = 0
    for batch in raw.with_format("arrow").iter(1000):
        for item in batch[column].combine_chunks().field("bytes"):
            try:
                picture = np.asarray(Image.open(io.BytesIO(item.as_py())).convert("RGB"))
            except (OSError, TypeError):
                raise UserError(f"Image {rows[row]} of '{name}' cannot be decoded; repair or remove it.") from None
            if out is None:
                shape = (len(dataset), 3, *picture.shape[:2])
                out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            if picture.shape[:2] != out.shape[2:]:
                raise UserError(
                    f"Image {rows[row]} of '{name}' is {picture.shape[1]}x{picture.shape[0]} pixels and the first one "
                    f"{out.shape[3]}x{out.shape[2]}; resize all images to one size."
                )
            out[row] = picture.transpose(2, 0, 1)
            row += 1
    assert out is not None, "a split is never empty: open_split checks"
    out.flush()


def _pool(pixels: np.ndarray, size: int, name: str, path: Path) -> None:
    count, channels, height, width = pixels.shape
    if size < 1 or height % size or width % size:
        raise UserError(
            f"Images of '{name}' are {width}x{height} pixels, which {size} does not divide; choose a size that does."
        )
    rows, columns = height // size, width // size
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, channels, size, size))
    area = rows * columns
    for start in range(0, count, 4096):
        block = pixels[start : start + 4096].reshape(-1, channels, size, rows, size, columns)
        total = block.sum(axis=(3, 5), dtype=np.uint32)
        out[start : start + 4096] = (2 * total + area) // (2 * area)
    out.flush()
