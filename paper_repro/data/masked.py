"""Masked language modelling: text as blocks of tokens, and batches of them with hidden positions (Devlin et al. 2019).

Of each block 15 % of the positions are to be predicted, a fixed number rounded, as in the code of BERT's authors (its
``max_predictions_per_seq``). Of these 80 % show the mask, 10 % a random token, 10 % their own. With a fixed number the
model computes logits at these positions only, which on a CPU is most of what a small model costs. Positions and tokens
are drawn anew for every training batch, from the generator that the trainer gives for its step; where a model is
evaluated they are drawn once.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from paper_repro.data.text import Tokens
from paper_repro.errors import UserError

IGNORED = -100  # the label of a position that is not to be predicted, as torch's cross-entropy has it
HIDDEN, SHOWN_AS_MASK, SHOWN_AS_RANDOM = 0.15, 0.8, 0.1


class Hidden(NamedTuple):
    """What is shown (int64 [B, T]), the positions to be predicted (int64 [B, k], ascending) and their tokens."""

    shown: Tensor
    positions: Tensor
    labels: Tensor


def predictions(length: int) -> int:
    """k: how many positions of a block of ``length`` tokens are to be predicted, at least one."""
    return max(1, round(HIDDEN * length))


def blocks(tokens: Tokens, length: int, special: int) -> np.ndarray:
    """All texts end to end, cut into blocks (int32 [N, length]); what does not fill the last block is left out.

    Where texts meet, their own special tokens part them. Blocks with fewer than ``predictions(length)`` tokens that are
    not special (ids from ``special`` up) are left out too: only texts of nearly no words make such.
    """
    rows = tokens.ids[: len(tokens.ids) // length * length].reshape(-1, length)
    enough = (rows >= special).sum(axis=1) >= predictions(length)
    return rows if enough.all() else rows[enough]


def hide(ids: Tensor, generator: torch.Generator, *, mask_id: int, special: int, vocab_size: int) -> Hidden:
    """Hide ``predictions(T)`` positions of each block of ``ids`` (int64 [B, T]).

    Ids below ``special`` are never hidden, and never shown as a random token. Raises UserError for a block with too few
    others; ``blocks`` makes none.
    """
    count = predictions(ids.shape[1])
    draw = torch.rand(ids.shape, generator=generator).masked_fill_(ids < special, 2.0)
    first = draw.topk(count, dim=1, largest=False)
    if first.values.numel() and float(first.values.max()) > 1.0:
        raise UserError(f"A block has fewer ordinary tokens than the {count} that are to be hidden; leave it out.")
    positions = first.indices.sort(dim=1).values
    labels = ids.gather(1, positions)
    how = torch.rand(positions.shape, generator=generator)
    random = torch.randint(special, vocab_size, positions.shape, generator=generator)
    seen = torch.where(how < SHOWN_AS_MASK, mask_id, labels)
    seen = torch.where((how >= SHOWN_AS_MASK) & (how < SHOWN_AS_MASK + SHOWN_AS_RANDOM), random, seen)
    return Hidden(ids.scatter(1, positions, seen), positions, labels)


class MaskedSource:
    """Batches {index, label, positions int64 [B, k], input_ids, attention_mask int64 [B, T], **extra} of blocks.

    ``rows``: the blocks, int32 [N, T]. ``mask_id``: the mask's token. ``special``: how many ids, from 0, are special
    tokens. ``everywhere``: the same masks, but "positions" are all T, with the label ``IGNORED`` where nothing is
    hidden, for a loss that looks at every position. ``drawn``: a generator that hides positions once, now; without it
    they are drawn per batch. ``extra`` tensors have one row per block. Raises UserError as ``hide`` does.
    """

    def __init__(
        self, rows: np.ndarray, *, mask_id: int, special: int, vocab_size: int, everywhere: bool = False,
        drawn: torch.Generator | None = None, device: str = "cpu", extra: dict[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.rows, self.device, self.everywhere = torch.from_numpy(np.ascontiguousarray(rows)), device, everywhere
        self.mask_id, self.special, self.vocab_size = mask_id, special, vocab_size
        self.extra = {name: values.to(device) for name, values in (extra or {}).items()}
        self.drawn = self._hide(self.rows.long(), drawn) if drawn is not None else None

    def __len__(self) -> int:
        return len(self.rows)

    def _hide(self, ids: Tensor, generator: torch.Generator) -> Hidden:
        return hide(ids, generator, mask_id=self.mask_id, special=self.special, vocab_size=self.vocab_size)

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The batch of these blocks; ``generator`` draws what is hidden, unless that is fixed."""
        indices = indices.cpu()
        if self.drawn is None:
            hidden = self._hide(self.rows[indices].long(), generator)
        else:
            hidden = Hidden(*(values[indices] for values in self.drawn))
        positions, labels = hidden.positions, hidden.labels
        if self.everywhere:
            labels = torch.full_like(hidden.shown, IGNORED).scatter(1, positions, labels)
            positions = torch.arange(hidden.shown.shape[1]).expand_as(hidden.shown)
        batch = {
            "index": indices,
            "label": labels,
            "positions": positions,
            "input_ids": hidden.shown,
            "attention_mask": torch.ones_like(hidden.shown),
        }
        where = indices.to(self.device)
        extra = {name: values[where] for name, values in self.extra.items()}
        return {**{name: value.to(self.device) for name, value in batch.items()}, **extra}
