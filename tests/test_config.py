"""Configs are inert, frozen and validated; keys and seeds depend on content alone."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from paper_repro.config import Config, canonical_json, load_yaml, sha256_key
from paper_repro.errors import UserError
from paper_repro.paths import write_atomic
from paper_repro.seeds import derive, numpy_rng, torch_rng

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class Inner(Config):
    learning_rate: float = 0.1


class Outer(Config):
    name: str
    parts: list[Inner] = []  # noqa: RUF012 - pydantic copies defaults
    best: Inner = Inner()


def test_the_key_of_a_config_is_pinned() -> None:
    """A change of this value means that every cached result gets a new name: never by accident."""
    assert Outer(name="a").key() == sha256_key({"name": "a", "parts": [], "best": {"learning_rate": 0.1}})
    assert sha256_key({"b": 1, "a": [1.5, None]}).startswith("cf0c4895")


@given(st.dictionaries(st.text(), json_values))
def test_keys_do_not_depend_on_the_order_of_fields(value: dict) -> None:
    assert sha256_key(dict(reversed(value.items()))) == sha256_key(value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_json_cannot_hold_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": value})


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Outer(name="a").name = "b"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nane: a", "unknown key 'nane'; did you mean 'name'?"),
        ("name: a\nbest: {learning_rat: 1}", "unknown key 'best.learning_rat'; did you mean 'learning_rate'?"),
        ("name: a\nparts: [{lr: 1}]", "unknown key 'parts.0.lr'; did you mean 'learning_rate'?"),
        ("best: {}", "the key 'name' is missing"),
        ("name: a\nbest: {learning_rate: fast}", "'best.learning_rate' is 'fast'"),
        ("name: [", "is not valid YAML"),
        ("- a", "must hold a mapping"),
    ],
)
def test_a_malformed_config_is_one_sentence_with_the_nearest_name(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_yaml(path, Outer)
    assert sentence in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds_are_shared_along_the_axes_that_are_named_and_no_others() -> None:
    assert derive(3, "order", dataset="cifar10", epoch=2) == derive(3, "order", epoch=2, dataset="cifar10")
    different = {
        derive(seed, stream, **axes)
        for seed in (0, 1)
        for stream in ("order", "init")
        for axes in ({}, {"epoch": 0}, {"epoch": 1}, {"step": 0})
    }
    assert len(different) == 16
    assert all(0 <= seed < 2**63 for seed in different)


def test_generators_repeat_themselves() -> None:
    assert numpy_rng(1, "x").integers(1 << 30) == numpy_rng(1, "x").integers(1 << 30)
    assert torch_rng(1, "x").initial_seed() == torch_rng(1, "x").initial_seed() != torch_rng(2, "x").initial_seed()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder" / "file.json"
    write_atomic(path, "old")

    def fail(source: str, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]
