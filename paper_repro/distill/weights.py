"""Trained weights on disk: whole or not at all, and known to be those that were saved."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from paper_repro.distill.logits import weights_sha256
from paper_repro.errors import UserError
from paper_repro.kernels import is_stack
from paper_repro.paths import write_atomic


def save_model(model: nn.Module, path: Path, clocks: Mapping[str, float] | None = None) -> None:
    """Write the weights as safetensors with their checksum and what training them took, whole or not at all."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    metadata = {"sha256": weights_sha256(model), "clocks": json.dumps(dict(clocks or {}))}
    write_atomic(path, save(tensors, metadata=metadata))


def load_model(model: nn.Module, path: Path) -> dict[str, float]:
    """Read what ``save_model`` wrote into ``model``; returns the clocks.

    Raises UserError when the file has changed since, and when it holds majority kernels and ``model`` does not.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
        if any(is_stack(name) for name in names - model.state_dict().keys()):
            raise UserError(
                f"The weights in {path} are of a model with majority kernels; fold it before saving, or load "
                "kernels.fold_state of them into the plain model."
            )
        model.load_state_dict(load_file(path))
        saved, clocks = metadata.get("sha256"), dict(json.loads(metadata.get("clocks", "{}")))
    except (SafetensorError, RuntimeError, ValueError):
        saved, clocks = None, {}
    if saved != weights_sha256(model):
        raise UserError(f"The weights in {path} are not those that were saved there; delete the file and run again.")
    return clocks
