"""The papers' own architectures, from timm and transformers. Random weights unless ``pretrained`` says otherwise.

Every configuration is written out here, so that building one needs no network and cannot change with a library's
defaults. Text models are wrapped to return the logits as a tensor.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor, nn

from paper_repro.errors import UserError
from paper_repro.zoo.text import concrete_mask

Pretrained = bool | str | Path


class Hub(NamedTuple):
    """A model on the Hub at a fixed revision; None: no revision is pinned, so it is not downloaded by itself."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision[:12]}" if self.revision else self.repository


# --- images: timm ---------------------------------------------------------------------------------------------------


def timm_model(name: str, num_classes: int, pretrained: Pretrained = False, drop_rate: float = 0.0) -> nn.Module:
    """A timm model. ``pretrained``: a local weights file of it (.safetensors); a head of another size is replaced."""
    import timm

    return _timm(lambda **kwargs: timm.create_model(name, **kwargs), num_classes, pretrained, drop_rate)


def mobilenet_v3(width: float, num_classes: int, pretrained: Pretrained = False, drop_rate: float = 0.0) -> nn.Module:
    """MobileNetV3-Large (Howard et al. 2019) with ``width`` times its channels. ``pretrained``: as in ``timm_model``.

    timm has public constructors for 0.75 and 1.0 only; its generator makes every width. Below 0.75 it keeps the stem's
    16 channels, and at all widths the 1280 features before the classifier.
    """
    from timm.models.mobilenetv3 import _gen_mobilenet_v3

    def create(**kwargs: Any) -> nn.Module:
        return _gen_mobilenet_v3("mobilenetv3_large_100", width, **kwargs)

    return _timm(create, num_classes, pretrained, drop_rate)


def _timm(create: Callable[..., nn.Module], num_classes: int, pretrained: Pretrained, drop_rate: float) -> nn.Module:
    model = create(num_classes=num_classes, drop_rate=drop_rate)
    if not pretrained:
        return model
    if pretrained is True or not Path(pretrained).is_file():
        raise UserError(
            f"There are no pretrained weights at {pretrained!r}; download them from the source that 'paper-repro zoo' "
            "names and give the .safetensors file as pretrained=PATH."
        )
    head = f"{model.pretrained_cfg['classifier']}."  # type: ignore[index]
    ours = model.state_dict()
    try:
        stored = load_file(pretrained)
        # timm drops the file's head whenever the classes are not ImageNet's, even where it fits: so not by its loader
        fits = {key: t for key, t in stored.items() if not key.startswith(head) or t.shape == ours[key].shape}
        missing, unexpected = model.load_state_dict(fits, strict=False)
        lost = [*unexpected, *(key for key in missing if not key.startswith(head))]
        if lost:
            raise ValueError(f"'{lost[0]}' is only in one of the two")
    except Exception as error:
        said = _first(error)
        raise UserError(f"{pretrained} does not hold this model's weights ({said}); give the right file.") from None
    return model


# --- text: transformers ---------------------------------------------------------------------------------------------

