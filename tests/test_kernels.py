"""Majority kernels: the algebra worked by hand, exact folding, and the ways people train."""

import copy
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from paper_repro import kernels
from paper_repro.errors import UserError
from paper_repro.kernels.majority import mix
from paper_repro.kernels.simplex import similarity, with_norms
from paper_repro.train import TrainConfig, make_optimizer
from paper_repro.zoo.text import MaskedLm, Transformer
from paper_repro.zoo.vision import MLP, CifarResNet

X = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def mlp(seed=0, **options):
    torch.manual_seed(seed)
    return MLP(3, in_features=48, hidden=(8, 8), **options)


def expanded(k=3, seed=0, **options):
    number = iter(range(1, 99))
    return kernels.expand(mlp(seed), k, fresh=lambda: mlp(100 * seed + next(number)), **options)


def trained(model, steps=4, lr=0.2, weight_decay=0.01, momentum=0.9, seed=0, first=0, optimizer="sgd"):
    recipe = TrainConfig(
        steps=1, global_batch=6, optimizer=optimizer, lr=lr, momentum=momentum, weight_decay=weight_decay
    )
    optimizer = make_optimizer(model, recipe)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    losses = []
    model.train()
    for step in range(first, first + steps):
        kernels.draw(model, step, seed=seed)
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def same(first, second, **tolerance):
    mine, theirs = first.state_dict(), second.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], **tolerance)


# --- coefficients


