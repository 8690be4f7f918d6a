"""The manifest, opening data sets, and the data commands, on tiny data roots; the shared root where there is one."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from paper_repro import data
from paper_repro.data import store
from paper_repro.data.load import open_split
from paper_repro.data.manifest import MANIFEST, Columns, DatasetInfo, SplitInfo
from paper_repro.errors import UserError

NAMED_IN_THE_PAPERS = {
    *("cifar10", "cifar10-jpeg", "cifar100", "imagenet-1k", "imagenet-21k", "mnli", "squad", "imdb", "sst2", "trec"),
    *("ag_news", "civil_comments", "wiki_toxic", "qqp", "c4", "cola", "mrpc", "rte", "stsb", "qnli"),
    *("amazon_reviews", "cc_news", "paq", "digits", "docstrings"),
}


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("PAPER_REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def write(path: Path, rows: int = 6, start: int = 0) -> None:
    """A parquet file as the reference data root has them: with the Hub's description of the label names."""
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    table = {"text": [f"text {start + row}" for row in range(rows)], "label": [row % 2 for row in range(rows)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(table, features).to_parquet(path)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data root with one data set "tiny", known to the manifest with its checksums."""
    folder = tmp_path / "tiny"
    write(folder / "train.parquet", 8)
    write(folder / "validation.parquet", 4, start=100)
    sums = {split: store.sha256_of(folder / f"{split}.parquet") for split in ("train", "validation")}
    info = DatasetInfo(
        name="tiny",
        modality="text",
        folder="tiny",
        hub="someone/tiny",
        revision="0" * 40,
        licence="none",
        columns=Columns(input="text", label="label"),
        test="validation",
        splits={
            "train": SplitInfo(rows=8, sha256=sums["train"]),
            "validation": SplitInfo(rows=4, sha256=sums["validation"]),
            "test": SplitInfo(rows=9, labelled=False),
        },
    )
    monkeypatch.setitem(MANIFEST, "tiny", info)
    monkeypatch.setenv("PAPER_REPRO_DATA", str(tmp_path))
    return folder


def test_manifest_names_every_data_set_and_explains_every_missing_revision() -> None:
    assert set(MANIFEST) >= NAMED_IN_THE_PAPERS
    for name, info in MANIFEST.items():
        assert info.licence and info.splits, name
        assert info.test is None or info.test in info.splits, name
        if info.revision is not None:
            assert len(info.revision) == 40 and int(info.revision, 16) >= 0, name
        elif info.source == "hub":
            assert info.revision_note, name
        for split in info.splits.values():
            assert split.sha256 is None or len(split.sha256) == 64, name


def test_local_folder_is_loaded_with_the_hubs_columns_and_test_means_the_labelled_one(tiny: Path) -> None:
    loaded = data.load("tiny", "train")
    assert loaded.column_names == ["text", "label"] and len(loaded) == 8
    test = data.load_texts("tiny", "test")
    assert test.texts[0] == "text 100" and test.classes == ["no", "yes"] and test.labels.tolist() == [0, 1, 0, 1]
    assert data.describe("tiny").classes == ("no", "yes")


def test_fingerprint_follows_content_and_split(tiny: Path) -> None:
    before = {split: open_split("tiny", split).fingerprint for split in ("train", "validation")}
    assert before["train"] != before["validation"]
    assert open_split("tiny", "train").fingerprint == before["train"]
    write(tiny / "train.parquet", 8, start=1)
    assert open_split("tiny", "train").fingerprint != before["train"]


def test_verify_passes_and_lists_what_is_here(tiny: Path) -> None:
    checks = data.verify(["tiny"])
    assert [(check.split, check.rows, check.checksum) for check in checks] == [
        ("train", 8, "ok"),
        ("validation", 4, "ok"),
    ]
    state = data.status(["tiny"])[0]
    assert (state.state, state.here, state.absent) == ("local", ["train", "validation"], ["test"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "is truncated"),
        (lambda path: write(path, 7), "has 7 rows where the manifest says 8"),
        (lambda path: write(path, 8, start=5), "has a SHA-256"),
        (flip, "has a SHA-256"),
    ],
)
def test_verify_catches_damage_in_one_sentence(tiny: Path, damage: object, says: str) -> None:
    damage(tiny / "train.parquet")  # type: ignore[operator]
    with pytest.raises(UserError, match=says) as caught:
        data.verify(["tiny"])
    message = str(caught.value)
    assert "train.parquet" in message and "replace it" in message and "\n" not in message
    assert message.count(". ") == 0


def test_verify_reports_every_damaged_file(tiny: Path) -> None:
    truncate(tiny / "train.parquet")
    flip(tiny / "validation.parquet")
    with pytest.raises(UserError, match=r"2 things are wrong: .*truncated.*SHA-256"):
        data.verify(["tiny"])


@pytest.mark.parametrize("damage", [truncate, lambda path: write(path, 7)])
def test_loading_damaged_data_is_refused(tiny: Path, damage: object) -> None:
    damage(tiny / "train.parquet")  # type: ignore[operator]
    with pytest.raises(UserError, match=r"train\.parquet"):
        data.load("tiny", "train")


def test_unknown_names_and_splits_suggest_valid_ones(tiny: Path) -> None:
    with pytest.raises(UserError, match="imdb"):
        data.load("imbd", "train")
    with pytest.raises(UserError, match="train, validation, test"):
        data.load("tiny", "dev")
    (tiny / "validation.parquet").unlink()
    with pytest.raises(UserError, match=r"put it at .*validation\.parquet"):
        data.load("tiny", "test")


def no_network(*_: object, **__: object) -> None:
    raise AssertionError("a download was started")


@pytest.mark.parametrize("name", ["tiny", "imagenet-1k", "wiki_toxic", "cifar10-jpeg"])
def test_missing_data_says_what_and_where_without_a_download_when_offline(
    name: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PAPER_REPRO_DATA", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", no_network)

    def nothing_cached(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", nothing_cached)
    with pytest.raises(UserError) as caught:
        data.load(name, "train")
    message = str(caught.value)
    assert f"'{name}' is not here" in message and "<split>.parquet below" in message
    assert ("data fetch" in message) == (MANIFEST[name].hub is not None)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE|is not here"):
        data.fetch(name)
    with pytest.raises(UserError, match="is not here"):
        data.verify([name])


def test_without_a_root_the_message_says_to_set_one(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAPER_REPRO_DATA")
    with pytest.raises(UserError, match="set PAPER_REPRO_DATA to a folder that holds cifar10/"):
        data.load("cifar10-jpeg", "train")
    with pytest.raises(UserError, match="set PAPER_REPRO_DATA"):
        data.fetch("tiny")


def test_fetch_writes_whole_files_and_notes_their_origin(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = {split: pq.read_table(tiny / f"{split}.parquet") for split in ("train", "validation")}
    source["test"] = pa.table({"text": ["x"] * 9, "label": [0] * 9})
    asked = []

    def hub(path: str, config: str | None, *, revision: str, split: str) -> datasets.Dataset:
        asked.append((path, revision, split))
        return datasets.Dataset(source[split])

    root = tmp_path / "new"
    monkeypatch.setenv("PAPER_REPRO_DATA", str(root))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", hub)
        assert data.fetch("tiny") == root / "tiny"
        assert asked == [("someone/tiny", "0" * 40, split) for split in ("train", "validation", "test")]
        asked.clear()
        data.fetch("tiny")
        assert asked == [], "what is here is not fetched again"
    assert sorted(path.name for path in (root / "tiny").iterdir()) == [
        "fetched.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
    assert json.loads((root / "tiny" / "fetched.json").read_text())["revision"] == "0" * 40
    assert [check.checksum for check in data.verify(["tiny"])] == ["ok"] * 3
    flip(root / "tiny" / "test.parquet")
    with pytest.raises(UserError, match=r"test\.parquet has a SHA-256"):
        data.verify(["tiny"])


def test_a_failed_fetch_is_one_sentence_and_leaves_no_data(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def hub(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setenv("PAPER_REPRO_DATA", str(tmp_path / "new"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    with pytest.raises(UserError, match=r"could not be fetched \(ConnectionError: no route to host\)"):
        data.fetch("tiny")
    assert not list((tmp_path / "new").rglob("*.parquet"))


def test_a_folder_shared_by_two_data_sets_is_told_apart_by_checksum(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MANIFEST["tiny"].model_copy(
        update={"name": "tiny-jpeg", "splits": {"train": SplitInfo(rows=8, sha256="f" * 64)}}
    )
    monkeypatch.setitem(MANIFEST, "tiny-jpeg", other)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert len(data.load("tiny", "train")) == 8
    with pytest.raises(UserError, match="holds 'tiny'"):
        data.load("tiny-jpeg", "train")
    write(tiny / "train.parquet", 8, start=9)
    write(tiny / "validation.parquet", 4, start=9)
    with pytest.raises(UserError, match="neither 'tiny' nor 'tiny-jpeg'"):
        data.load("tiny", "train")
    with pytest.raises(UserError, match="neither"):
        data.verify(["tiny", "tiny-jpeg"])


def test_verify_on_the_reference_root(data_root: Path) -> None:
    if not (data_root / "SHA256SUMS").exists():
        pytest.skip("needs the reference data root: PAPER_REPRO_DATA has no SHA256SUMS")
    checks = {(check.name, check.split): check for check in data.verify()}
    sums = dict(line.split()[::-1] for line in (data_root / "SHA256SUMS").read_text().splitlines())
    files = {(MANIFEST[name].folder, split) for name, split in checks if MANIFEST[name].source != "embedded"}
    assert len(files) == len(sums)  # trec and trec-coarse are labels of one file
    assert checks["cifar10-jpeg", "train"].rows == 50_000 and ("cifar10", "train") not in checks
    assert checks["mrpc", "train"].rows == 3_667
    known = {
        f"./{info.folder}/{split}.parquet": entry.sha256
        for info in MANIFEST.values()
        for split, entry in info.splits.items()
        if info.name != "cifar10"
    }
    assert all(known[path] == digest for path, digest in sums.items())
