"""The zoo's own small nets: what they compute, and how models are named."""

import sys
from subprocess import run

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from paper_repro.errors import UserError
from paper_repro.zoo import TABLE, active_params, build, flops, inputs, load_tokenizer
from paper_repro.zoo.text import Bag, Transformer, masked_mean

OWN = [name for name, entry in TABLE.items() if entry.source == "own" and name != "mlm"]  # for that see test_masked.py
TEXT = {
    "bag": {"vocab_size": 50, "dim": 8},
    "transformer": {"vocab_size": 50, "dim": 8, "heads": 2},
    "dan": {"vocab": 50, "dim": 8},
}


def padded(texts: list[list[int]], length: int, pad_id: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([text + [pad_id] * (length - len(text)) for text in texts])
    return ids, torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])


@pytest.mark.parametrize("name", OWN)
def test_every_own_model_gives_logits_and_learns_everywhere(name):
    model = build(name, 5, **TEXT.get(name, {}))
    batch = inputs(name, 4, **{"size": 8} if TABLE[name].modality != "image" else {}, **TEXT.get(name, {}))
    logits = model(*batch)
    assert logits.shape == (4, 5) and torch.isfinite(logits).all()
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    gradients = [p.grad.to_dense() for p in model.parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(gradient.abs().sum() > 0 for gradient in gradients if gradient.ndim > 1)


# He et al. 2016, table 6 (ResNet-20 to 56): millions, rounded to two digits; 8 and 14 are not in it.
@pytest.mark.parametrize("depth, millions", [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_resnets_have_the_papers_parameter_counts(depth, millions):
    assert round(TABLE[f"resnet{depth}"].params / 1e6, 2) == millions


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56])
def test_a_resnet_of_depth_6n_plus_2_has_that_many_layers(depth):
    with torch.device("meta"):
        model = build(f"resnet{depth}", 10)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth


@pytest.mark.parametrize("size", [4, 8, 16, 32, 33])
def test_resnets_take_images_of_any_size(size):
    assert build("resnet8-w4", 3)(torch.zeros(2, 3, size, size)).shape == (2, 3)


def test_the_shortcut_subsamples_and_pads_with_zero_channels():
    block = build("resnet8-w4", 3).blocks[1].eval()
    nn.init.zeros_(block.conv2.weight)  # only the shortcut is left
    x = torch.rand(1, 4, 6, 6)
    y = block(x)
    assert y.shape == (1, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2]) and not y[:, :2].any() and not y[:, 6:].any()


def test_resnet_flops_agree_with_those_counted_by_hand():
    def conv(channels_in: int, channels_out: int, side: int) -> int:
        return 2 * 9 * channels_in * channels_out * side**2

    expected = (
        conv(3, 8, 16) + 2 * conv(8, 8, 16) + conv(8, 16, 8) + conv(16, 16, 8) + conv(16, 32, 4) + conv(32, 32, 4)
    )
    assert flops(build("resnet8-w8", 10), (torch.zeros(1, 3, 16, 16),)) == expected + 2 * 32 * 10


@given(
    st.lists(st.lists(st.integers(1, 49), max_size=6), min_size=1, max_size=5), st.integers(0, 5), st.integers(0, 49)
)
@settings(deadline=None, max_examples=30)
def test_text_models_ignore_padding(texts, extra, pad_id):
    longest = max(max(map(len, texts)), 1)
    for model in (Bag(3, 50, 8), Transformer(3, 50, dim=8, heads=2, max_length=16).eval()):
        with torch.no_grad():
            short, long = model(*padded(texts, longest)), model(*padded(texts, longest + extra, pad_id))
            alone = torch.cat([model(*padded([text], max(len(text), 1))) for text in texts])
        assert torch.isfinite(short).all()  # an empty text too
        torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(short, alone, rtol=1e-4, atol=1e-5)


def test_a_bag_is_the_mean_of_its_embeddings_and_has_no_order():
    model = Bag(3, 50, 8)
    table = model.embedding.weight
    mean = torch.stack([table[[3, 4, 4]].mean(0), table[[7]].mean(0)])
    expected = model.head(F.relu(model.hidden(mean)))
    torch.testing.assert_close(model(*padded([[4, 3, 4], [7]], 5)), expected)
    torch.testing.assert_close(model(*padded([[4, 4, 3], [7]], 3)), expected)