@pytest.mark.parametrize("law", ["dirichlet", "uniform", "one_hot", "constant"])
@given(k=st.integers(1, 6), rest=st.lists(st.integers(1, 3), max_size=2), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_coefficients_lie_on_the_simplex(law, k, rest, seed):
    found = kernels.draw_coefficients(law, (k, *rest), torch.Generator().manual_seed(seed))
    assert found.shape == (k, *rest) and (found >= 0).all()
    torch.testing.assert_close(found.sum(0), torch.ones(rest))


@pytest.mark.parametrize(("law", "k", "expected"), [
    ("dirichlet", 2, 2 / 3), ("dirichlet", 8, 2 / 9), ("uniform", 2, 0.614), ("uniform", 3, 0.430),
    ("uniform", 4, 0.328), ("uniform", 8, 0.166), ("one_hot", 5, 1.0), ("constant", 4, 0.25),
])  # fmt: skip
def test_the_variance_of_a_mixture_is_that_of_the_fact_sheet(law, k, expected):
    assert kernels.expected_square(law, k) == pytest.approx(expected, abs=1e-3)
    drawn = kernels.draw_coefficients(law, (k, 100_000), torch.Generator().manual_seed(1))
    assert drawn.square().sum(0).mean().item() == pytest.approx(expected, abs=4e-3)
    torch.testing.assert_close(drawn.mean(1), torch.full((k,), 1 / k), atol=5e-3, rtol=0)


# --- the mixture


@pytest.mark.parametrize("granularity", ["network", "layer", "unit", "element"])
def test_a_mixture_and_its_gradient_are_those_of_the_written_sum(granularity):
    model = expanded(granularity=granularity).train()
    kernels.draw(model, 0)
    layer = model.layers[0]
    stack, p = layer.parametrizations.weight.original, layer.parametrizations.weight[0].source.values
    shape = {"network": (3,), "layer": (3,), "unit": (3, 8, 1), "element": (3, 8, 48)}[granularity]
    assert p.shape == shape
    weight = p.view(*p.shape, *[1] * (3 - p.ndim))
    torch.testing.assert_close(layer.weight, (weight * stack).sum(0))
    gradient = torch.randn(8, 48)
    (layer.weight * gradient).sum().backward()
    torch.testing.assert_close(stack.grad, weight * gradient)  # dL/dW_i = p_i g


def test_one_network_has_one_draw_and_layers_have_their_own():
    for granularity, distinct in (("network", 1), ("layer", 3)):
        model = expanded(granularity=granularity).train()
        kernels.draw(model, 5)
        assert len({tuple(kernel.source.values.tolist()) for kernel, _ in kernels.untied(model)}) == distinct


def test_draws_are_a_function_of_seed_step_and_rank():
    model = expanded().train()

    def at(step, **axes):
        kernels.draw(model, step, **axes)
        return kernels.untied(model)[0][0].source.values.tolist()

    first = at(7)
    assert at(8) != first and at(7, seed=1) != first and at(7, rank=1) != first
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert at(7) == first and torch.equal(torch.get_rng_state(), before)


def test_one_copy_is_plain_training_bit_for_bit():
    plain, majority = mlp(), kernels.expand(mlp(), 1)
    assert trained(plain) == trained(majority)
    same(kernels.fold(majority.eval()), plain, rtol=0, atol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("k", [2, 3])
def test_constant_coefficients_are_plain_training_at_a_smaller_rate(k, fused):
    """The mean of k copies moves by lr/k: constant p at (lr k, wd / k) is plain training from the copies' mean."""
    for scale in (1.0, k):
        majority = expanded(k, law="constant", lr_scale=scale)
        plain = kernels.fold(majority.eval())
        plain = kernels.expand(plain, 1, lr_scale=scale / k)  # kernels at lr scale / k, with the decay that follows
        if fused:
            kernels.fuse(majority)
        assert trained(majority) == pytest.approx(trained(plain), rel=1e-5)
        same(kernels.fold(majority.eval()), kernels.fold(plain.eval()), rtol=1e-4, atol=1e-6)


RULES = {
    "sgd": (kernels.MajoritySGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
    "nesterov": (kernels.MajoritySGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adamw": (kernels.MajorityAdamW, torch.optim.AdamW, {"betas": (0.8, 0.99)}),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [5, 9000, 70_000])
def test_the_fused_update_is_torchs(size, rule):
    mine, theirs, settings = RULES[rule]
    generator = torch.Generator().manual_seed(size)
    stack = torch.randn(3, size, generator=generator)
    parameter, fast, moments = nn.Parameter(stack.clone()), stack.clone(), torch.zeros(mine.moments, 3, size)
    slow, other = stack.double(), moments.double()  # the path of other devices
    optimizer = theirs([parameter], lr=0.1, weight_decay=0.02, **settings)
    group = {"lr": 0.1, "weight_decay": 0.02, **settings}
    mixed, mixture = torch.full((size,), torch.nan), torch.full((size,), torch.nan, dtype=torch.float64)
    for step in range(1, 4):
        gradient, p, ahead = (torch.rand(n, generator=generator) for n in (size, 3, 3))
        gradient -= 0.5
        parameter.grad = torch.outer(p, gradient)
        optimizer.step()
        mine.update(fast, moments, gradient, p, group, step, mixed=mixed, ahead=ahead)
        mine.update(slow, other, gradient.double(), p.double(), group, step, mixed=mixture, ahead=ahead.double())
    torch.testing.assert_close(fast, parameter.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(slow.float(), parameter.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed, ahead @ fast, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mixture, ahead.double() @ slow)


def test_a_mixture_that_was_made_ahead_is_that_of_the_next_step_and_of_no_other():
    model = expanded()
    kernels.fuse(model)
    optimizer = kernels.MajoritySGD(model, lr=0.1)

    def mixtures_are_right():
        for kernel, stack in kernels.untied(model):
            right = torch.tensordot(kernel.source.values, stack, 1)
            torch.testing.assert_close(kernel.mixed.detach(), right, rtol=1e-5, atol=1e-6)

    for step in (0, 1, 5, 5):  # the second is made ahead; after a jump and of the same step again it is not
        kernels.draw(model.train(), step)
        mixtures_are_right()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        optimizer.zero_grad()
    state = {name: 2 * value for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    kernels.draw(model, 6)
    mixtures_are_right()
    kernels.draw(model, 6, seed=1)
    mixtures_are_right()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_fused_training_is_training(optimizer):
    first, second = expanded(lr_scale=1.5), expanded(lr_scale=1.5)
    kernels.fuse(second)
    how = {"optimizer": optimizer, "lr": 0.2 if optimizer == "sgd" else 0.02}
    assert trained(first, **how) == pytest.approx(trained(second, **how), rel=1e-5)
    same(kernels.fold(first.eval()), kernels.fold(second.eval()), rtol=1e-4, atol=1e-6)


def test_gradients_accumulate_under_one_draw():
    whole, parts = expanded(), expanded()
    kernels.fuse(parts)
    kernels.draw(whole.train(), 3)
    F.cross_entropy(whole(X), Y).backward()
    for cut in (slice(0, 3), slice(3, 6)):
        kernels.draw(parts.train(), 3)
        (F.cross_entropy(parts(X[cut]), Y[cut]) / 2).backward()
    for (kernel, stack), (other, _) in zip(kernels.untied(whole), kernels.untied(parts), strict=True):
        torch.testing.assert_close(stack.grad[1], kernel.source.values[1] * other.mixed.grad, rtol=1e-4, atol=1e-7)


# --- expanding and folding


def models():
    torch.manual_seed(0)
    yield mlp(), (X,)
    yield CifarResNet(8, 3, width=4), (torch.randn(2, 3, 8, 8),)
    text = torch.randint(5, 40, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    yield Transformer(3, vocab_size=40, dim=8, heads=2, max_length=8), text
    yield MaskedLm(40, dim=8, heads=2, max_length=8), text
    yield nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (torch.randn(2, 5, 8),)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("fused", [False, True])
def test_folding_is_exact_and_leaves_a_plain_model(number, fused):
    model, inputs = list(models())[number]
    plain = copy.deepcopy(model)
    kernels.expand(model, 3, fresh=lambda: list(models())[number][0].apply(_perturb))
    if fused:
        kernels.fuse(model)
    kernels.draw(model.train(), 0)
    model(*inputs).sum().backward()
    model.eval()
    folded = kernels.fold(model)
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert [p.shape for p in folded.parameters()] == [p.shape for p in plain.parameters()]
    assert all(type(a) is type(b) for a, b in zip(folded.modules(), plain.modules(), strict=True))
    with torch.no_grad():
        assert torch.equal(folded(*inputs), model(*inputs))
    assert all(p.requires_grad for p in folded.parameters())
    plain.load_state_dict(kernels.fold_state(model.state_dict()))
    with torch.no_grad():  # with gradients torch's own layer chooses its kernels by what needs one
        assert torch.equal(plain.eval()(*inputs), model(*inputs))


def _perturb(module):
    for parameter in module.parameters(recurse=False):
        parameter.data += 0.1 * torch.randn(parameter.shape)


def test_a_shared_weight_stays_shared():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 10, bias=False))
    model[2].weight = model[0].weight
    count = sum(p.numel() for p in model.parameters())
    kernels.expand(model, 2)  # chooses the last layer, so the embedding goes with it
    assert sum(p.numel() for p in model.parameters()) == count + 60 + 36
    kernels.draw(model.train(), 0)
    assert torch.equal(model[0].weight, model[2].weight)
    model(torch.arange(4)).sum().backward()
    folded = kernels.fold(model.eval())
    assert folded[0].weight is folded[2].weight


def test_attention_reads_one_draw_in_a_step():
    torch.manual_seed(0)
    attention = kernels.expand(nn.MultiheadAttention(8, 2, batch_first=True), 2).train()
    kernels.draw(attention, 0)
    x = torch.randn(1, 3, 8)
    assert torch.equal(attention.in_proj_weight, attention.in_proj_weight)
    plain = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(attention.in_proj_weight)
        plain.out_proj.weight.copy_(attention.out_proj.weight)
        plain.in_proj_bias.copy_(attention.in_proj_bias)
        plain.out_proj.bias.copy_(attention.out_proj.bias)
    torch.testing.assert_close(attention(x, x, x)[0], plain(x, x, x)[0])


def test_scales_keep_the_spread_of_a_plain_kernel():
    def build():
        return nn.Linear(400, 400, bias=False)

    torch.manual_seed(0)
    plain = build().weight.std().item()
    for scale, read in (("mean", "eval"), ("sampled", "train")):
        model = kernels.expand(nn.Sequential(build()), 4, fresh=lambda: nn.Sequential(build()), scale=scale)
        stds = []
        for step in range(200):
            kernels.draw(model, step)
            stds.append(getattr(model, read)()[0].weight.var().item())
        assert math.sqrt(sum(stds) / len(stds)) == pytest.approx(plain, rel=0.03)


def test_spread_is_the_distance_of_the_copies_to_their_mean():
    model = kernels.expand(nn.Sequential(nn.Linear(2, 1, bias=False)), 2)
    with torch.no_grad():
        model[0].parametrizations.weight.original.copy_(torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]]))
    assert kernels.spread(model) == {"0.weight": pytest.approx(0.5)}
    assert kernels.spread(kernels.expand(mlp(), 3)) == pytest.approx(
        dict.fromkeys(kernels.spread(expanded()), 0.0), abs=1e-6
    )


# --- how people train


@pytest.mark.parametrize("fused", [False, True])
def test_a_resumed_run_is_the_same_run(fused):
    def model():
        return expanded(seed=2)

    whole, half = model(), model()
    if fused:
        kernels.fuse(whole), kernels.fuse(half)
    recipe = TrainConfig(steps=1, global_batch=6, optimizer="sgd", lr=0.1, weight_decay=0.01)

    def steps(model, optimizer, numbers):
        model.train()
        for step in numbers:
            kernels.draw(model, step)
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()

    steps(whole, make_optimizer(whole, recipe), range(6))
    first = make_optimizer(half, recipe)
    steps(half, first, range(3))
    again = model()
    if fused:
        kernels.fuse(again)
    second = make_optimizer(again, recipe)
    again.load_state_dict(half.state_dict())
    second.load_state_dict(first.state_dict())
    steps(again, second, range(3, 6))
    same(again, whole, rtol=0, atol=0)


def test_under_autocast_copies_are_mixed_in_single_precision():
    model = expanded().train()
    kernels.draw(model, 0)
    exact = model.layers[0].weight
    with torch.autocast("cpu", torch.bfloat16):
        assert model.layers[0].weight.dtype == torch.float32 and torch.equal(model.layers[0].weight, exact)
        assert model(X).dtype == torch.bfloat16


@pytest.mark.parametrize("fused", [False, True])
def test_a_compiled_model_sees_each_draw(fused):
    model = expanded().train()
    if fused:
        kernels.fuse(model)
    compiled = torch.compile(model, backend="aot_eager")
    for step in range(3):
        kernels.draw(model, step)
        torch.testing.assert_close(compiled(X), model(X))
    F.cross_entropy(compiled(X), Y).backward()
    kernel, stack = kernels.untied(model)[0]
    assert (kernel.mixed if fused else stack).grad is not None


def test_a_users_optimizer_trains_the_copies_fused():
    model = expanded()
    optimizer = kernels.MajoritySGD(model, lr=0.1, momentum=0.9)
    rest = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    losses = []
    for step in range(60):
        kernels.draw(model.train(), step)
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        for one in (optimizer, rest):
            one.step()
            one.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


# --- controls


def test_weight_noise_has_its_size_and_leaves_no_trace():
    torch.manual_seed(0)
    model = kernels.add_noise(nn.Sequential(nn.Linear(300, 300)), 0.5).train()
    kernels.draw(model, 0)
    weight = model[0].parametrizations.weight.original
    noise = model[0].weight - weight
    assert noise.std().item() == pytest.approx(0.5 * weight.std().item(), rel=0.02)
    kernels.draw(model, 1)
    assert not torch.equal(model[0].weight - weight, noise)
    folded = kernels.fold(model.eval())
    assert list(folded.state_dict()) == ["0.weight", "0.bias"] and torch.equal(folded[0].weight, weight)
    silent = kernels.add_noise(mlp(), 0.0)
    assert trained(silent) == trained(mlp())


def test_similarity_is_the_squared_cosine_of_two_copies():
    model = expanded(k=2)
    vectors = [torch.cat([stack[i].flatten() for _, stack in kernels.untied(model)]) for i in range(2)]
    assert similarity(model, 0).item() == pytest.approx(F.cosine_similarity(*vectors, dim=0).item() ** 2)
    identical = kernels.expand(mlp(), 2)
    assert similarity(identical, 0).item() == pytest.approx(1.0)
    similarity(model, 0).backward()
    assert all(stack.grad is not None for _, stack in kernels.untied(model))


def test_norms_are_expanded_on_demand_and_decay_as_norms_do():
    model = kernels.expand(CifarResNet(8, 3, width=4), 2, layers=with_norms)
    names = [name for name, value in model.named_parameters() if kernels.is_stack(name) and value.ndim == 2]
    assert names
    assert list(kernels.fold(model.eval()).state_dict()) == list(CifarResNet(8, 3, width=4).state_dict())
    recipe = TrainConfig(steps=1, global_batch=1, optimizer="sgd", lr=0.1, weight_decay=0.1)
    groups = make_optimizer(model, recipe).param_groups
    decayed = {id(p) for group in groups for p in group["params"] if group["weight_decay"]}
    assert not any(id(model.get_parameter(name)) in decayed for name in names)


# --- bad input


def _steps_without_a_draw():
    model = _fused()
    optimizer = kernels.MajoritySGD(model, lr=0.1)
    F.cross_entropy(model.train()(X), Y).backward()
    optimizer.step()


CLIPPED = TrainConfig(steps=1, global_batch=1, optimizer="sgd", lr=0.1, grad_clip=1.0)


@pytest.mark.parametrize(("change", "message"), [
    (lambda: kernels.expand(mlp(), 0), "at least 1 copy, not 0"),
    (lambda: kernels.expand(mlp(), 2.5), "not 2.5; give a whole number"),
    (lambda: kernels.expand(mlp(), 2, law="gauss"), "no law 'gauss' .* use one of: dirichlet, uniform"),
    (lambda: kernels.expand(mlp(), 2, granularity="row"), "no granularity 'row'"),
    (lambda: kernels.expand(mlp(), 2, scale="big"), "no scale 'big'"),
    (lambda: kernels.expand(mlp(), 2, lr_scale=math.nan), "a positive number, not nan"),
    (lambda: kernels.expand(nn.Sequential(weight_norm(nn.Linear(4, 8))), 2), "computed from other parameters"),
    (lambda: kernels.expand(nn.LSTM(4, 4), 2, layers=lambda *_: True), r"\(LSTM\) cannot have majority kernels"),
    (lambda: kernels.expand(nn.ReLU(), 2), "no layer to expand"),
    (lambda: kernels.expand(expanded(), 2), "already"),
    (lambda: kernels.add_noise(expanded(), 0.1), "already"),
    (lambda: kernels.add_noise(mlp(), -0.1), "0 or more"),
    (lambda: kernels.add_noise(mlp(), math.nan), "0 or more"),
    (lambda: kernels.expand(mlp(), 2, scale="mean"), "leave out 'scale'"),
    (lambda: kernels.fold(expanded().train()), "in evaluation mode"),
    (lambda: expanded().train()(X), "call kernels.draw"),
    (lambda: kernels.fuse(expanded(granularity="unit")), "one coefficient per copy"),
    (lambda: kernels.fuse(mlp()), "one coefficient per copy"),
    (lambda: similarity(kernels.expand(mlp(), 1), 0), "k of 2 or more"),
    (lambda: make_optimizer(_fused(), CLIPPED), "do not fuse"),
    (lambda: _steps_without_a_draw(), "call kernels.draw"),
])  # fmt: skip
def test_bad_input_is_one_sentence(change, message):
    with pytest.raises(UserError, match=message):
        change()


@pytest.mark.parametrize("other", [
    lambda: MLP(3, in_features=48, hidden=(8, 9)), lambda: MLP(3, in_features=48, hidden=(8,)), expanded,
])  # fmt: skip
def test_copies_of_another_model_are_one_sentence_and_leave_the_model_plain(other):
    model = mlp()
    before = list(model.state_dict())
    with pytest.raises(UserError, match="let it build the same model, not expanded"):
        kernels.expand(model, 2, fresh=other)
    assert list(model.state_dict()) == before


@pytest.mark.parametrize("fused", [False, True])
def test_what_was_frozen_is_frozen_when_folded(fused):
    model = mlp()
    frozen = next(iter(model.parameters())).requires_grad_(False)
    kernels.expand(model, 2)
    if fused:
        kernels.fuse(model)
    trained_now = [p.requires_grad for p in kernels.fold(model.eval()).parameters()]
    assert not frozen.requires_grad and trained_now == [False, *[True] * (len(trained_now) - 1)]


def _fused():
    model = expanded()
    kernels.fuse(model)
    return model


def test_an_expanded_checkpoint_in_a_plain_model_is_one_sentence(tmp_path):
    from paper_repro.distill.weights import load_model, save_model

    save_model(expanded(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"fold"):
        load_model(mlp(), tmp_path / "model.safetensors")


def test_mix_of_one_copy_is_that_copy():
    stack = torch.randn(1, 3, 4)
    assert torch.equal(mix(stack, torch.ones(1)), stack[0])


def test_importing_kernels_compiles_nothing():
    code = "import sys, paper_repro.kernels; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
