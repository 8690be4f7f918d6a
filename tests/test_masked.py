"""Masked language modelling: which positions are hidden and how, blocks, and the model's head."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paper_repro.data.masked import IGNORED, MaskedSource, blocks, hide, predictions
from paper_repro.data.text import Tokens
from paper_repro.errors import UserError
from paper_repro.seeds import torch_rng
from paper_repro.train import TrainConfig, forward, train
from paper_repro.zoo import build
from paper_repro.zoo.text import MaskedLm, Transformer

SPECIAL, MASK, VOCAB = 5, 4, 60


def drawn(ids, seed=0):
    return hide(ids, torch_rng(seed, "test"), mask_id=MASK, special=SPECIAL, vocab_size=VOCAB)


def test_blocks_are_all_the_tokens_in_order_but_for_the_rest():
    tokens = Tokens(np.arange(10, 33, dtype=np.int32), np.array([0, 10, 23]))
    assert blocks(tokens, 5, SPECIAL).tolist() == np.arange(10, 30).reshape(4, 5).tolist()
    assert blocks(tokens, 24, SPECIAL).shape == (0, 24)


def test_blocks_of_nearly_no_words_are_left_out():
    ids = np.zeros(40, dtype=np.int32)
    ids[[3, 4, 5, 25]] = 9  # of 20 tokens three are to be predicted
    assert predictions(20) == 3
    assert blocks(Tokens(ids, np.array([0, 40])), 20, SPECIAL).tolist() == [ids[:20].tolist()]


def test_a_fixed_number_is_hidden_and_shown_as_bert_does():
    ids = torch.randint(SPECIAL, VOCAB, (400, 500), generator=torch_rng(1, "ids"))
    shown, positions, labels = drawn(ids)
    assert positions.shape == labels.shape == (400, 75)
    assert (positions.diff(dim=1) > 0).all()  # ascending, so none is there twice
    assert torch.equal(labels, ids.gather(1, positions))
    hidden = torch.zeros_like(ids, dtype=torch.bool).scatter(1, positions, True)
    assert torch.equal(shown[~hidden], ids[~hidden])
    assert positions.double().mean() == pytest.approx(249.5, abs=3.5)  # everywhere alike: 4 standard deviations
    seen = shown.gather(1, positions)
    masked, own = seen == MASK, seen == labels
    assert masked.double().mean() == pytest.approx(0.8, abs=0.01)
    assert own.double().mean() == pytest.approx(0.1 + 0.1 / (VOCAB - SPECIAL), abs=0.008)
    random = seen[~masked & ~own]
    assert int(random.min()) == SPECIAL and int(random.max()) == VOCAB - 1


def test_special_tokens_are_never_hidden_and_every_step_draws_anew():
    ids = torch.randint(0, VOCAB, (50, 40), generator=torch_rng(2, "ids"))
    found = drawn(ids)
    assert (found.labels >= SPECIAL).all() and torch.equal(found.shown[ids < SPECIAL], ids[ids < SPECIAL])
    again, other = drawn(ids), drawn(ids, seed=1)
    assert torch.equal(again.shown, found.shown) and not torch.equal(other.shown, found.shown)
    with pytest.raises(UserError, match="fewer ordinary tokens than the 6"):
        drawn(torch.zeros(2, 40, dtype=torch.int64))


def rows(count, length=20):
    return np.random.default_rng(0).integers(SPECIAL, VOCAB, (count, length)).astype(np.int32)


def source(found, **options):
    return MaskedSource(found, mask_id=MASK, special=SPECIAL, vocab_size=VOCAB, **options)


def test_everywhere_has_the_same_masks_with_labels_where_something_is_hidden():
    found = rows(8)
    few, every = (
        source(found, everywhere=everywhere).batch(torch.tensor([5, 2, 7]), torch_rng(3, "step"))
        for everywhere in (False, True)
    )
    assert torch.equal(few["input_ids"], every["input_ids"])
    assert every["label"].shape == every["positions"].shape == (3, 20)
    assert torch.equal(every["label"].gather(1, few["positions"]), few["label"])
    assert int((every["label"] != IGNORED).sum()) == few["label"].numel()
    model = small().eval()
    at, all_ = forward(model, few), forward(model, every)
    torch.testing.assert_close(at, all_.gather(1, few["positions"].unsqueeze(-1).expand(-1, -1, VOCAB)))


def test_masks_drawn_once_belong_to_the_block_whatever_the_batch():
    fixed = source(rows(8), drawn=torch_rng(4, "masks"))
    whole = fixed.batch(torch.arange(8), torch_rng(0, "one"))
    part = fixed.batch(torch.tensor([6, 1]), torch_rng(0, "other"))
    for name in ("input_ids", "positions", "label"):
        assert torch.equal(part[name], whole[name][[6, 1]])
    fresh = source(rows(8))
    draws = [fresh.batch(torch.arange(8), torch_rng(step, "step"))["input_ids"] for step in (0, 1)]
    assert not torch.equal(*draws)


def test_extra_travels_along():
    extra = {"teacher_logits": torch.arange(8.0)}
    batch = source(rows(8), extra=extra).batch(torch.tensor([6, 1]), torch_rng(0, "step"))
    assert batch["teacher_logits"].tolist() == [6.0, 1.0] and batch["index"].tolist() == [6, 1]


def small(**options):
    torch.manual_seed(0)
    return build("mlm", VOCAB, layers=1, dim=16, heads=2, dropout=0.0, **options)


def test_the_last_layer_is_the_embedding_and_its_bias():
    model = small().eval()
    assert isinstance(model, MaskedLm)
    ids, mask = torch.randint(0, VOCAB, (3, 7)), torch.ones(3, 7, dtype=torch.int64)
    logits = model(ids, mask)
    assert logits.shape == (3, 7, VOCAB)
    positions = torch.tensor([[0, 6], [2, 3], [1, 5]])
    some = model(ids, mask, positions)
    torch.testing.assert_close(some, torch.stack([logits[i, where] for i, where in enumerate(positions)]))
    with torch.no_grad():
        model.bias[9] += 2.0
        moved = model(ids, mask) - logits
    assert torch.allclose(moved[..., 9], torch.tensor(2.0), atol=1e-5) and float(moved[..., :9].abs().max()) == 0
    cut = mask.clone()
    cut[:, 5:] = 0  # padding does not matter to what is before it
    assert torch.allclose(model(ids, cut)[:, :5], model(ids[:, :5], mask[:, :5]), atol=1e-5)


def test_a_classifier_starts_from_the_encoder():
    model = small()
    state = model.encoder_state()
    classifier = Transformer(3, VOCAB, layers=1, dim=16, heads=2)
    missing, unexpected = classifier.load_state_dict(state, strict=False)
    assert sorted(missing) == ["head.bias", "head.weight"] and not unexpected
    assert torch.equal(classifier.tokens.weight, model.tokens.weight)


def test_other_text_models_are_given_no_positions():
    model = build("transformer", 3, vocab_size=VOCAB, layers=1, dim=16, heads=2)
    batch = {"input_ids": torch.zeros(2, 4, dtype=torch.int64), "attention_mask": torch.ones(2, 4, dtype=torch.int64)}
    assert forward(model, batch).shape == (2, 3)


def test_a_model_learns_what_follows_what():
    following = (np.arange(12)[None, :] + np.arange(200)[:, None]) % (VOCAB - SPECIAL) + SPECIAL
    config = TrainConfig(steps=250, global_batch=32, optimizer="adamw", lr=1e-2, schedule="linear", warmup_fraction=0.1)
    model = small()

    def loss(net, batch, _):
        return F.cross_entropy(forward(net, batch).flatten(0, 1), batch["label"].flatten())

    result = train(model, source(following.astype(np.int32)), loss, config, seed=0)
    assert result.history[0] > 3.0 and result.history[-1] < 0.5 * result.history[0]


def test_relative_positions_know_distances_and_nothing_else():
    torch.manual_seed(0)
    model = Transformer(3, VOCAB, layers=2, dim=16, heads=4, max_length=12, dropout=0.0, relative=True).eval()
    ids, mask = torch.randint(5, VOCAB, (2, 9)), torch.ones(2, 9, dtype=torch.int64)
    shifted, seen = (torch.cat([torch.zeros(2, 3, dtype=torch.int64), rows], dim=1) for rows in (ids, mask))
    logits = model(ids, mask)
    assert torch.allclose(model(shifted, seen), logits, atol=1e-6), "three tokens of padding before the text"
    assert not torch.allclose(model(ids.flip(1), mask), logits, atol=1e-4), "the order matters"
    assert model.layers[0].distances.argmax(dim=1).tolist() == [10, 12, 9, 13], "-1, 1, -2 and 2 from its middle, 11"