def test_a_transformer_sees_order():
    model = Transformer(3, 50, dim=8, heads=2).eval()
    assert not torch.allclose(model(*padded([[4, 3]], 2)), model(*padded([[3, 4]], 2)), atol=1e-7)


def test_the_mean_of_nothing_is_zero():
    assert not masked_mean(torch.ones(1, 3, 2), torch.zeros(1, 3)).any()


def test_flops_count_the_whole_batch_and_leave_the_model_as_it_was():
    model = build("transformer", 2, **TEXT["transformer"])
    ids, mask = inputs("transformer", 3, 7, **TEXT["transformer"])
    tokens, dim = 3 * 7, 8
    attention = 2 * 2 * tokens * 7 * dim  # queries with keys, weights with values; all heads
    expected = 2 * (attention + 2 * tokens * dim * (3 + 1 + 4 + 4) * dim) + 2 * 3 * dim * 2
    assert flops(model.train(), {"input_ids": ids, "attention_mask": mask, "label": ids}) == expected
    assert model.training
    mask[:, 3:] = 0
    assert flops(model.eval(), (ids, mask)) == expected and not model.training


def test_the_same_seed_gives_the_same_model_and_inputs():
    def state(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build("resnet8-w4", 3).blocks[0].conv1.weight

    assert torch.equal(state(1), state(1)) and not torch.equal(state(1), state(2))
    (first,), (again,), (other,) = inputs("mlp", 2), inputs("mlp", 2), inputs("mlp", 2, seed=1)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_names_ending_sets_the_width():
    assert build("resnet20-w4", 10).conv.out_channels == 4 == build("resnet20", 10, width=4).conv.out_channels
    assert build("bag-w16", 2, vocab_size=9).embedding.embedding_dim == 16
    assert build("transformer-w16", 2, vocab_size=9).head.in_features == 16


@pytest.mark.parametrize(
    "name, classes, options, message",
    [
        ("resnet18", 10, {}, "no model 'resnet18'; did you mean 'resnet8'"),
        ("roberta_large", 2, {}, "did you mean 'roberta-large'"),
        ("mlp-w8", 10, {}, "no model 'mlp-w8'; did you mean 'mlp'"),
        ("resnet8-w8", 10, {"width": 8}, "says the width already"),
        ("resnet8", 10, {"widht": 8}, "no option 'widht'; did you mean 'width'"),
        ("resnet8", 1, {}, "at least 2 classes"),
        ("resnet8-w0", 10, {}, "width of a ResNet must be at least 1"),
        ("transformer", 2, {"dim": 9}, "multiple of its heads"),
        ("mobilenetv3-0.6", 10, {}, "did you mean 'mobilenetv3-0."),
    ],
)
def test_bad_names_and_options_are_said_in_one_sentence(name, classes, options, message):
    with pytest.raises(UserError) as caught:
        build(name, classes, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_inputs_of_the_wrong_size_are_said():
    with pytest.raises(UserError, match="build it with in_features=192"):
        build("mlp", 10)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="has 9 tokens, this transformer takes 8"):
        build("transformer", 2, vocab_size=9, max_length=8)(*padded([[1] * 9], 9))


def test_unknown_tokenizers_are_said():
    with pytest.raises(UserError, match="did you mean 'minilm-l6'"):
        load_tokenizer("minilm-l7")


def test_importing_the_zoo_imports_neither_timm_nor_transformers():
    code = "import sys, paper_repro.zoo; sys.exit(bool({'timm', 'transformers'} & set(sys.modules)))"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_active_parameters_count_only_the_embedding_rows_that_an_example_looks_up():
    model = build("bag", 2, vocab_size=100, dim=8)
    ids = torch.tensor([[5, 5, 7, 0], [1, 2, 3, 4]])  # 3 and 4 different tokens
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    total = sum(parameter.numel() for parameter in model.parameters())
    assert active_params(model, batch) == total - 100 * 8 + 3.5 * 8
    dense = build("mlp", 10)
    count = sum(parameter.numel() for parameter in dense.parameters())
    assert active_params(dense, {"pixels": inputs("mlp", 2)[0]}) == count
