"""The n-gram featurizer against scikit-learn, on text made to break it; files, bad input, determinism."""

import multiprocessing
import pickle
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_work import read_ngrams
from sklearn.feature_extraction.text import CountVectorizer

from paper_repro import data
from paper_repro.data import ngrams
from paper_repro.data.ngrams import Bags, HashedBuckets, Vocabulary, bags, build_vocabulary, building, machine, storage
from paper_repro.data.ngrams.packing import pack
from paper_repro.data.ngrams.tokens import _PRIME, token_key
from paper_repro.errors import UserError

# Letters of one to four bytes; what lower case lengthens (U+0130, U+023A), shortens (the Kelvin sign) or decides by the
# neighbours (sigma); marks and joiners; digits of all kinds; whitespace of all kinds and what only looks like it; lone
# surrogates, zero bytes, the last code point.
CHARACTERS = (
    "abzABZ019_.,'-<>/"
    "\xe9\xc9\xdf\xaa\xb5\xba\xc0\xff\u0178\u0131\u0149\u01c5\u0390\u0391\u0416\u0436\u1e9e\ufb01\u10a0\u13a0"
    "\u0130\u023a\u2c65\u212a\u212b\u03a3\u03c3\u03c2"
    "\u0301\u0307\u0345\u200b\u200d\U000e0001"
    "\xb2\xbd\u0663\u096e\u2163\U0001d7d8"
    "\u4e2d\u6587\ud55c\u30fc\U00010400\U00010428\U0001f600\U0001f1e9"
    " \n\t\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000\ufeff\x07\x7f\x80"
    "\ud800\udfff\ufffd\x00\U0010ffff"
)
pieces = st.one_of(
    st.text(st.sampled_from(CHARACTERS), max_size=5),
    st.text(st.characters(exclude_categories=()), max_size=5),
    st.sampled_from(
        [
            "the",
            "cat",
            "The",
            "x" * 7,
            "x" * 8,
            "x" * 9,
            "y" * 17,
            "é" * 4,
            "é" * 5,
            "\u0391\u03a3",
            "a\u0130",
            "n't",
            "a\0\0",
        ]
    ),
)
repeated = st.tuples(pieces, st.sampled_from([1, 1, 1, 2, 31, 70])).map(lambda pair: pair[0] * pair[1])
texts_of = st.lists(
    st.lists(repeated, max_size=12).flatmap(
        lambda some: st.sampled_from([" ", "", "\n"]).map(lambda gap: gap.join(some))
    ),
    min_size=1,
    max_size=5,
)


def reference(n: int, analyzer: str, vocabulary: list[str] | None = None) -> CountVectorizer:
    split = {"tokenizer": str.split, "token_pattern": None} if analyzer == "whitespace" else {}
    index = None if vocabulary is None else {ngram: i for i, ngram in enumerate(vocabulary)}
    return CountVectorizer(ngram_range=(1, n), vocabulary=index, **split)


def ranked(texts: list[str], size: int, n: int, analyzer: str) -> list[tuple[str, int]]:
    """The vocabulary by the stated rule, counted with scikit-learn's own analyzer."""
    analyze = reference(n, analyzer).build_analyzer()
    counted = Counter(ngram for text in texts for ngram in analyze(text))
    words = {ngram: ngram.split(" ") for ngram in counted}
    return sorted(counted.items(), key=lambda item: (-item[1], len(words[item[0]]), words[item[0]]))[:size]


def assert_same_ids(vocabulary: Vocabulary, texts: list[str], found: Bags) -> None:
    """``found`` has what scikit-learn counts with the same vocabulary, text by text, as multisets."""
    counts = reference(vocabulary.n, vocabulary.analyzer, vocabulary.ngrams()).transform(texts)
    counts.sort_indices()
    assert len(found) == len(texts) and found.offsets[-1] == len(found.ids)
    assert found.ids.dtype == np.int32 and found.offsets.dtype == np.int64
    for row, (start, end) in enumerate(zip(found.offsets, found.offsets[1:], strict=False)):
        expected = counts[[row]]
        assert np.sort(found.ids[start:end]).tolist() == np.repeat(expected.indices, expected.data).tolist(), texts[row]


def equal(a: Bags, b: Bags) -> bool:
    return np.array_equal(a.ids, b.ids) and np.array_equal(a.offsets, b.offsets)


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return data.load_texts("docstrings", "train").texts


@pytest.fixture(scope="module")
def vocabulary(corpus: list[str]) -> Vocabulary:
    return build_vocabulary(corpus, 20_000, threads=2)


