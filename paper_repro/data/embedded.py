"""Data sets that come with the installed dependencies, so that the smoke tier needs no download.

``digits``: scikit-learn's 1,797 handwritten digits (8 x 8 pixels, values 0..16 scaled to 0..255, grey repeated in three
channels). One fifth per class is cut off as the test split by ``stratified_split`` with seed 0 (our choice). The copy
does not say who wrote which digit, so a writer's digits may lie on both sides.

``docstrings``: which library does a piece of documentation come from? The classes are four libraries with their own
subjects: matplotlib (drawing), pandas (tables), scipy (numerics), scikit-learn (machine learning). The rule:

1. Read every .py file of the installed library outside its tests and vendored code; nothing is imported or executed.
   Of each triple-quoted string take the paragraphs that are plain prose: no list, parameter or code markup.
2. Remove what gives the source away: the libraries' and their relatives' names, and anything that looks like code
   (markup, digits, underscores, dots, inner capitals). Lower-case the rest and keep words only.
3. Keep texts of 12 words or more, cut to their first 60, and drop one when half of its five-word sequences occurred
   in a text that was kept before: documentation is copied from function to function.
4. Keep about 1,000 per class: whole source files in the order of the SHA-256 of their paths.
5. Split by source file: 20 % test, by ``stratified_split`` with seed 0. ``phrase_groups`` gives the file of each
   training row for the validation split.

The text follows the installed versions of the libraries. The fingerprint covers the text itself, so results on other
versions carry another one. The result is cached per versions and rule.
"""

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paper_repro.config import sha256_key
from paper_repro.data.manifest import DatasetInfo
from paper_repro.data.splits import stratified_split
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir, write_atomic

if TYPE_CHECKING:
    import datasets

RULE = 1  # raise when ``docstring_corpus`` changes what it makes: the cache is keyed on it
TEST_FRACTION = 0.2
LIBRARIES = {"matplotlib": "matplotlib", "pandas": "pandas", "scipy": "scipy", "sklearn": "scikit-learn"}
PER_CLASS = 1_000
NOT_ITS_OWN = {"tests", "test", "testing", "externals", "_external", "_lib", "_vendored"}  # tests, and others' code
MIN_WORDS, MAX_WORDS = 12, 60

_STRING = re.compile(r'"""(.*?)"""', re.DOTALL)
_NOT_PROSE = re.compile(r"(^|\s)(>>>|\.\. |:\w+:`|-{3,}|={3,}|\* |- |\d+\. |\[\d+\])|\w+ : |::|\{|\|")
_CODE = re.compile(r"[`*]|[\w.]*[_\d=()\[\]<>/\\@#%$^~][\S]*|\w+\.\w[\w.]*|\b[a-z]*[A-Z][a-z]*[A-Z]\w*")
_NAMES = re.compile(
    r"\b(matplotlib|pyplot|mpl|plt|pandas|pd|scipy|sklearn|scikit(?:[- ]learn)?"
    r"|numpy|np|pytorch|torch|seaborn|pyarrow|arrow|cython)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def open_embedded(info: DatasetInfo, split: str) -> tuple["datasets.Dataset", DatasetInfo, str]:
    """The split of an embedded data set, its entry, and a fingerprint of its content."""
    return _digits(info, split) if info.name == "digits" else _docstrings(info, split)


def _digits(info: DatasetInfo, split: str) -> tuple["datasets.Dataset", DatasetInfo, str]:
    import datasets
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    parts = stratified_split(labels, TEST_FRACTION, seed=0)
    rows = parts.validation if split == "test" else parts.train

    def png(picture: np.ndarray) -> dict[str, bytes | None]:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        return {"bytes": buffer.getvalue(), "path": None}

    features = datasets.Features(
        img=datasets.Image(), label=datasets.ClassLabel(names=[str(digit) for digit in range(10)])
    )
    table = {"img": [png(picture) for picture in pixels[rows]], "label": labels[rows].tolist()}
    content = hashlib.sha256(pixels[rows].tobytes() + labels[rows].astype("<i8").tobytes()).hexdigest()
    return datasets.Dataset.from_dict(table, features), info, sha256_key({"digits": content, "split": split})


def _docstrings(info: DatasetInfo, split: str) -> tuple["datasets.Dataset", DatasetInfo, str]:
    import datasets

    versions = {library: importlib.metadata.version(library) for library in LIBRARIES.values()}
    path = cache_dir() / "embedded" / f"docstrings-{sha256_key({'versions': versions, 'rule': RULE})}.json"
    try:
        corpus: dict[str, list[str] | list[int]] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        corpus = docstring_corpus()
        write_atomic(path, json.dumps(corpus))
    labels, groups = np.array(corpus["label"]), np.array(corpus["group"])
    parts = stratified_split(labels, TEST_FRACTION, seed=0, groups=groups)
    rows = parts.validation if split == "test" else parts.train
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=list(LIBRARIES.values())),
        group=datasets.Value("int64"),
    )
    table = {name: [values[row] for row in rows] for name, values in corpus.items()}
    return datasets.Dataset.from_dict(table, features), info, sha256_key({"docstrings": table, "split": split})


