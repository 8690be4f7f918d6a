"""The deployed student: the model's function in every precision, whatever the batch; damaged files; bad input."""

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paper_repro.data.ngrams import HashedBuckets, build_vocabulary
from paper_repro.distill import export
from paper_repro.distill.export import PRECISIONS, Student, export_student
from paper_repro.distill.lookup import SPAN, dense, pack_weight, pool
from paper_repro.distill.ngram_student import only
from paper_repro.distill.rows import decode, encode, stored_columns, to_bf16
from paper_repro.errors import UserError
from paper_repro.zoo import build

NONE = np.zeros(0, np.float32)


def make_texts(count, words, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{rng.zipf(1.5) % 40}" for _ in range(rng.integers(0, words))) for _ in range(count)]


@pytest.fixture(scope="module")
def vocabulary():
    return build_vocabulary(make_texts(200, 30, 0), 300, n=3, threads=1)


@pytest.fixture(scope="module")
def texts():
    longest = " ".join(make_texts(60, 60, 2))  # more n-grams than are added up at once
    return [*make_texts(150, 40, 1), "", "unknown words only", longest, "w1", "w1 w1 w1"]


def make_model(vocabulary, seed=0, **options):
    torch.manual_seed(seed)
    model = build("dan", 3, vocab=vocabulary.size, **{"dim": 24, "init_std": 1.0, **options}).eval()
    if model.query is not None:
        nn.init.normal_(model.query, std=0.3)
    return model


def expected_logits(model, bags):
    with torch.no_grad():
        return model(torch.from_numpy(bags.ids.astype(np.int64)), torch.from_numpy(bags.offsets)).numpy()


def exported(model, features, folder, **options):
    export_student(model, features, ["no", "so so", "yes"], folder, **options)
    return Student.load(folder)


MODELS = {
    "mean": {},
    "sum": {"pooling": "sum"},
    "max": {"pooling": "max"},
    "attention": {"pooling": "attention"},
    "tanh": {"activation": "tanh"},
    "max-tanh": {"pooling": "max", "activation": "tanh", "hidden": [40, 7]},
    "linear": {"hidden": []},
    "attention-linear": {"pooling": "attention", "hidden": []},
    "narrow": {"hidden": [5]},
    "wide": {"hidden": [70]},
    "deep": {"hidden": [20, 9, 4]},
    "width-32": {"dim": 32},
    "width-1": {"dim": 1},
}


@pytest.mark.parametrize("name", MODELS)
def test_fp32_student_computes_what_the_model_computes(name, vocabulary, texts, tmp_path):
    model = make_model(vocabulary, **MODELS[name])
    student = exported(model, vocabulary, tmp_path / "student")
    want = expected_logits(model, vocabulary.transform(texts))
    got = student.logits(texts)
    assert got.dtype == np.float32
    # Two orders of a sum of 180 rows in fp32 (rounding 6e-8) differ by up to 2 * 180 * 6e-8 = 2e-5 of the sum of the
    # absolute values, which is some times the sum.
    tolerance = 5e-5 if model.pooling == "sum" else 1e-5
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=tolerance * np.abs(want).max())
    assert student.predict(texts) == [student.classes[i] for i in got.argmax(1)]


