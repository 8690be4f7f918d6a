"""The recurrent and the convolutional student of the text tasks, and what they cost."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from paper_repro.errors import UserError
from paper_repro.zoo import TABLE, build, cost, flops, inputs
from paper_repro.zoo.cost import recurrent_flops
from paper_repro.zoo.recurrent import Lstm, packed, turned
from paper_repro.zoo.text import Cnn

SMALL = {
    "lstm": {"vocab_size": 50, "embedding": 6, "hidden": 4},
    "cnn": {"vocab_size": 50, "embedding": 6, "channels": 9},
}


def padded(texts: list[list[int]], length: int, pad_id: int = 0) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([text + [pad_id] * (length - len(text)) for text in texts])
    return ids, torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])


def params(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_are_those_worked_out_by_hand():
    # Per direction four gates, each from the input, from the state, and two biases.
    first, second = 2 * 4 * 4 * (6 + 4 + 2), 2 * 4 * 4 * (8 + 4 + 2)
    assert params(build("lstm", 3, **SMALL["lstm"])) == 50 * 6 + first + second + (8 * 3 + 3) == 1159
    assert params(build("lstm", 3, layers=1, **SMALL["lstm"])) == 1159 - second
    assert params(build("cnn", 3, **SMALL["cnn"])) == 50 * 6 + (7 * 6 * 9 + 9) + (9 * 3 + 3) == 717
    assert TABLE["lstm"].params == 30_522 * 64 + 2 * 256 * (64 + 64 + 2) + 2 * 256 * (128 + 64 + 2) + 258
    assert TABLE["cnn"].params == 30_522 * 64 + 7 * 64 * 256 + 256 + 514


def test_the_papers_sizes_are_the_papers():
    """Table 12 says 2M dense parameters for the CNN (RoBERTa's 50,265 x 1,024 table is 51M); for the LSTM see below."""
    table = 50_265 * 1_024
    convolution = cost("cnn", 2, 8, vocab_size=50_265, embedding=1_024)["params"] - table
    assert round(convolution / 1e6) == 2
    # The paper prints <1, 2, 5 and 11M dense for 4, 64, 256 and 512 units; its head is not described, ours is linear.
    sizes = {
        units: cost("lstm", 2, 8, vocab_size=50_265, embedding=1_024, hidden=units)["params"] for units in (4, 512)
    }
    assert sizes[4] - table < 1e6 and 11e6 < sizes[512] - table < 13e6


@given(
    st.lists(st.lists(st.integers(1, 49), max_size=11), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 49)
)
@settings(max_examples=30)
@pytest.mark.parametrize("name", SMALL)
def test_padding_and_the_rest_of_the_batch_change_nothing(name, texts, extra, pad_id):
    torch.manual_seed(0)
    model = build(name, 3, **SMALL[name]).eval()
    longest = max(max(map(len, texts)), 1)
    with torch.no_grad():
        short, long = model(*padded(texts, longest)), model(*padded(texts, longest + extra, pad_id))
        alone = torch.cat([model(*padded([text], max(len(text), 1))) for text in texts])
    torch.testing.assert_close(long, short, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, short, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_text_without_tokens_has_the_heads_bias_and_no_gradient_that_is_not_a_number(name):
    model = build(name, 3, dropout=0.0, **SMALL[name])
    logits = model(*padded([[], [3, 4]], 4))
    torch.testing.assert_close(logits[0], model.head.bias)  # a mean, or a maximum, over nothing is zero
    cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_token_and_no_padding(name):
    torch.manual_seed(0)
    model = build(name, 3, **{**SMALL[name], "channels": 64} if name == "cnn" else SMALL[name]).eval()
    cross_entropy(model(*padded([[11, 12, 13, 14], [21]], 6, pad_id=30)), torch.tensor([0, 1])).backward()
    touched = model.tokens.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert touched == [11, 12, 13, 14, 21]
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_order_matters_and_dropout_is_for_training_only(name):
    torch.manual_seed(0)
    model = build(name, 3, dropout=0.5, **SMALL[name])
    text, turned_round = padded([[5, 6, 7]], 3), padded([[7, 6, 5]], 3)
    assert not torch.equal(model(*text), model(*text))
    model.eval()
    assert torch.equal(model(*text), model(*text))
    assert not torch.allclose(model(*text), model(*turned_round), atol=1e-6)


def test_turning_texts_round_is_torchs_bidirectional_layer():
    torch.manual_seed(0)
    layer, x, lengths = Lstm(2, **SMALL["lstm"]).layers[0], torch.randn(4, 7, 6), torch.tensor([7, 1, 4, 6])
    reference = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected = pad_packed_sequence(layer(reference)[0], batch_first=True)[0]
    inside = torch.arange(7) < lengths[:, None]
    for states in (turned(layer, x, lengths), packed(layer, x, lengths)):
        torch.testing.assert_close(states[inside], expected[inside])


def test_a_convolution_is_the_maximum_over_the_windows_of_the_text():
    torch.manual_seed(0)
    model = Cnn(3, **SMALL["cnn"]).eval()
    text = [5, 6, 7, 8]
    line = torch.cat([torch.zeros(3, 6), model.tokens.weight[text], torch.zeros(3, 6)])
    windows = torch.stack([line[start : start + 7].T.flatten() for start in range(4)])  # [4, 6 * 7]
    found = windows @ model.conv.weight.reshape(9, -1).T + model.conv.bias
    expected = model.head(found.amax(0).clamp(min=0))
    torch.testing.assert_close(model(*padded([text, [9]], 6))[0], expected)


def test_flops_are_counted_on_the_meta_device_and_on_this_one():
    length, batch = 7, 3
    layers = 2 * length * 2 * 16 * ((6 + 4) + (8 + 4))
    assert cost("lstm", 3, length, **SMALL["lstm"])["flops_per_example"] == layers + 2 * 8 * 3
    convolution = 2 * length * 7 * 6 * 9
    assert cost("cnn", 3, length, **SMALL["cnn"])["flops_per_example"] == convolution + 2 * 9 * 3
    for name, options in SMALL.items():
        found = flops(build(name, 3, **options), inputs(name, batch, length, **options))
        assert found == batch * cost(name, 3, length, **options)["flops_per_example"], name


def test_a_fused_recurrent_layer_costs_its_matrices_at_every_step():
    """cuDNN's operator, which this machine may not have: both layers' weights in one list, biases among them."""
    weights = [(16, 6), (16, 4), (16,), (16,), (16, 4), (16, 4), (16,), (16,)]
    assert recurrent_flops((5, 3, 6), weights) == 2 * 15 * 16 * (6 + 4 + 4 + 4)
    assert recurrent_flops((15, 6), weights) == 2 * 15 * 16 * (6 + 4 + 4 + 4)  # packed


def test_a_names_ending_sets_units_and_channels():
    assert build("lstm-w8", 2, vocab_size=9).layers[0].hidden_size == 8
    assert build("cnn-w8", 2, vocab_size=9).conv.out_channels == 8


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("lstm", {"layers": 0}, "An LSTM of 0 layers"),
        ("lstm-w0", {}, "with 0 units"),
        ("cnn-w0", {}, "0 channels is empty"),
        ("cnn", {"window": 6}, "must be odd, but it is 6; use 7"),
        ("lstm", {"units": 3}, "no option 'units'"),
    ],
)
def test_sizes_that_make_no_model_are_said(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        build(name, 2, **options)
    assert "\n" not in str(caught.value)


def test_distilroberta_is_the_released_model():
    """82,119,938 with a binary head is what others counted on the pinned revision; its model card says 82M."""
    assert TABLE["distilroberta"].params == 82_119_938
    assert TABLE["distilroberta"].pretrained == "distilbert/distilroberta-base@fb53ab880285"
