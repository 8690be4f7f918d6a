"""The text classifiers that a distilled n-gram student has to beat, and that its paper did not try.

None of them sees a teacher's answers or unlabelled text. All are fitted, and tuned on a validation split, in one way.
"""

from paper_repro.baselines.base import UNSEEN, Fitted
from paper_repro.baselines.tune import BASELINES, GRIDS, SEEDED, fit, tuned

__all__ = ["BASELINES", "GRIDS", "SEEDED", "UNSEEN", "Fitted", "fit", "tuned"]