@pytest.mark.parametrize("pooling", ["mean", "sum", "max", "attention"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_reduced_precision_is_arithmetic_on_the_rounded_rows(pooling, precision, vocabulary, texts, tmp_path):
    model = make_model(vocabulary, pooling=pooling, hidden=[20])
    student = exported(model, vocabulary, tmp_path / "student", precision=precision)
    first, head = model.layers[0], model.head
    with torch.no_grad():
        exact = (model.table.weight if pooling == "max" else model.table.weight @ first.weight.T).double().numpy()
        scores = (model.table.weight @ model.query).double().numpy() if pooling == "attention" else None
        weights = [x.detach().double().numpy() for x in (first.weight, first.bias, head.weight, head.bias)]
    kind = {"bf16": np.uint16, "int8": np.int8}[precision]
    stored = np.fromfile(tmp_path / "student" / "table.bin", kind).reshape(len(exact), -1)
    rows = decode(stored, exact.shape[1], precision).astype(np.float64)
    step = np.abs(exact) * 2**-8 if precision == "bf16" else np.abs(exact).max(1, keepdims=True) / 254
    assert (np.abs(rows - exact) <= step * 1.001).all()

    bags = vocabulary.transform(texts)
    state = np.zeros((len(texts), exact.shape[1]))
    for text, (a, b) in enumerate(zip(bags.offsets, bags.offsets[1:], strict=False)):
        ids = bags.ids[a:b]
        if len(ids) and scores is not None:
            share = np.exp(scores[ids] - scores[ids].max())
            state[text] = (share / share.sum()) @ rows[ids]
        elif len(ids):
            state[text] = {"mean": np.mean, "sum": np.sum, "max": np.max}[pooling](rows[ids], axis=0)
    state = np.maximum((state @ weights[0].T if pooling == "max" else state) + weights[1], 0)
    want = state @ weights[2].T + weights[3]
    np.testing.assert_allclose(student.logits(texts), want, rtol=1e-6, atol=2e-6 * np.abs(want).max())


rows_of_floats = st.lists(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3), min_size=1, max_size=4
).map(lambda rows: np.array(rows, np.float32))


@given(rows_of_floats)
def test_int8_is_off_by_half_a_step_at_most(rows):
    stored = encode(rows, "int8")
    scale = np.ascontiguousarray(stored[:, -4:]).view(np.float32).astype(np.float64)
    assert stored.dtype == np.int8 and stored[:, :3].min() >= -127
    largest = np.abs(rows).max(1, keepdims=True).astype(np.float64)
    normal = largest > 1e-35
    assert (np.abs(scale / (largest / 127 + ~normal) - 1)[normal] < 1e-6).all()
    assert (np.abs(decode(stored, 3, "int8") - rows.astype(np.float64)) <= scale / 2 * (1 + 1e-5)).all()


@given(rows_of_floats)
def test_bf16_rounds_as_torch_does(rows):
    want = torch.from_numpy(rows).bfloat16()
    assert (to_bf16(rows) == want.view(torch.uint16).numpy()).all()
    assert (decode(encode(rows, "bf16"), 3, "bf16") == want.float().numpy()).all()


def test_ties_of_bf16_go_to_even():
    low, odd = np.uint32(0x3F80_8000), np.uint32(0x3F81_8000)
    assert to_bf16(np.array([low, odd]).view(np.float32)).tolist() == [0x3F80, 0x3F82]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("options", [{}, {"pooling": "max"}, {"pooling": "attention", "activation": "tanh"}])
def test_a_text_gets_the_same_logits_in_any_company_and_from_any_thread(
    precision, options, vocabulary, texts, tmp_path, monkeypatch
):
    student = exported(
        make_model(vocabulary, hidden=[24, 6], **options), vocabulary, tmp_path / "s", precision=precision
    )
    together = student.logits(texts)
    assert np.array_equal(np.concatenate([student.logits([text]) for text in texts]), together)
    assert np.array_equal(student.logits(texts[::-1])[::-1], together)
    with ThreadPoolExecutor(4) as callers:
        assert all(np.array_equal(got, together) for got in callers.map(student.logits, [texts] * 8))
        student.threads = 3
        monkeypatch.setattr(export, "CHARACTERS", 1)
        assert np.array_equal(student.logits(texts), together)
        assert all(np.array_equal(got, together) for got in callers.map(student.logits, [texts] * 8))
    assert np.array_equal(student.logits(texts[:2]), together[:2])


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_threads_take_consecutive_shares_of_about_as_much_work(threads, vocabulary, tmp_path):
    student = exported(make_model(vocabulary), vocabulary, tmp_path / "s")
    student.threads = threads
    for work, least, most in (([1, 1, 1, 1, 1, 1, 6, 0, 0], 1, threads), ([2, 2, 3], 4, 1), ([0, 0], 1, 1), ([], 1, 1)):
        parts = []
        student._share(lambda *part, parts=parts: parts.append(part), np.cumsum(work, dtype=np.int64), least)
        parts.sort()
        assert [row for part in parts for row in range(*part)] == list(range(len(work)))
        assert len({part for part in parts if part[0] < part[1]}) <= most
        if threads == 2 and len(work) == 9:
            assert parts[0] == (0, 5)  # half of the work ends with the sixth, which is not the first share's


def test_the_table_of_the_paper_in_int8_is_at_most_1020_megabytes():
    assert 1_000_000 * stored_columns(1000, "int8") <= 1.02e9


def test_long_sums_stay_exact():
    rng = np.random.default_rng(0)
    table = encode(rng.uniform(0.5, 1, (64, 16)).astype(np.float32), "fp32")
    ids = rng.integers(0, 64, 400 * SPAN + 3).astype(np.int32)
    got = pool(table, ids, np.array([0, len(ids)]), NONE, True, False)
    np.testing.assert_allclose(got[0], table.astype(np.float64)[ids].mean(0), rtol=2e-6)


@pytest.mark.parametrize("out", [1, 2, 31, 32, 33, 70])
def test_dense_layer_is_a_matrix_product(out):
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((19, 48), (out, 41), (out,)))
    got = dense(x, pack_weight(weight), bias)
    np.testing.assert_allclose(got, x[:, :41].astype(np.float64) @ weight.T + bias, rtol=1e-5, atol=1e-5)
    assert dense(x[:0], pack_weight(weight), bias).shape == (0, out)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_pruning_table_and_vocabulary_is_switching_the_other_ngrams_off(precision, vocabulary, texts, tmp_path):
    model = make_model(vocabulary, pooling="attention")
    keep = np.random.default_rng(0).random(vocabulary.size) < 0.4
    student = exported(model, vocabulary, tmp_path / "student", precision=precision, keep=keep)
    assert student.features.size == keep.sum()
    want = expected_logits(model, only(vocabulary.transform(texts), keep))
    tolerance = {"fp32": 1e-5, "bf16": 2e-2, "int8": 5e-2}[precision] * np.abs(want).max()
    np.testing.assert_allclose(student.logits(texts), want, rtol=0, atol=tolerance)