@settings(max_examples=120)
@given(texts_of, texts_of, st.integers(1, 200), st.integers(1, 5), st.sampled_from(["sklearn", "whitespace"]))
def test_vocabulary_and_ids_are_scikit_learns(
    texts: list[str], others: list[str], size: int, n: int, analyzer: str
) -> None:
    expected = ranked(texts, size, n, analyzer)
    if not expected:
        with pytest.raises(UserError, match="no words"):
            build_vocabulary(texts, size, n=n, analyzer=analyzer, threads=1)
        return
    built = build_vocabulary(texts, size, n=n, analyzer=analyzer, threads=1)
    assert list(zip(built.ngrams(), built.counts.tolist(), strict=True)) == expected
    assert built.lengths.tolist() == [len(ngram.split(" ")) for ngram, _ in expected]
    assert built.size == len(expected) and built.n == n and built.analyzer == analyzer
    assert_same_ids(built, texts + others, built.transform(texts + others))

    keep = np.random.default_rng(size).random(built.size) < 0.4
    if keep.any():
        some = built.restrict(keep)
        assert some.ngrams() == [ngram for ngram, kept in zip(built.ngrams(), keep, strict=True) if kept]
        assert some.counts.tolist() == built.counts[keep].tolist()
        assert_same_ids(some, texts + others, some.transform(texts + others))


@settings(max_examples=150)
@given(texts_of)
def test_lower_case_is_pythons(texts: list[str]) -> None:
    packed = pack(texts)
    expected = "\n".join(text.lower() for text in texts).encode("utf-8", "surrogatepass")
    assert packed.data[: packed.ends[-1]].tobytes().lower() == expected
    assert packed.longest >= max(len(text) for text in texts)


def test_every_code_point_is_of_the_class_that_python_says() -> None:
    points = [*range(0x34000), *range(0xE0000, 0xE0200), 0x10FFFF]
    texts = [" ".join(f"a{c}{c}" for c in map(chr, points[at : at + 997])) for at in range(0, len(points), 997)]
    for analyzer, words in (("sklearn", re.compile(r"(?u)\b\w\w+\b").findall), ("whitespace", str.split)):
        counted = Counter(word for text in texts for word in words(text.lower()))
        built = build_vocabulary(texts, 10**6, n=1, analyzer=analyzer, threads=1)
        assert dict(zip(built.ngrams(), built.counts.tolist(), strict=True)) == counted


def test_vocabulary_of_real_text(corpus: list[str], vocabulary: Vocabulary) -> None:
    assert list(zip(vocabulary.ngrams(), vocabulary.counts.tolist(), strict=True)) == ranked(
        corpus, 20_000, 4, "sklearn"
    )
    fitted = CountVectorizer(ngram_range=(1, 4), max_features=20_000).fit(corpus)
    above = {
        ngram
        for ngram, count in zip(vocabulary.ngrams(), vocabulary.counts, strict=True)
        if count > vocabulary.counts[-1]
    }
    assert above <= set(fitted.vocabulary_), "above the cut-off there is no choice"
    test = data.load_texts("docstrings", "test").texts
    assert_same_ids(vocabulary, test, vocabulary.transform(test))


def test_long_texts_are_read_as_short_ones_are(vocabulary: Vocabulary) -> None:
    """Blocks of 64 bytes, stretches of 4,096 and pieces of 16,384 end anywhere in words and characters."""
    rng = np.random.default_rng(0)
    words = ["the", "of", "data", "x", "é", "naïve", "中文字", "a" * 70, "—", "array", "is"]
    texts = [" ".join(rng.choice(words, size)) for size in (5_000, 1, 0, 20_000, 700, 3, 0)]
    texts += ["é" * 40_000, "a" * 40_000, "the" + "\u0301" * 9_000 + "of the"]
    built = build_vocabulary(texts, 5_000, threads=1)
    assert built.ngrams() == [ngram for ngram, _ in ranked(texts, 5_000, 4, "sklearn")]
    for shift in (0, 1, 63):
        shifted = [" " * shift + text for text in texts]
        assert_same_ids(built, shifted, built.transform(shifted))


