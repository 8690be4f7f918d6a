"""Decoding, pooling and augmentation of images."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paper_repro import data
from paper_repro.data.augment import normalise, random_flip_crop
from paper_repro.errors import UserError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PAPER_REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def write(path: Path, pictures: list[np.ndarray]) -> None:
    table = {"img": [png(picture) for picture in pictures], "label": [row % 2 for row in range(len(pictures))]}
    datasets.Dataset.from_dict(table).to_parquet(path)


def test_pixels_are_decoded_once_exactly_and_memory_mapped(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (6, 4, 3), dtype=np.uint8) for _ in range(20)]
    path = tmp_path / "own.parquet"
    write(path, pictures)
    parts = {split: data.load_images(str(path), split) for split in ("train", "test")}
    found = [image.tobytes() for part in parts.values() for image in part.pixels]
    assert sorted(found) == sorted(picture.transpose(2, 0, 1).tobytes() for picture in pictures)
    train = parts["train"]
    assert isinstance(train.pixels, np.memmap) and train.pixels.shape[1:] == (3, 6, 4)
    assert not train.pixels.flags.writeable and train.labels.dtype == np.int64 and train.classes == ["0", "1"]
    monkeypatch.setattr("paper_repro.data.images._decode", None)
    assert np.array_equal(data.load_images(str(path), "train").pixels, train.pixels), "read from the cache"
    assert not list(cache.rglob("*.partial"))


def test_pooling_is_the_exact_mean_rounded_half_up(tmp_path: Path) -> None:
    block = np.array([[0, 1], [0, 1]], dtype=np.uint8)  # mean 0.5 -> 1
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    picture[:2, :2] = block[..., None]
    picture[2:, 2:] = 255
    path = tmp_path / "own.parquet"
    pictures = []
    for row in range(10):
        pictures.append(picture.copy())
        pictures[-1][:2, 2:] = 10 * row
    write(path, pictures)
    pooled = data.load_images(str(path), "train", size=2)
    full = data.load_images(str(path), "train")
    assert pooled.pixels.dtype == np.uint8 and pooled.pixels.shape == (len(full.pixels), 3, 2, 2)
    for small, large in zip(pooled.pixels, full.pixels, strict=True):
        assert small[0].tolist() == [[1, large[0, 0, 3]], [0, 255]]
    assert pooled.fingerprint != full.fingerprint
    with pytest.raises(UserError, match="3 does not divide"):
        data.load_images(str(path), "train", size=3)


def test_images_of_unequal_size_and_broken_images_are_named(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "own.parquet"
    write(path, [np.full((4 + row % 2, 4, 3), row, dtype=np.uint8) for row in range(12)])
    with pytest.raises(UserError, match="resize all images"):
        data.load_images(str(path), "train")
    datasets.Dataset.from_dict({"img": [b"no image %d" % row for row in range(10)], "label": [0, 1] * 5}).to_parquet(
        path
    )
    with pytest.raises(UserError, match=r"Image \d+ of .* cannot be decoded; repair or remove it\.$"):
        data.load_images(str(path), "train")
    images = [png(np.full((4, 4, 3), row, dtype=np.uint8)) for row in range(30)]
    images[17] = b"no image"
    datasets.Dataset.from_dict({"img": images, "label": [0, 1] * 15}).to_parquet(path)
    with pytest.raises(UserError, match=r"Image 17 of"):  # its row in the file, whichever part it is in
        for split in ("train", "test"):
            data.load_images(str(path), split)
    assert not list(cache.rglob("*.partial"))


def test_digits_are_all_there_once() -> None:
    from sklearn.datasets import load_digits

    train, test = data.load_images("digits", "train"), data.load_images("digits", "test")
    assert train.pixels.shape == (1438, 3, 8, 8) and test.pixels.shape == (359, 3, 8, 8)
    assert np.bincount(test.labels).min() >= 34, "stratified"
    expected = np.sort(np.rint(load_digits().images * (255 / 16)).astype(np.uint8).reshape(1797, -1), axis=0)
    found = np.concatenate([train.pixels, test.pixels])
    assert np.array_equal(found[:, 0], found[:, 2])
    assert np.array_equal(np.sort(found[:, 0].reshape(1797, -1), axis=0), expected)
    with pytest.raises(UserError, match="not text"):
        data.load_texts("digits", "train")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_every_augmented_image_is_a_window_of_the_padded_image_or_its_mirror(seed: int, padding: int) -> None:
    images = torch.arange(1, 1 + 3 * 2 * 5 * 6, dtype=torch.float32).reshape(3, 2, 5, 6)
    out = random_flip_crop(images, torch.Generator().manual_seed(seed), padding)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    for before, after in zip(padded, out, strict=True):
        windows = [
            before[:, top : top + 5, left : left + 6]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        assert any(torch.equal(after, window) or torch.equal(after, window.flip(-1)) for window in windows)


def test_augmentation_draws_per_image_from_the_generator_only() -> None:
    images = torch.rand(1, 3, 8, 8).expand(256, -1, -1, -1)
    out = random_flip_crop(images, torch.Generator().manual_seed(1))
    assert len({image.numpy().tobytes() for image in out}) > 100, "each image has its own draw"
    torch.manual_seed(5)
    again = random_flip_crop(images, torch.Generator().manual_seed(1))
    assert torch.equal(out, again)
    assert not torch.equal(out, random_flip_crop(images, torch.Generator().manual_seed(2)))
    mirrored = random_flip_crop(images, torch.Generator().manual_seed(1), padding=0)
    share = (mirrored == images).flatten(1).all(dim=1).float().mean().item()
    assert 0.35 < share < 0.65


def test_normalise_standardises() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    out = normalise(images, torch.tensor([0.5, 0.2, 0.5]), torch.tensor([0.5, 0.1, 0.25]))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.flatten(), torch.tensor([-1.0, 0.0, 2.0]), atol=1e-6, rtol=0)
    assert images.flatten().tolist() == [0, 51, 255], "the input is left alone"


def test_cifar10_jpeg_test_split(data_root: Path) -> None:
    test = data.load_images("cifar10-jpeg", "test", size=16)
    assert test.pixels.shape == (10_000, 3, 16, 16) and np.bincount(test.labels).tolist() == [1000] * 10
    assert test.classes[0] == "airplane" and test.classes[-1] == "truck"
