"""N-grams of text as ids for an embedding table: exactly scikit-learn's, several dozen times as fast.

``build_vocabulary`` finds the most frequent n-grams of a corpus, ``Vocabulary.transform`` maps texts to their ids,
``HashedBuckets`` does without a vocabulary. Everything is compiled by numba when it is first used, some ten seconds in
all, and then kept on disk. Importing this imports numba.
"""

from paper_repro.data.ngrams.bags import Bags
from paper_repro.data.ngrams.building import build_vocabulary
from paper_repro.data.ngrams.characters import Analyzer
from paper_repro.data.ngrams.hashed import HashedBuckets
from paper_repro.data.ngrams.vocabulary import Vocabulary

__all__ = ["Analyzer", "Bags", "HashedBuckets", "Vocabulary", "build_vocabulary"]