BERT = MappingProxyType(
    {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512, "type_vocab_size": 2,
        "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    }
)  # fmt: skip
LARGE = MappingProxyType(
    {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
)
ROBERTA = MappingProxyType(
    {
        **BERT, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    }
)  # fmt: skip
ROBERTA_LARGE = MappingProxyType({**ROBERTA, **LARGE})
DISTILROBERTA = MappingProxyType({**ROBERTA, "num_hidden_layers": 6})
MOBILEBERT = MappingProxyType(
    {
        **BERT, "hidden_size": 512, "num_hidden_layers": 24, "num_attention_heads": 4, "intermediate_size": 512,
        "hidden_act": "relu", "hidden_dropout_prob": 0.0, "embedding_size": 128, "trigram_input": True,
        "use_bottleneck": True, "intra_bottleneck_size": 128, "use_bottleneck_attention": False,
        "key_query_shared_bottleneck": True, "num_feedforward_networks": 4, "normalization_type": "no_norm",
        "classifier_activation": True,
    }
)  # fmt: skip
DISTILBERT = MappingProxyType(
    {
        "vocab_size": 30522, "max_position_embeddings": 512, "sinusoidal_pos_embds": False, "n_layers": 6,
        "n_heads": 12, "dim": 768, "hidden_dim": 3072, "dropout": 0.1, "attention_dropout": 0.1, "activation": "gelu",
        "initializer_range": 0.02, "seq_classif_dropout": 0.2, "pad_token_id": 0,
    }
)  # fmt: skip
T5_SMALL = MappingProxyType(
    {
        "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_decoder_layers": 6,
        "num_heads": 8, "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6, "feed_forward_proj": "relu", "pad_token_id": 0,
        "eos_token_id": 1, "decoder_start_token_id": 0,
    }
)  # fmt: skip
T5_BASE = MappingProxyType(
    {**T5_SMALL, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12}
)


class TextClassifier(nn.Module):
    """A transformers encoder with its own classification head: (input_ids, attention_mask) [B, T] -> logits [B, C]."""

    def __init__(
        self, family: str, config: Mapping[str, Any], hub: Hub, num_classes: int, pretrained: Pretrained = False
    ) -> None:
        super().__init__()
        self.model = _transformers(f"{family}ForSequenceClassification", family, config, hub, pretrained, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=concrete_mask(attention_mask)).logits


class LanguageModel(nn.Module):
    """A transformers encoder with its own masked-language head: (input_ids, attention_mask) [B, T] -> [B, T, V].

    V, ``num_classes``, is the size of its vocabulary. The last layer is tied to the embedding of the tokens.
    """

    def __init__(
        self, family: str, config: Mapping[str, Any], hub: Hub, num_classes: int, pretrained: Pretrained = False
    ) -> None:
        super().__init__()
        config = {**config, "vocab_size": num_classes}
        self.model = _transformers(f"{family}ForMaskedLM", family, config, hub, pretrained, None)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=concrete_mask(attention_mask)).logits


class T5Classifier(nn.Module):
    """T5 as a classifier: (input_ids, attention_mask) [B, T] -> logits [B, C].

    The encoder reads the text, the decoder makes one step from its start token, and a linear layer maps the decoder's
    state to classes (our choice; the same cost as T5's own text-to-text answer when a class is named by one token,
    less the projection to the vocabulary). The vocabulary's projection is tied to the embedding and not used.
    """

    def __init__(self, config: Mapping[str, Any], hub: Hub, num_classes: int, pretrained: Pretrained = False) -> None:
        super().__init__()
        self.model = _transformers("T5Model", "T5", config, hub, pretrained, None)
        self.start = int(config["decoder_start_token_id"])
        self.head = nn.Linear(config["d_model"], num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        start = input_ids.new_full((len(input_ids), 1), self.start)
        mask = concrete_mask(attention_mask)
        outputs = self.model(input_ids=input_ids, attention_mask=mask, decoder_input_ids=start, use_cache=False)
        return self.head(outputs.last_hidden_state[:, 0])


def _transformers(
    architecture: str, family: str, config: Mapping[str, Any], hub: Hub, pretrained: Pretrained, num_classes: int | None
) -> nn.Module:
    import transformers

    labels = {} if num_classes is None else {"num_labels": num_classes}
    made = getattr(transformers, f"{family}Config")(**config, **labels)
    model = getattr(transformers, architecture)
    if not pretrained:
        return model(made)
    if pretrained is True and hub.revision is None:
        raise UserError(
            f"No revision of {hub.repository} is pinned; download it and give its folder as pretrained=PATH."
        )
    source = hub.repository if pretrained is True else str(pretrained)
    if pretrained is not True and not Path(source).is_dir():
        raise UserError(f"There is no folder {source} with pretrained weights; download {hub} there.")
    revision = {"revision": hub.revision} if pretrained is True else {}
    try:
        return model.from_pretrained(source, config=made, use_safetensors=True, **revision)
    except Exception as error:
        raise UserError(
            f"The weights of {source} cannot be loaded ({_first(error)}); give a folder with {hub}."
        ) from None


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
