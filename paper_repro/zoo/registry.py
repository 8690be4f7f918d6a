"""All models by name, and one way to build them."""

import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from paper_repro.errors import UserError
from paper_repro.zoo import minilm, published
from paper_repro.zoo.dan import Dan
from paper_repro.zoo.published import Hub, LanguageModel, T5Classifier, TextClassifier, mobilenet_v3, timm_model
from paper_repro.zoo.recurrent import Lstm
from paper_repro.zoo.text import WORDPIECES, Bag, Cnn, MaskedLm, Transformer
from paper_repro.zoo.vision import MLP, CifarResNet

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LICENCE = "Apache-2.0"  # this project's, timm's and transformers'


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    ``size``: side of its images in pixels, or tokens or n-grams of its texts, for which FLOPs are stated. ``suffix``:
    the option that a name's ending -wN sets. ``parameters`` and FLOPs are those of the built model with ``num_classes``
    classes.
    """

    name: str
    builder: Callable[..., nn.Module]
    source: str
    modality: Literal["image", "text", "ngrams"]
    num_classes: int
    size: int
    licence: str = LICENCE
    pretrained: str | None = None
    vocab_size: int = WORDPIECES
    suffix: str | None = None

    @property
    def input(self) -> str:
        """The input of one example, in words."""
        if self.modality == "image":
            return f"3 x {self.size} x {self.size} pixels"
        return f"{self.size} {'n-grams' if self.modality == 'ngrams' else 'tokens'}"

    @property
    def params(self) -> int:
        return int(self._cost["params"])

    @property
    def flops_per_example(self) -> float:
        """2 x multiply-accumulates of convolutions and matrix products of one forward pass over ``input``."""
        return self._cost["flops_per_example"]

    @cached_property
    def _cost(self) -> dict[str, float]:
        from paper_repro.zoo.cost import cost

        return cost(self.name)

    def size_with(self, options: Mapping[str, Any]) -> int:
        """``size``, unless the options fix another."""
        if "in_features" in options:
            return math.isqrt(options["in_features"] // 3)
        return min(self.size, options.get("max_length", self.size))

    @property
    def options(self) -> tuple[str, ...]:
        """Names of what ``build`` takes beyond the number of classes."""
        return tuple(name for name in inspect.signature(self.builder).parameters if name != "num_classes")


HUB = {
    "efficientnet-l2-475": Hub("timm/tf_efficientnet_l2.ns_jft_in1k_475"),
    "mobilenetv3-1.0": Hub("timm/mobilenetv3_large_100.ra_in1k"),
    "resnet50": Hub("timm/resnet50.a1_in1k"),
    "resnet101": Hub("timm/resnet101.a1_in1k"),
    "vit-b-16": Hub("timm/vit_base_patch16_224.augreg_in21k_ft_in1k"),
    "minilm-l6": Hub(minilm.REPOSITORY, minilm.REVISION),
    "roberta-large": Hub("FacebookAI/roberta-large", "722cf37b1afa9454edce342e7895e588b6ff1d59"),
    "mobilebert": Hub("google/mobilebert-uncased"),
    "distilbert": Hub("distilbert/distilbert-base-uncased", "12040accade4e8a0f71eabdb258fecc2e7e948be"),
    "distilroberta": Hub("distilbert/distilroberta-base", "fb53ab8802853c8e4fbdbcd0529f21fc6f459b2b"),
    "bert-base": Hub("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594"),
    "bert-large": Hub("google-bert/bert-large-uncased", "6da4b6a26a1877e173fca3225479512db81a5e5b"),
    "t5-small": Hub("google-t5/t5-small", "df1b051c49625cf57a3d0d8d3863ed4d13564fe4"),
    "t5-base": Hub("google-t5/t5-base", "a9723ea7f1b39c1eae772870f3b547bf6ef7e6c1"),
}
HUB |= {f"{name}-mlm": HUB[name] for name in ("bert-base", "bert-large")}  # one file holds encoder and head


def _own() -> list[Entry]:
    resnets = [
        Entry(f"resnet{depth}", partial(CifarResNet, depth), "own", "image", 10, 32, suffix="width")
        for depth in (8, 14, 20, 32, 44, 56, 110)
    ]
    return [
        *resnets,
        Entry("mlp", MLP, "own", "image", 10, 32),
        Entry("bag", Bag, "own", "text", 2, 128, suffix="dim"),
        Entry("dan", Dan, "own", "ngrams", 2, 488, suffix="dim"),
        Entry("transformer", Transformer, "own", "text", 2, 128, suffix="dim"),
        Entry("mlm", MaskedLm, "own", "text", WORDPIECES, 128, suffix="dim"),
        Entry("lstm", Lstm, "own", "text", 2, 128, suffix="hidden"),
        Entry("cnn", Cnn, "own", "text", 2, 128, suffix="channels"),
    ]


def _timm() -> list[Entry]:
    def entry(name: str, builder: Callable[..., nn.Module], size: int = 224) -> Entry:
        pretrained = str(HUB[name]) if name in HUB else None
        return Entry(name, builder, "timm", "image", 1000, size, pretrained=pretrained)

    return [
        entry("efficientnet-l2-475", partial(timm_model, "tf_efficientnet_l2"), 475),
        *(entry(f"mobilenetv3-{width}", partial(mobilenet_v3, width)) for width in (0.35, 0.5, 0.75, 1.0, 1.25)),
        entry("resnet50", partial(timm_model, "resnet50")),
        entry("resnet101", partial(timm_model, "resnet101")),
        entry("vit-b-16", partial(timm_model, "vit_base_patch16_224")),
    ]


def _transformers() -> list[Entry]:
    def entry(name: str, builder: Callable[..., nn.Module], classes: int, **fields: Any) -> Entry:
        return Entry(name, builder, "transformers", "text", classes, 128, pretrained=str(HUB[name]), **fields)

    def encoder(name: str, family: str, config: Mapping[str, Any], classes: int, **fields: Any) -> Entry:
        builder = partial(TextClassifier, family, config, HUB[name])
        return entry(name, builder, classes, vocab_size=config["vocab_size"], **fields)

    def language(name: str, config: Mapping[str, Any]) -> Entry:
        return entry(name, partial(LanguageModel, "Bert", config, HUB[name]), config["vocab_size"])

    def t5(name: str, config: Mapping[str, Any]) -> Entry:
        return entry(name, partial(T5Classifier, config, HUB[name]), 2, vocab_size=config["vocab_size"])

    return [
        entry("minilm-l6", minilm.MiniLM, 2),
        encoder("roberta-large", "Roberta", published.ROBERTA_LARGE, 3, licence="Apache-2.0; weights MIT"),
        encoder("mobilebert", "MobileBert", published.MOBILEBERT, 3),
        encoder("distilbert", "DistilBert", published.DISTILBERT, 2),
        encoder("distilroberta", "Roberta", published.DISTILROBERTA, 2),
        encoder("bert-base", "Bert", published.BERT, 2),
        encoder("bert-large", "Bert", {**published.BERT, **published.LARGE}, 2),
        language("bert-base-mlm", published.BERT),
        language("bert-large-mlm", {**published.BERT, **published.LARGE}),
        t5("t5-small", published.T5_SMALL),
        t5("t5-base", published.T5_BASE),
    ]


TABLE: dict[str, Entry] = {entry.name: entry for entry in (*_own(), *_timm(), *_transformers())}

# The tokenizers of these models have one and the same uncased vocabulary of 30,522 wordpieces.
WORDPIECE_MODELS = (
    "minilm-l6", "bert-base", "bert-large", "bert-base-mlm", "bert-large-mlm", "distilbert", "mobilebert", "bag",
    "transformer", "mlm", "lstm", "cnn",
)  # fmt: skip


def build(name: str, num_classes: int, **options: Any) -> nn.Module:
    """The model ``name`` with ``num_classes`` outputs, initialised from torch's global generator.

    Image models map float32 [B, 3, H, W], text models (input_ids, attention_mask), both int64 [B, T], and n-gram models
    (ids int64 [total], offsets int64 [B + 1]) to logits [B, num_classes]; masked language models, whose classes are the
    tokens of their vocabulary, to [B, T, num_classes]. "resnet8-w4" is resnet8 with width=4; bag-wN, dan-wN,
    transformer-wN and mlm-wN set dim, lstm-wN the units per direction, cnn-wN the channels. Weights are random unless
    ``pretrained`` is given, for the models that take it: True for the pinned source, or a local path. Raises UserError
    for an unknown name or option, with the nearest that exists, and for pretrained weights not found.
    """
    entry, options = resolve(name, options)
    if num_classes < 2:
        raise UserError(f"A classifier needs at least 2 classes, not {num_classes}.")
    for option in options:
        if option not in entry.options:
            near = difflib.get_close_matches(option, entry.options, n=1, cutoff=0.0)
            hint = f"did you mean '{near[0]}'?" if near else "it takes none."
            raise UserError(f"The model '{entry.name}' has no option '{option}'; {hint}")
    return entry.builder(num_classes=num_classes, **options)


def resolve(name: str, options: Mapping[str, Any]) -> tuple[Entry, dict[str, Any]]:
    """The entry that ``name`` stands for, and ``options`` with what its ending -wN says."""
    if name in TABLE:
        return TABLE[name], dict(options)
    match = re.fullmatch(r"(.+)-w(\d+)", name)
    entry = TABLE.get(match[1]) if match else None
    if not match or entry is None or entry.suffix is None:
        near = difflib.get_close_matches(name, TABLE, n=1, cutoff=0.0)
        raise UserError(f"There is no model '{name}'; did you mean '{near[0]}'? 'paper-repro zoo' lists all.")
    if entry.suffix in options:
        raise UserError(f"'{name}' says the {entry.suffix} already; leave out the option '{entry.suffix}'.")
    return entry, {**options, entry.suffix: int(match[2])}


def load_tokenizer(name: str) -> "Tokenizer":
    """The tokenizer of a model, or of a folder with a tokenizer.json; neither truncates nor pads.

    BERT, DistilBERT, MobileBERT and MiniLM share one vocabulary, which comes with MiniLM-L6 and is checked by SHA-256;
    RoBERTa's and T5's come from the Hub at a pinned revision. Raises UserError where it cannot be found.
    """
    if name in WORDPIECE_MODELS:
        return minilm.load_tokenizer()
    from tokenizers import Tokenizer

    hub = HUB.get(name)
    if hub and hub.revision:
        try:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(hub.repository, "tokenizer.json", revision=hub.revision))
        except Exception as error:
            raise UserError(
                f"The tokenizer of '{name}' could not be downloaded from {hub} ({type(error).__name__}); "
                "give a folder that holds its tokenizer.json instead of the name."
            ) from None
    else:
        path = Path(name) / "tokenizer.json"
        if not path.is_file():
            known = (*WORDPIECE_MODELS, *(other for other, hub in HUB.items() if hub.revision))
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise UserError(f"There is no tokenizer '{name}' and no such folder; did you mean '{near[0]}'?")
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
