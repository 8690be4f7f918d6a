"""Ragged batches: joining, taking and cutting texts keeps every text whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paper_repro.data.ragged import RaggedIds, join, take
from paper_repro.data.text import Tokens

LISTS = st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=8)


def encoded(texts):
    ids = np.array([i for text in texts for i in text], dtype=np.int32)
    return Tokens(ids, np.cumsum([0, *map(len, texts)]).astype(np.int64), pad_id=7)


def texts_of(ragged):
    return [ragged.ids[a:b].tolist() for a, b in zip(ragged.offsets, ragged.offsets[1:], strict=False)]


@given(LISTS, LISTS)
def test_joined_texts_are_those_of_the_parts(first, second):
    both = join([encoded(first), encoded(second)])
    assert texts_of(both) == first + second
    assert (both.pad_id, both.ids.dtype, both.offsets.dtype) == (7, np.int32, np.int64)


@given(LISTS, st.data())
def test_taken_rows_come_whole_and_in_order(texts, draw):
    rows = draw.draw(st.lists(st.integers(0, len(texts) - 1), max_size=10))
    assert texts_of(take(encoded(texts), np.array(rows, dtype=np.int64))) == [texts[row] for row in rows]


@given(LISTS, st.integers(-9, 9) | st.none(), st.integers(-9, 9) | st.none())
def test_a_ragged_batch_is_cut_like_a_list(texts, start, stop):
    whole = encoded(texts)
    batch = RaggedIds(torch.from_numpy(whole.ids.astype(np.int64)), torch.from_numpy(whole.offsets))
    part = batch[start:stop].to("cpu")
    assert len(batch) == len(texts)
    assert [ids for ids in texts_of(part)] == texts[start:stop]


def test_a_ragged_batch_takes_no_steps():
    with pytest.raises(IndexError):
        RaggedIds(torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))[::2]
