"""What all tests share: one thread, no network, a cache of their own, and the data root where there is one."""

import os

# Before anything imports torch, numpy or the Hub client, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, and no deadline: a slow machine is not a failure.
settings.register_profile("project", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for the data root is a test on data: the mark cannot be forgotten. The longest goes first."""
    for item in items:
        if "data_root" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
    items.sort(key=lambda item: item.get_closest_marker("smoke") is None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Never the user's cache: one for the whole session, so that images are decoded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPER_REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The same sums on every machine, and no fight over cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    from paper_repro.paths import data_root

    root = data_root()
    if root is None:
        pytest.skip("needs data: PAPER_REPRO_DATA is not set")
    if not root.is_dir():
        pytest.fail(f"PAPER_REPRO_DATA is {root}, which is no folder")
    return root
