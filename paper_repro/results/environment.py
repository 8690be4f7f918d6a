"""What a cell ran on and with which code. Reads what is there; imports nothing heavy and no torch."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from paper_repro.paths import REPO

PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "tokenizers", "datasets", "safetensors",
    "numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "numba",
)  # fmt: skip
_SOURCES = ("paper_repro", "experiments")
_SUFFIXES = {".py", ".yaml", ".toml"}


def capture() -> dict[str, Any]:
    """The machine and the software, without what identifies the machine (no host name, no paths).

    Equal environments give equal dictionaries, so that a resumed run can list each one once. Facts about torch are
    read only from a torch that the process has already imported.
    """
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_bytes": _memory_bytes(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "threads_environment": {name: os.environ[name] for name in _THREADS if name in os.environ},
        **_torch_facts(),
    }


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@functools.cache
def _code_state() -> tuple[str | None, bool | None, str]:
    commit, dirty = None, None
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == REPO:  # not some other repository we are installed inside
        commit = _git("rev-parse", "HEAD")
        status = _git("status", "--porcelain", "--", *_SOURCES)
        dirty = None if status is None else bool(status)
    return commit, dirty, source_sha256(REPO)


def code_state() -> dict[str, Any]:
    """``commit`` and ``dirty`` (None outside a git checkout) and ``source_sha256``, as of the first call.

    ``dirty`` speaks of the source folders only: fresh results and figures do not make the code another.
    """
    commit, dirty, source = _code_state()
    return {"commit": commit, "dirty": dirty, "source_sha256": source}


def source_sha256(root: Path) -> str:
    """SHA-256 over the names and contents of all source and configuration files of ``root``."""
    digest = hashlib.sha256()
    files = (path for folder in _SOURCES for path in (root / folder).rglob("*") if path.suffix in _SUFFIXES)
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(REPO), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@functools.cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores this process may use, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _torch_facts() -> dict[str, Any]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):  # absent, or only half imported
        return {}
    facts: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    if torch.cuda.is_initialized():
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["cuda"] = torch.version.cuda
    return facts
