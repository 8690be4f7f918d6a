"""The n-gram student: the paper's formula by hand, pooling against plain loops, a step blind to the table's size."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paper_repro.errors import UserError
from paper_repro.train import TrainConfig, make_optimizer
from paper_repro.train.sparse_adam import SparseAdam
from paper_repro.zoo import build
from paper_repro.zoo.dan import Dan, drop_features, segment_softmax

BAGS = [[3, 1, 3], [], [0], [4, 2, 1, 0, 5]]


def batch(bags):
    ids = torch.tensor([i for bag in bags for i in bag], dtype=torch.int64)
    return ids, torch.tensor(np.cumsum([0, *map(len, bags)]))


def by_hand(model, bags):
    table, rows = model.table.weight, []
    for bag in bags:
        e = table[torch.tensor(bag, dtype=torch.int64)]
        if not bag:
            rows.append(torch.zeros(table.shape[1]))
        elif model.pooling == "attention":
            rows.append((torch.softmax(e @ model.query, 0)[:, None] * e).sum(0))
        else:
            rows.append({"mean": e.mean(0), "sum": e.sum(0), "max": e.max(0).values}[model.pooling])
    x = torch.stack(rows)
    for layer in model.layers:
        x = model.activation(x @ layer.weight.T + layer.bias)
    return x @ model.head.weight.T + model.head.bias


@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "attention"])
@pytest.mark.parametrize("training", [True, False])
def test_logits_and_gradients_are_those_of_the_formula(pooling, training):
    torch.manual_seed(0)
    model = build("dan", 3, vocab=7, dim=5, hidden=[4, 3], pooling=pooling, activation="tanh").train(training)
    if model.query is not None:
        nn.init.normal_(model.query)
    ours, expected = model(*batch(BAGS)), by_hand(model, BAGS)
    torch.testing.assert_close(ours, expected)
    parameters = list(model.parameters())
    weight = torch.randn_like(ours)
    got = torch.autograd.grad((ours * weight).sum(), parameters)
    want = torch.autograd.grad((expected * weight).sum(), parameters)
    assert got[0].is_sparse or not model.table.sparse or parameters[0] is not model.table.weight
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.to_dense() if a.is_sparse else a, b)


def test_without_gradients_the_logits_are_the_same():
    model = build("dan", 2, vocab=7, dim=5)
    with torch.no_grad():
        plain = model(*batch(BAGS))
    torch.testing.assert_close(plain, model(*batch(BAGS)))


def test_the_papers_sizes_have_the_papers_parameters():
    with torch.device("meta"):
        model = Dan(2)
    sparse = model.table.weight.numel()
    dense = sum(p.numel() for p in model.parameters()) - sparse
    assert (sparse, dense) == (1_000_000_000, 1000 * 1000 + 1000 + 1000 * 2 + 2)  # table 4: 1000M and 1M


def test_pairs_read_both_their_product_and_their_distance():
    model = Dan(2, vocab=7, dim=3, hidden=[], pairs=True)
    u, v = model.table.weight[2], model.table.weight[5]
    logits = model(*batch([[2]]), *batch([[5]]))
    torch.testing.assert_close(logits[0], model.head(torch.cat([u, v, u * v, (u - v).abs()])))
    with pytest.raises(UserError, match="second texts"):
        model(*batch([[2]]))


def test_an_empty_table_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        Dan(2, vocab=0, dim=3)


def test_the_gradient_holds_the_rows_of_the_batch_only():
    model = build("dan", 2, vocab=1000, dim=4)
    model(*batch([[7, 9, 7], [500]])).sum().backward()
    assert model.table.weight.grad._indices().tolist() == [[7, 9, 500]]  # each once, in order


@given(st.lists(st.lists(st.integers(0, 9), max_size=20), min_size=1, max_size=5), st.floats(0.0, 0.99))
def test_dropping_features_keeps_texts_apart_and_in_order(bags, share):
    ids, offsets = batch(bags)
    kept, new = drop_features(ids, offsets, share)
    assert new[0] == 0 and new[-1] == len(kept) and (new.diff() <= offsets.diff()).all()
    for bag, start, stop in zip(bags, new, new[1:], strict=False):
        rest = iter(bag)
        assert all(i in rest for i in kept[start:stop].tolist())  # a subsequence


def test_feature_dropout_leaves_out_its_share():
    ids, offsets = torch.arange(100_000), torch.tensor([0, 100_000])
    torch.manual_seed(0)
    assert abs(len(drop_features(ids, offsets, 0.3)[0]) / 1e5 - 0.7) < 0.01


def test_segment_softmax_sums_to_one_per_text_and_survives_large_scores():
    ids, offsets = batch([[1, 2], [], [3]])
    weights = segment_softmax(torch.tensor([1000.0, 1000.0, -5.0]), offsets)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 1.0]))
    assert len(ids) == 3


@pytest.mark.parametrize("steps", [1, 7])
def test_sparse_adam_is_torchs(steps):
    torch.manual_seed(0)
    start = torch.randn(20, 6)
    tables = [nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [SparseAdam([tables[0]], lr=0.1), torch.optim.SparseAdam([tables[1]], lr=0.1)]
    for step in range(steps):
        rows, values = torch.randperm(20)[:5].sort().values, torch.randn(5, 6)
        if step % 2:  # rows in any order, some of them twice
            rows, values = torch.randint(20, (9,)), torch.randn(9, 6)
        for table, optimizer in zip(tables, optimizers, strict=True):
            table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=True)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
            optimizer.step()
    torch.testing.assert_close(tables[0], tables[1])
    ours, theirs = (optimizer.state_dict()["state"][0] for optimizer in optimizers)
    assert ours["step"] == theirs["step"]
    torch.testing.assert_close(ours["exp_avg_sq"], theirs["exp_avg_sq"])


def test_the_table_gets_sparse_adam_the_rest_adamw_and_both_resume():
    config = TrainConfig(steps=3, global_batch=2, optimizer="sparse_adam", lr=0.01, weight_decay=0.1)
    torch.manual_seed(0)
    models = [build("dan", 2, vocab=50, dim=4) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [make_optimizer(model, config) for model in models]
    assert {id(p) for g in optimizers[0].param_groups for p in g["params"]} == {id(p) for p in models[0].parameters()}
    untouched = models[0].table.weight[40].clone()

    def step(model, optimizer):
        model(*batch([[1, 2], [3]])).logsumexp(1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(models[0], optimizers[0])
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert torch.equal(models[0].table.weight[40], untouched)
