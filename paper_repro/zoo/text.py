"""Own text models. They take token ids and their mask, both int64 [B, T] (mask 1 = token), and return logits [B, C]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro.errors import UserError

WORDPIECES = 30_522  # the uncased BERT vocabulary, which MiniLM-L6 shares


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean [B, D] of ``states`` [B, T, D] where ``mask`` [B, T] is not 0; zero for a text without tokens."""
    weights = mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def concrete_mask(mask: Tensor) -> Tensor | None:
    """The mask for transformers, which looks at its values; on the meta device there are none: no mask, all tokens."""
    return None if mask.is_meta else mask


class Bag(nn.Module):
    """Mean of the embeddings of a text's tokens, one ReLU layer, logits. Order is ignored, padding left out.

    A text without tokens has the mean zero.
    """

    def __init__(
        self, num_classes: int, vocab_size: int = WORDPIECES, dim: int = 64, hidden: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(vocab_size, dim, mode="sum")
        nn.init.normal_(self.embedding.weight, std=0.1)  # our choice: torch's 1.0 drowns what a few epochs learn
        self.hidden = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        # A sum with weights 1/length or 0: shapes do not depend on values, so that nothing waits for a GPU, and on a
        # CPU twice as fast as padding_idx (prototype: 35 against 69 us for 64 x 24 tokens, dim 64, one thread).
        keep = attention_mask.to(self.embedding.weight.dtype)
        mean = self.embedding(input_ids, per_sample_weights=keep / keep.sum(1, keepdim=True).clamp(min=1))
        return self.head(self.dropout(F.relu(self.hidden(mean))))


class Cnn(nn.Module):
    """Token embeddings, one convolution over ``window`` tokens, the maximum over time of each channel, ReLU, logits.

    The convolutional student of Sparse Distillation (table 12: one layer, window 7, 256 channels). Padding, and what
    is before and after a text, are zero vectors; a text without tokens has features zero. ``dropout``: on the
    embeddings and before the head. Raises UserError for an even ``window``, which has no middle.
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int = WORDPIECES,
        embedding: int = 64,
        channels: int = 256,
        window: int = 7,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if window % 2 == 0:
            raise UserError(f"A convolution's window must be odd, but it is {window}; use {window + 1}.")
        if channels < 1:
            raise UserError(f"A convolution of {channels} channels is empty; use 1 or more.")
        self.tokens = nn.Embedding(vocab_size, embedding)
        nn.init.normal_(self.tokens.weight, std=0.1)  # as in Bag
        self.conv = nn.Conv1d(embedding, channels, window, padding=window // 2)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inside = attention_mask.bool()
        x = self.dropout(self.tokens(input_ids)).masked_fill(~inside.unsqueeze(-1), 0.0)
        found = self.conv(x.transpose(1, 2)).masked_fill(~inside.unsqueeze(1), -math.inf)
        return self.head(self.dropout(F.relu(found.amax(2))))


class Layer(nn.Module):
    """One pre-norm encoder layer: attention, then a GELU network ``inner`` wide, each added to its input.

    ``reach``: None, or up to how many tokens away attention knows the distance (see ``Transformer``).
    """

    def __init__(self, dim: int, heads: int, dropout: float, inner: int, reach: int | None = None) -> None:
        super().__init__()
        self.distances = None if reach is None else nn.Parameter(self._of_neighbours(heads, reach))
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.distances is not None:
            where = torch.arange(length, device=x.device)
            bias = self.distances[:, where - where[:, None] + self.distances.shape[1] // 2]  # [heads, T, T]
            mask = bias.masked_fill(~mask, -math.inf)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(batch, length, dim)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))

    @staticmethod
    def _of_neighbours(heads: int, reach: int) -> Tensor:
        """What is added to attention for each distance -(reach - 1) .. reach - 1: [heads, 2 reach - 1]."""
        distance = torch.arange(1 - reach, reach)
        preferred = torch.tensor([(head // 2 + 1) * (-1) ** (head + 1) for head in range(heads)])  # -1, 1, -2, 2, ...
        return -(distance - preferred[:, None]).abs().clamp(max=8).float()


class Transformer(nn.Module):
    """A small pre-norm encoder; the mean over a text's tokens gives its logits.

    ``relative``: positions are not learned vectors that are added to the tokens (BERT's), but learned numbers that each
    head adds to its attention by the distance between two tokens (Raffel et al. 2020, without their buckets). At first
    each head prefers one neighbour, -1, 1, -2, 2 and so on (our choice): with so few steps as here a masked language
    model with BERT's positions learns little more than how frequent each token is.

    ``inner``: width of the feed-forward networks, four times ``dim`` unless given.

    Dropout acts on what each layer adds, not inside attention, which keeps the fused attention kernels. Weights: normal
    with standard deviation 0.02 (BERT's), biases zero. Raises UserError for more than ``max_length`` tokens.
    """

    def __init__(
        self,
        num_classes: int,
        vocab_size: int = WORDPIECES,
        layers: int = 2,
        dim: int = 64,
        heads: int = 4,
        max_length: int = 512,
        dropout: float = 0.1,
        relative: bool = False,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"A transformer's dim must be a multiple of its heads, but {dim} is not one of {heads}.")
        self.tokens, self.max_length = nn.Embedding(vocab_size, dim), max_length
        self.positions = None if relative else nn.Embedding(max_length, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(dim, heads, dropout, inner or 4 * dim, max_length if relative else None) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the last layer gives for each token, normed: [B, T, dim]."""
        length, x = input_ids.shape[1], self.tokens(input_ids)
        if length > self.max_length:
            raise UserError(
                f"A text has {length} tokens, this transformer takes {self.max_length}; cut it or raise max_length."
            )
        x = self.dropout(x if self.positions is None else x + self.positions.weight[:length])
        mask = attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(masked_mean(self.states(input_ids, attention_mask), attention_mask))


class MaskedLm(Transformer):
    """A ``Transformer`` that predicts tokens: logits [B, T, V], V = ``num_classes`` its vocabulary.

    BERT's head (Devlin et al. 2019, in their code): a GELU layer, a norm, and the embeddings of the tokens as the last
    layer, with a bias per token. Given ``positions`` (int64 [B, k]) the head computes these only: logits [B, k, V].
    ``encoder_state``: what a ``Transformer`` of the same sizes starts fine-tuning from.

    Weights are normal with variance 1 / inputs (LeCun et al. 1998), embeddings with 1 / dim: our choice. BERT's 0.02 is
    near that at its 768 dimensions; with a tenth of them it leaves attention nearly even, and training stays longer at
    the frequencies of the tokens.
    """

    def __init__(
        self, num_classes: int, layers: int = 2, dim: int = 64, heads: int = 4, max_length: int = 512,
        dropout: float = 0.1, relative: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(dim, num_classes, layers, dim, heads, max_length, dropout, relative)
        self.head_norm = nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(num_classes))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None = None) -> Tensor:
        x = self.states(input_ids, attention_mask)
        if positions is not None:
            x = x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return F.linear(self.head_norm(F.gelu(self.head(x))), self.tokens.weight, self.bias)

    def encoder_state(self) -> dict[str, Tensor]:
        """The weights that are not the head's, by name."""
        head = ("head.", "head_norm.", "bias")
        return {name: value for name, value in self.state_dict().items() if not name.startswith(head)}