def docstring_corpus() -> dict[str, list[str] | list[int]]:
    """Columns text, label (position in ``LIBRARIES``) and group (number of the source file), by the rule above."""
    texts: list[str] = []
    labels: list[int] = []
    groups: list[int] = []
    seen: set[tuple[str, ...]] = set()
    for label, files in enumerate(_labelled_files(seen)):
        for group, found in files:
            texts += found
            labels += [label] * len(found)
            groups += [group] * len(found)
    return {"text": texts, "label": labels, "group": groups}


def unlabelled_docstrings() -> list[str]:
    """Texts by the same rule from the next source files of each library, as many as there are up to 1,000; cached."""
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES.values()}
    path = cache_dir() / "embedded" / f"unlabelled-{sha256_key({'versions': versions, 'rule': RULE})}.json"
    try:
        return list(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        pass
    seen: set[tuple[str, ...]] = set()
    used = {package: len(files) for package, files in zip(LIBRARIES, _labelled_files(seen), strict=True)}
    texts = [text for package, count in used.items() for found in _files(package, count, seen) for text in found]
    write_atomic(path, json.dumps(texts))
    return texts


def _labelled_files(seen: set[tuple[str, ...]]) -> list[list[tuple[int, list[str]]]]:
    """For each library the files of the labelled corpus: (number, texts)."""
    found: list[list[tuple[int, list[str]]]] = []
    number = 1
    for package in LIBRARIES:
        found.append([(number + place, texts) for place, texts in enumerate(_files(package, 0, seen))])
        number += len(found[-1])
    return found


def _files(package: str, skip: int, seen: set[tuple[str, ...]]) -> Iterator[list[str]]:
    """The texts of each of the source files after the first ``skip``, until there are ``PER_CLASS`` texts.

    ``seen`` holds the five-word sequences of all texts so far; these files' are added.
    """
    count = 0
    for path in _sources(package)[skip:]:
        texts = []
        for words in _prose(path.read_text(encoding="utf-8", errors="replace")):
            shingles = {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
            if 2 * len(shingles & seen) < len(shingles):
                seen |= shingles
                texts.append(" ".join(words))
        yield texts
        count += len(texts)
        if count >= PER_CLASS:
            return


def _sources(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"The library {LIBRARIES[package]} is not installed; install the project's dependencies.")
    root = Path(spec.origin).parent
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    kept = {name: path for name, path in files.items() if not NOT_ITS_OWN & set(name.split("/"))}
    return [kept[name] for name in sorted(kept, key=lambda name: hashlib.sha256(name.encode()).digest())]


def _prose(source: str) -> Iterator[list[str]]:
    """The plain prose of each triple-quoted string in ``source``, as a list of words."""
    for string in _STRING.findall(source):
        words: list[str] = []
        for paragraph in re.split(r"\n\s*\n", string):
            text = " ".join(paragraph.split())
            if text[:1].isupper() and text.endswith(".") and not _NOT_PROSE.search(text):
                words += _WORD.findall(_NAMES.sub(" ", _CODE.sub(" ", text)).lower())
        if len(words) >= MIN_WORDS:
            yield words[:MAX_WORDS]
