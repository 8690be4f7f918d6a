"""Neuron selection against exhaustive search and exact cases, and sharpness against closed forms."""

from itertools import combinations

import pytest
import torch
from torch import nn

from paper_repro.errors import UserError
from paper_repro.kernels.selection import bottlenecks, choose, select
from paper_repro.kernels.sharpness import rise_under_noise, top_eigenvalue
from paper_repro.train import forward
from paper_repro.zoo.text import Transformer
from paper_repro.zoo.vision import MLP, CifarResNet


def left_over(activations, readers, kept):
    """The squared change of what is read, readers refitted by numpy's least squares."""
    target = activations @ readers.T
    fit = torch.linalg.lstsq(activations[:, kept], target).solution
    return (activations[:, kept] @ fit - target).square().sum().item()


@pytest.mark.parametrize("seed", range(5))
def test_greedy_choice_is_close_to_the_best_of_all(seed):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(200, 6, generator=generator, dtype=torch.float64).relu()
    readers = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    kept, refitted = choose(activations.T @ activations, readers, 3)
    mine = left_over(activations, readers, kept.tolist())
    assert (activations[:, kept] @ refitted.T - activations @ readers.T).square().sum().item() == pytest.approx(
        mine, rel=1e-3
    )
    every = sorted(left_over(activations, readers, list(places)) for places in combinations(range(6), 3))
    assert mine <= every[len(every) // 4]  # the best quarter, and never a bad choice
    first, _ = choose(activations.T @ activations, readers, 1)
    assert left_over(activations, readers, first.tolist()) == pytest.approx(
        min(left_over(activations, readers, [unit]) for unit in range(6)), rel=1e-3
    )


def test_units_that_are_copies_or_dead_are_left_out_without_loss():
    torch.manual_seed(0)
    narrow, wide = MLP(3, in_features=12, hidden=(4, 4)), MLP(3, in_features=12, hidden=(8, 8))
    with torch.no_grad():
        for mine, theirs in ((narrow.layers[0], wide.layers[0]), (narrow.layers[2], wide.layers[2])):
            theirs.weight.zero_(), theirs.bias.zero_()
            theirs.weight[:4, : mine.weight.shape[1]] = mine.weight
            theirs.bias[:4] = mine.bias
        wide.layers[0].weight[4:6] = wide.layers[0].weight[:2]  # copies; 6 and 7 are dead
        wide.layers[0].bias[4:6] = wide.layers[0].bias[:2]
        wide.head.weight.zero_()
        wide.head.weight[:, :4] = narrow.head.weight
        wide.head.bias.copy_(narrow.head.bias)
    x = torch.randn(300, 3, 2, 2)
    found = select(wide, MLP(3, in_features=12, hidden=(4, 4)), [{"pixels": x}])
    torch.testing.assert_close(found(x), wide.eval()(x), rtol=1e-3, atol=1e-4)


def images():
    wide = CifarResNet(8, 3, width=4, inner=2.0)
    with torch.no_grad():
        for block in wide.blocks:  # every second channel is dead
            block.norm1.weight[::2] = 0.0
    return wide, CifarResNet(8, 3, width=4), {"pixels": torch.randn(20, 3, 8, 8)}


def texts():
    wide = Transformer(3, vocab_size=30, dim=8, heads=2, inner=64)
    with torch.no_grad():
        for layer in wide.layers:
            layer.up.weight[::2] = 0.0
    batch = {"input_ids": torch.randint(0, 30, (20, 6)), "attention_mask": torch.ones(20, 6, dtype=torch.int64)}
    return wide, Transformer(3, vocab_size=30, dim=8, heads=2), batch


def test_where_all_units_are_dead_any_will_do_and_none_is_read():
    kept, readers = choose(torch.zeros(6, 6, dtype=torch.float64), torch.ones(3, 6, dtype=torch.float64), 2)
    assert len(set(kept.tolist())) == 2 and torch.equal(readers, torch.zeros(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("make", [images, texts])
def test_selection_finds_the_units_that_a_network_uses(make):
    torch.manual_seed(0)
    wide, narrow, batch = make()
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    found = select(wide, narrow, [batch])
    assert all(torch.equal(value, before[name]) for name, value in wide.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(forward(found, batch), forward(wide.eval(), batch), rtol=1e-3, atol=1e-3)


def test_models_that_do_not_fit_are_one_sentence():
    narrow = MLP(3, in_features=12, hidden=(4,))
    batch = [{"pixels": torch.randn(5, 3, 2, 2)}]
    with pytest.raises(UserError, match="2 units to select from, and 4 are wanted"):
        select(MLP(3, in_features=12, hidden=(2,)), narrow, batch)
    with pytest.raises(UserError, match="differ in more than the width"):
        select(MLP(4, in_features=12, hidden=(8,)), narrow, batch)
    with pytest.raises(UserError, match="not Linear"):
        bottlenecks(nn.Linear(2, 2))


def test_power_iteration_finds_the_largest_curvature():
    curvature = torch.tensor([0.5, -7.0, 3.0])
    weight = nn.Parameter(torch.randn(3))
    found = top_eigenvalue([weight], lambda: 0.5 * (curvature * weight.square()).sum(), iterations=60)
    assert found == pytest.approx(-7.0, rel=1e-4)


def test_the_rise_under_noise_is_half_the_trace_times_the_variance():
    torch.manual_seed(0)
    model = nn.Linear(50, 4, bias=False)
    before, sigma = model.weight.detach().clone(), 0.3
    rise = rise_under_noise(model, lambda: model.weight.square().sum(), sigma=sigma, draws=200)
    assert rise == pytest.approx(200 * (sigma * before.std(correction=0).item()) ** 2, rel=0.05)
    assert torch.equal(model.weight, before)
