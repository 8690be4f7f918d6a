"""A WordPiece tokenizer trained on a data set's own text (Devlin et al. 2019 describe the kind; sizes are our choice).

Lower-cased, accents stripped, HTML line breaks (of which film reviews are full) read as spaces. Ids: the special tokens
first, in the order of ``SPECIAL``; then single characters, at a word's start and inside it; then pieces, in the order
in which training finds them. A text becomes [CLS] pieces [SEP], a pair [CLS] pieces [SEP] pieces [SEP].
"""

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from paper_repro.config import sha256_key
from paper_repro.paths import cache_dir, write_atomic

if TYPE_CHECKING:
    from tokenizers import Tokenizer

RULE = 1  # raise when training changes: the cache is keyed on it
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
SAMPLE = 10_000  # texts to train on: 9 CPU seconds on IMDB, and its time grows with the texts (our choice)


def own_wordpieces(texts: Sequence[str], fingerprint: str, size: int) -> "Tokenizer":
    """The tokenizer of ``size`` tokens trained on ``texts``, whose content ``fingerprint`` names.

    Cached in ``<cache>/tokenizers`` under fingerprint, size, rule and the version of the library that trains.
    """
    from tokenizers import Tokenizer

    identity = {"texts": fingerprint, "size": size, "rule": RULE, "library": library()}
    path = cache_dir() / "tokenizers" / f"wordpiece-{sha256_key(identity)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            write_atomic(path, train_wordpieces(texts, size).to_str())
    return Tokenizer.from_file(str(path))


def train_wordpieces(texts: Sequence[str], size: int) -> "Tokenizer":
    """A tokenizer of at most ``size`` tokens, but at least of all characters of ``texts``; the same in every process.

    Of more than ``SAMPLE`` texts it reads every n-th.
    """
    from tokenizers import normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    sample = texts[:: -(-len(texts) // SAMPLE) or 1]
    # The library numbers characters inside words in the order of a hash table that differs from process to process, and
    # breaks ties between pieces by these numbers. A first pass finds the characters, the second is given their order.
    characters = sorted(set(_trained(sample, list(SPECIAL), 0).get_vocab()) - set(SPECIAL))
    vocabulary = _trained(sample, [*SPECIAL, *characters], size).get_vocab()
    tokenizer = _bare(WordPiece(vocabulary, unk_token=SPECIAL[UNK]), normalizers, pre_tokenizers)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return tokenizer


def library() -> str:
    """The version of the library that trains."""
    return importlib.metadata.version("tokenizers")


def _trained(texts: Sequence[str], first: list[str], size: int) -> "Tokenizer":
    """A tokenizer whose vocabulary begins with ``first``."""
    from tokenizers import normalizers, pre_tokenizers
    from tokenizers.models import WordPiece
    from tokenizers.trainers import WordPieceTrainer

    tokenizer = _bare(WordPiece(unk_token=SPECIAL[UNK]), normalizers, pre_tokenizers)
    tokenizer.train_from_iterator(texts, WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False))
    return tokenizer


def _bare(model: Any, normalizers: Any, pre_tokenizers: Any) -> "Tokenizer":
    from tokenizers import Regex, Tokenizer

    tokenizer = Tokenizer(model)
    breaks = normalizers.Replace(Regex(r"<br\s*/?>"), " ")
    tokenizer.normalizer = normalizers.Sequence([breaks, normalizers.BertNormalizer(lowercase=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