def test_threads_chunks_and_blocks_change_nothing(
    corpus: list[str], vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = vocabulary.transform(corpus)
    hashed = HashedBuckets(1 << 20).transform(corpus)
    monkeypatch.setattr(building, "CHUNK", 5_000)  # many reads, many spans of the corpus
    monkeypatch.setattr(building, "SLOTS", 1 << 13)  # many parts, and parts that must be halved
    monkeypatch.setattr(bags, "BLOCK", 3_000)
    monkeypatch.setattr(bags, "RUN", 40_000)
    for threads in (1, 3):
        again = build_vocabulary(iter(corpus), 20_000, threads=threads)
        assert again.fingerprint == vocabulary.fingerprint
        assert all(np.array_equal(again.arrays[name], array) for name, array in vocabulary.arrays.items())
        assert equal(vocabulary.transform(corpus, threads=threads), found)
        assert equal(HashedBuckets(1 << 20).transform(corpus, threads=threads), hashed)
    monkeypatch.setattr(building, "CHUNK", 1 << 20)
    small = [build_vocabulary(corpus, 300, threads=threads) for threads in (1, 2)]  # most n-grams are never counted
    assert small[0].ngrams() == vocabulary.ngrams()[:300] == small[1].ngrams()


def test_every_ngram_of_a_million_is_found_by_itself_and_loads_in_a_blink(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" if number % 9 else f"longer-than-eight{number}" for number in range(40_000)])
    texts = [" ".join(words[some]) for some in rng.zipf(1.2, (1_800, 300)) % len(words)]
    built = build_vocabulary(texts, 1_000_000, analyzer="whitespace")
    assert built.size == 1_000_000 and built.lengths.max() == 4
    bag = built.transform(built.ngrams())
    assert np.array_equal(bag.ids[bag.offsets[1:] - 1], np.arange(built.size)), "the longest n-gram is the text itself"
    path = tmp_path / "million.ngrams"
    built.save(path)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        loaded = Vocabulary.load(path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1
    assert equal(loaded.transform(texts), built.transform(texts))


def test_words_with_the_same_hash_are_told_apart() -> None:
    """16-byte words whose keys are equal, made by undoing the last step of the hash."""
    rng = np.random.default_rng(0)
    letters = np.array([code for code in range(128) if not chr(code).isspace() and not chr(code).isupper()], np.uint8)
    firsts = letters[rng.integers(len(letters), size=(200_000, 8))].copy()
    states = (np.uint64(16) ^ firsts.view("<u8").ravel()) * _PRIME
    states ^= states >> np.uint64(32)
    second = np.frombuffer(b"mkpqtsx_", np.uint8).copy()
    seconds = np.ascontiguousarray(states ^ states[0] ^ second.view("<u8")).view(np.uint8).reshape(-1, 8)
    ours = np.flatnonzero(np.isin(seconds, letters).all(axis=1))
    a, b = (firsts[row].tobytes() + seconds[row].tobytes() for row in ours[:2])
    keys = [token_key(np.frombuffer(word, np.uint8).ctypes.data, 16, 0) for word in (a, b)]
    assert a != b and keys[0] == keys[1], "the test's own premise"
    one, other = a.decode(), b.decode()
    both = build_vocabulary([f"{one} {other} {one}"], 9, n=1, analyzer="whitespace", threads=1)
    assert both.ngrams() == [one, other] and both.transform([other, one]).ids.tolist() == [1, 0]
    only = build_vocabulary([one], 9, n=1, analyzer="whitespace", threads=1)
    assert np.diff(only.transform([one, other]).offsets).tolist() == [1, 0]


def test_order_of_ids_in_a_text() -> None:
    built = build_vocabulary(["one two three four five"], 100, threads=1)
    ngrams_of = [built.ngrams()[i] for i in built.transform(["two three four"]).ids]
    assert ngrams_of == ["two", "three", "four", "two three", "three four", "two three four"]


@pytest.mark.parametrize("threads", [1, 2])
def test_empty_and_unknown_texts_have_empty_bags(vocabulary: Vocabulary, threads: int) -> None:
    found = vocabulary.transform(["", "the", "", "qqqqqq zzzzzz", "!", ""], threads)
    assert found.offsets.tolist() == [0, 0, 1, 1, 1, 1, 1] and found.ids.tolist() == [0]
    for none in ([], [""], ["", "?"]):
        found = vocabulary.transform(none, threads)
        assert len(found.ids) == 0 and found.offsets.tolist() == [0] * (len(none) + 1)
        assert len(HashedBuckets(5).transform(none, threads).ids) == 0


def test_ten_megabytes_in_one_text() -> None:
    unit = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda.  "
    times = 10_000_000 // len(unit)
    built = build_vocabulary([unit * times], 1_000, threads=1)
    assert built.size == 44 and sorted(set(built.counts.tolist())) == [times - 1, times]
    found = built.transform(["", unit * times, unit])
    assert np.bincount(found.ids[: found.offsets[2]]).tolist() == built.counts.tolist()
    assert np.diff(found.offsets).tolist() == [0, built.counts.sum(), 11 + 10 + 9 + 8]


def test_bytes_are_utf8_and_errors_name_the_row(vocabulary: Vocabulary) -> None:
    texts = ["The naïve data", "", "of the"]
    encoded = [text.encode() for text in texts]
    assert equal(vocabulary.transform(encoded), vocabulary.transform(texts))
    assert build_vocabulary(encoded, 9, threads=1).ngrams() == build_vocabulary(texts, 9, threads=1).ngrams()
    for bad, sentence in (
        (b"caf\xe9 x", r"Row 2 is not valid UTF-8 .*errors='replace'"),
        (None, "Row 2 is NoneType"),
        (3.5, "Row 2 is float"),
    ):
        for use in (vocabulary.transform, HashedBuckets(9).transform, lambda rows: build_vocabulary(rows, 9)):
            with pytest.raises(UserError, match=sentence):
                use(["a b", "c", bad])
    with pytest.raises(UserError, match="Row 70 is int"):
        build_vocabulary(["many words " * 10_000] * 70 + [7], 9, threads=1)
    for one in ("the data", b"the data"):
        for use in (vocabulary.transform, lambda rows: build_vocabulary(rows, 9)):
            with pytest.raises(UserError, match="put it into a list"):
                use(one)
    assert equal(vocabulary.transform(np.array(texts)), vocabulary.transform(tuple(texts)))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: build_vocabulary(["a b"], 0), "at least 1"),
        (lambda: build_vocabulary(["a b"], 5, n=0), "choose n from 1 to 255"),
        (
            lambda: build_vocabulary(["a b"], 5, analyzer="char"),
            "no analyzer 'char'; choose one of: sklearn, whitespace",
        ),
        (lambda: build_vocabulary(["aa bb"], 5, threads=0), "use at least 1"),
        (lambda: build_vocabulary([], 5), "no words"),
        (lambda: build_vocabulary(["", "a ?"], 5), "no words"),
        (lambda: HashedBuckets(0), "0 buckets"),
        (lambda: HashedBuckets(2**31), "buckets"),
        (lambda: HashedBuckets(10).transform(["x"], threads=0), "use at least 1"),
        (lambda: build_vocabulary(["aa bb"], 5).restrict(np.zeros(3, bool)), "keep at least one"),
        (lambda: build_vocabulary(["aa bb"], 5).restrict(np.ones(4, bool)), "one bool for each of the 3 n-grams"),
        (lambda: build_vocabulary(["aa bb"], 5).restrict(np.arange(3)), "one bool for each"),
    ],
)
def test_what_cannot_be_is_one_sentence(call, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=sentence):
        call()


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        name = "there"

        def write(self, content: memoryview) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*TMPDIR"):
        building._write(Full(), np.zeros(3, np.int32))  # type: ignore[arg-type]


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    build_vocabulary(["some words here"], 5, threads=1)

    def broken() -> Iterator[str]:
        yield "some words"
        raise KeyError("the caller's own error")

    with pytest.raises(KeyError):
        build_vocabulary(broken(), 5, threads=1)
    assert not list(tmp_path.iterdir())


