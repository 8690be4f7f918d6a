"""Trained weights on disk: whole or not at all, and known to be those that were saved."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from paper_repro.distill.logits import weights_sha256
from paper_repro.errors import UserError
from paper_repro.paths import write_atomic


def save_model(model: nn.Module, path: Path) -> None:
    """Write the weights as safetensors with their checksum, whole or not at all."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    write_atomic(path, save(tensors, metadata={"sha256": weights_sha256(model)}))


def load_model(model: nn.Module, path: Path) -> None:
    """Read what ``save_model`` wrote. Raises UserError when the file has changed since."""
    try:
        with safe_open(path, "pt") as file:
            saved = (file.metadata() or {}).get("sha256")
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError):
        saved = None
    if saved != weights_sha256(model):
        raise UserError(f"The weights in {path} are not those that were saved there; delete the file and run again.")
