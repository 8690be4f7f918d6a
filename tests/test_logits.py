"""The store of teacher logits: computed once, and every kind of change noticed."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paper_repro.distill.logits import LogitSpec, TeacherLogits, weights_sha256
from paper_repro.errors import UserError

SPEC = LogitSpec(weights="w" * 64, preprocessing="none", data="d" * 64)
N = 200
VALUES = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)


def compute(indices: np.ndarray) -> np.ndarray:
    return VALUES[indices]


def folder(root: Path) -> Path:
    return root / SPEC.key()


def test_computed_once_then_mapped_and_verified(tmp_path: Path) -> None:
    asked = []

    def recorded(indices: np.ndarray) -> np.ndarray:
        asked.append(indices)
        return compute(indices)

    store = TeacherLogits(tmp_path)
    for _ in range(2):
        logits = store.get(SPEC, recorded, N)
        assert isinstance(logits, np.memmap)
        assert not logits.flags.writeable
        assert np.array_equal(logits, VALUES)
    assert np.array_equal(asked[0], np.arange(N))
    assert len(asked) == 2
    assert len(set(asked[1])) == 64


def test_every_part_of_the_spec_names_another_matrix(tmp_path: Path) -> None:
    changes = [{"weights": "v" * 64}, {"preprocessing": "other"}, {"data": "e" * 64}, {"dtype": "float16"}]
    keys = {SPEC.model_copy(update=change).key() for change in changes}
    assert len(keys | {SPEC.key()}) == 5
    half = TeacherLogits(tmp_path).get(SPEC.model_copy(update={"dtype": "float16"}), compute, N)
    assert half.dtype == np.float16
    TeacherLogits(tmp_path).get(SPEC.model_copy(update={"dtype": "float16"}), compute, N)  # rounding is no change


@pytest.mark.parametrize("place", [-1, 200])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: int) -> None:
    TeacherLogits(tmp_path).get(SPEC, compute, N)
    path = folder(tmp_path) / "logits.npy"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="are damaged; delete that folder"):
        TeacherLogits(tmp_path).get(SPEC, compute, N)


@pytest.mark.parametrize("damage", ["", "{}", "[]", None])
def test_a_damaged_description_is_noticed(tmp_path: Path, damage: str | None) -> None:
    TeacherLogits(tmp_path).get(SPEC, compute, N)
    path = folder(tmp_path) / "meta.json"
    path.unlink() if damage is None else path.write_text(damage)
    with pytest.raises(UserError, match="are damaged"):
        TeacherLogits(tmp_path).get(SPEC, compute, N)


@pytest.mark.parametrize(
    "changed",
    [
        lambda indices: compute(indices) + 0.1,  # another teacher
        lambda indices: compute((indices + 1) % N),  # rows in another order
        lambda indices: compute(indices)[:, :4],  # other classes
    ],
)
def test_a_changed_teacher_is_noticed(tmp_path: Path, changed: object) -> None:
    TeacherLogits(tmp_path).get(SPEC, compute, N)
    with pytest.raises(UserError, match="does not give the logits stored"):
        TeacherLogits(tmp_path).get(SPEC, changed, N)  # type: ignore[arg-type]


def test_numerical_noise_is_no_change(tmp_path: Path) -> None:
    TeacherLogits(tmp_path).get(SPEC, compute, N)
    TeacherLogits(tmp_path).get(SPEC, lambda indices: compute(indices) * (1 + 1e-4), N)


def test_logits_of_other_data_are_refused(tmp_path: Path) -> None:
    TeacherLogits(tmp_path).get(SPEC, compute, N)
    with pytest.raises(UserError, match=r"another teacher or data set \(200 examples, 100 wanted\)"):
        TeacherLogits(tmp_path).get(SPEC, compute, 100)
    path = folder(tmp_path) / "meta.json"  # a folder renamed or copied by hand: right bytes, wrong fingerprint
    meta = json.loads(path.read_text())
    meta["spec"]["data"] = "e" * 64
    path.write_text(json.dumps(meta))
    with pytest.raises(UserError, match="another teacher or data set"):
        TeacherLogits(tmp_path).get(SPEC, compute, N)


@pytest.mark.parametrize("wrong", [VALUES[:-1], VALUES[:, 0], np.full_like(VALUES, np.nan)])
def test_what_is_no_logit_matrix_is_not_stored(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(UserError, match="teacher"):
        TeacherLogits(tmp_path).get(SPEC, lambda indices: wrong, N)
    assert not list(tmp_path.iterdir())


def test_an_aborted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("paper_repro.distill.logits._file_sha256", fail)
        with pytest.raises(KeyboardInterrupt):
            TeacherLogits(tmp_path).get(SPEC, compute, N)
    assert not list(tmp_path.iterdir())
    assert np.array_equal(TeacherLogits(tmp_path).get(SPEC, compute, N), VALUES)


def test_two_writers_at_once_leave_one_whole_matrix(tmp_path: Path) -> None:
    both = threading.Barrier(2)
    results = []

    def together(indices: np.ndarray) -> np.ndarray:
        both.wait(timeout=10)  # neither has written when the other starts
        return compute(indices)

    def work() -> None:
        results.append(TeacherLogits(tmp_path).get(SPEC, together, N))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(logits, VALUES) for logits in results)
    assert len(results) == 2
    assert list(tmp_path.iterdir()) == [folder(tmp_path)]


def test_the_weights_hash_sees_values_and_nothing_else() -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    assert weights_sha256(net()) == weights_sha256(net().to(memory_format=torch.channels_last))
    other = net()
    other.get_buffer("1.running_mean")[0] += 1e-6  # a buffer counts
    assert weights_sha256(other) != weights_sha256(net())
    assert weights_sha256(net().bfloat16()) != weights_sha256(net())