def test_file_is_mapped_and_the_same(vocabulary: Vocabulary, corpus: list[str], tmp_path: Path) -> None:
    path = tmp_path / "new" / "vocabulary.ngrams"
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert (loaded.size, loaded.n, loaded.analyzer) == (vocabulary.size, 4, "sklearn")
    assert loaded.fingerprint == vocabulary.fingerprint and loaded.ngrams() == vocabulary.ngrams()
    for name, array in vocabulary.arrays.items():
        assert np.array_equal(loaded.arrays[name], array) and not loaded.arrays[name].flags.writeable
        assert loaded.arrays[name].ctypes.data % storage.ALIGNMENT == 0
    assert loaded.counts.dtype == np.int64 and loaded.lengths.dtype == np.uint8
    found = vocabulary.transform(corpus)
    assert equal(loaded.transform(corpus), found)
    assert equal(pickle.loads(pickle.dumps(loaded)).transform(corpus), found)
    keep = np.arange(vocabulary.size) % 7 == 3
    again = loaded.restrict(keep)
    assert again.fingerprint == vocabulary.restrict(keep).fingerprint != vocabulary.fingerprint
    again.save(path)  # over the file that is mapped
    assert Vocabulary.load(path).ngrams() == vocabulary.ngrams()[3::7]
    assert equal(loaded.transform(corpus), found), "the old content stays mapped"
    number = np.where(keep, np.cumsum(keep) - 1, -1)[found.ids]
    assert np.array_equal(again.transform(corpus).ids, number[number >= 0]), "restricting is leaving out"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc, which this system has not")