def test_hashed_buckets_need_no_vocabulary_and_cannot_be_pruned(texts, tmp_path):
    buckets = HashedBuckets(500, n=2, analyzer="whitespace")
    model = make_model(buckets)
    student = exported(model, buckets, tmp_path / "student")
    want = expected_logits(model, buckets.transform(texts))
    np.testing.assert_allclose(student.logits(texts), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    with pytest.raises(UserError, match="buckets have no n-grams to choose"):
        exported(model, buckets, tmp_path / "other", keep=np.ones(500, bool))


def test_unusual_texts(vocabulary, tmp_path):
    model = make_model(vocabulary)
    student = exported(model, vocabulary, tmp_path / "student", precision="int8")
    assert student.predict([]) == [] and student.logits([]).shape == (0, 3)
    empty = expected_logits(model, vocabulary.transform([""]))[0]
    np.testing.assert_allclose(student.logits(["", "never seen", "\0 \ud800", b""]), [empty] * 4, rtol=1e-5)
    assert np.array_equal(student.logits([b"w1 w2", "w1 w2"])[:1], student.logits(["w1 w2"]))
    once = " ".join(make_texts(1, 200, 5)) + " "
    huge = once * (10_000_000 // len(once))
    logits = student.logits([huge, "w1"])
    repeated = expected_logits(model, vocabulary.transform([once * 200]))
    assert np.array_equal(logits[1], student.logits(["w1"])[0])
    np.testing.assert_allclose(logits[0], repeated[0], rtol=0, atol=0.05 * np.abs(repeated).max())
    with pytest.raises(UserError, match="Row 70 is not valid UTF-8"):
        student.logits([b"good"] * 70 + [b"\xff"])
    with pytest.raises(UserError, match="put it into a list"):
        student.predict("one text")
    student.threads = 0
    with pytest.raises(UserError, match="threads cannot work"):
        student.predict(["a"])


REFUSED = {
    "There is no precision 'fp64'": {"precision": "fp64"},
    "tells 3 classes apart": {"classes": ["a", "b"]},
    "give as many different names": {"classes": ["a", "b", "b"]},
    "No n-gram would be kept": {"keep": "none"},
    "the n-grams|n-grams.": {"keep": "short"},
    "pairs of texts": {"pairs": True},
    "table is not all finite": {"spoil": "table.weight"},
    "weights are not all finite": {"spoil": "head.bias"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(message, vocabulary, tmp_path):
    case = dict(REFUSED[message])
    model = make_model(vocabulary, pairs=case.pop("pairs", False))
    if spoil := case.pop("spoil", None):
        model.state_dict()[spoil].view(-1)[-1] = float("nan")
    if "keep" in case:
        case["keep"] = np.zeros(vocabulary.size - (case["keep"] == "short"), bool)
    options = {"classes": ["a", "b", "c"], "folder": tmp_path / "student", **case}
    with pytest.raises(UserError, match=message):
        export_student(model, vocabulary, **options)
    assert list(tmp_path.iterdir()) == []


def test_other_refusals(vocabulary, tmp_path):
    model = make_model(vocabulary)
    with pytest.raises(UserError, match="has 300 rows but there are 7 n-grams"):
        exported(model, HashedBuckets(7), tmp_path / "student")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken exists already"):
        exported(model, vocabulary, tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"] and not any((tmp_path / "taken").iterdir())


@pytest.fixture(scope="module")
def original(vocabulary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "student"
    exported(make_model(vocabulary, pooling="attention"), vocabulary, folder, precision="int8")
    return folder


def edit_meta(folder, **changes):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))


def truncate(name):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


DAMAGES = {
    "table": (truncate("table.bin"), "is damaged; export it again"),
    "head": (truncate("head.safetensors"), "is damaged; export it again"),
    "vocabulary": (truncate("vocabulary.ngrams"), "is damaged; export it again"),
    "meta": (truncate("meta.json"), "meta.json is damaged; export the student again"),
    "key": (lambda folder: edit_meta(folder, precision="fp64"), "meta.json is damaged"),
    "rows": (lambda folder: edit_meta(folder, rows=299), "is damaged"),
    "width": (lambda folder: edit_meta(folder, dim=23), "is damaged"),
    "layers": (lambda folder: edit_meta(folder, layers=3), "is damaged"),
    "classes": (lambda folder: edit_meta(folder, classes=["a"]), "is damaged"),
    "version": (
        lambda folder: edit_meta(folder, schema_version=2),
        "is of version 2, and this program reads version 1",
    ),
    "gone": (lambda folder: (folder / "table.bin").unlink(), "is damaged"),
    "nothing": (shutil.rmtree, "There is no student in"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_student_is_one_sentence(name, original, tmp_path):
    folder = shutil.copytree(original, tmp_path / "student")
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(UserError, match=message):
        Student.load(folder)


@pytest.mark.parametrize("name", ["table.bin", "head.safetensors", "vocabulary.ngrams"])
def test_verify_finds_one_changed_byte(name, original, tmp_path):
    folder = shutil.copytree(original, tmp_path / "student")
    Student.load(folder).verify()
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} has changed since it was written"):
        Student.load(folder).verify()


def test_another_process_predicts_the_same_without_torch(original, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "CHARACTERS", 1)
    student = Student.load(original)
    student.threads = 2
    student.logits(texts)  # its threads are not part of what is pickled
    (tmp_path / "student.pickle").write_bytes(pickle.dumps((student, texts)))
    code = (
        "import pickle, sys, numpy as np; student, texts = pickle.load(open(sys.argv[1], 'rb'));"
        "assert student.threads == 2; np.save(sys.argv[2], student.logits(texts)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "student.pickle", tmp_path / "got.npy"], check=True)
    assert np.array_equal(np.load(tmp_path / "got.npy"), student.logits(texts))