def test_processes_share_one_mapped_file(vocabulary: Vocabulary, corpus: list[str], tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.ngrams"
    vocabulary.save(path)
    found = vocabulary.transform(corpus[:20])
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for ids, offsets, mapped in pool.map(read_ngrams, [path] * 2, [corpus[:20]] * 2):
            assert mapped and (ids, offsets) == (found.ids.tolist(), found.offsets.tolist())


def test_fingerprint_is_of_the_content() -> None:
    texts = ["aa bb cc", "aa bb"]
    base = build_vocabulary(texts, 10, threads=1)
    assert base.fingerprint == build_vocabulary(texts[::-1], 10, threads=1).fingerprint
    changed = [
        build_vocabulary([*texts, "aa"], 10, threads=1),
        build_vocabulary(texts, 5, threads=1),
        build_vocabulary(texts, 10, n=3, threads=1),
        build_vocabulary(texts, 10, analyzer="whitespace", threads=1),
    ]
    assert len({base.fingerprint, *(one.fingerprint for one in changed)}) == 5
    assert len(base.fingerprint) == 64


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "v.ngrams"
    build_vocabulary(["some words and some more words"], 20, threads=1).save(path)
    good = path.read_bytes()

    def refused(content: bytes, sentence: str) -> None:
        path.write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            Vocabulary.load(path)

    for length in [*range(1, 60), *range(60, len(good), 61), len(good) - 1]:
        refused(good[:length], "not a vocabulary" if length < 8 else "truncated")
    refused(b"", "not a vocabulary")
    refused(b"PK\x03\x04 something else entirely, and longer than any header would be" * 9, "not a vocabulary")
    refused(good + b"more", "longer than it should be")
    refused(good[:8] + b"\x02" + good[9:], r"version 2.*reads version 1; build")
    for place in range(12, storage._FIXED + 200, 3):
        refused(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :], "truncated or damaged")
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        Vocabulary.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read"):
        Vocabulary.load(tmp_path)


def test_hashed_buckets_are_a_function_of_the_ngram_alone() -> None:
    hashed = HashedBuckets(1_000_003)
    text = "One two three four five six-seven naïve extraordinarily"
    words = re.findall(r"(?u)\b\w\w+\b", text.lower())
    expected = [" ".join(words[at : at + n]) for n in range(1, 5) for at in range(len(words) - n + 1)]
    alone = [int(hashed.transform([ngram]).ids[-1]) for ngram in expected]
    found = hashed.transform(["", text, "one"])
    assert found.ids.tolist() == [*alone, alone[0]]
    assert np.diff(found.offsets).tolist() == [0, len(expected), 1]
    assert len(set(alone)) == len(set(expected)), "no two of so few share one of a million buckets"
    assert hashed.size == 1_000_003 and max(alone) < hashed.size
    # pinned: trained tables depend on it, so it is the same on every machine and in every version
    pinned = [130021, 489221, 193215, 155005, 989342, 26008, 1031832, 769073, 914367, 716004]
    assert HashedBuckets(1 << 20).transform(["hello world, extraordinarily so"]).ids.tolist() == pinned
    whole = HashedBuckets(2**31 - 1, 2, "whitespace").transform(["a ! a"]).ids
    assert whole[0] == whole[2] and len(set(whole.tolist())) == 4


def test_hashed_buckets_are_even(corpus: list[str]) -> None:
    vocabulary = build_vocabulary(corpus, 50_000)
    ids = HashedBuckets(64).transform(vocabulary.ngrams())
    counts = np.bincount(ids.ids[ids.offsets[1:] - 1], minlength=64)
    assert abs(counts / (vocabulary.size / 64) - 1).max() < 5 * (64 / vocabulary.size) ** 0.5


def test_kernels_work_where_nothing_can_be_cached() -> None:
    place: dict = {}
    exec("def twice(x):\n    return 2 * x", place)  # no file, so numba finds no folder
    assert machine.kernel(place["twice"])(21) == 42


def test_public_names() -> None:
    assert set(ngrams.__all__) == {"Analyzer", "Bags", "HashedBuckets", "Vocabulary", "build_vocabulary"}
