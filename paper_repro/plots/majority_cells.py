"""Which records the figures and tables of "Majority Kernels" show, and what is computed from them.

An arm is a way of training a small model. A run is called by its arm, then ":<share>" where it has fewer steps than
the task's, then "@<examples>" where it learns from another number of examples than the task's first. Repetitions of
all arms are pairs: they have the same examples, first weights and order.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pandas as pd

from paper_repro import stats
from paper_repro.ledger import Ledger, load_ledger
from paper_repro.ledger.statistics import NotComparable, at_equal_loss
from paper_repro.plots.series import PANEL, panel_names
from paper_repro.plots.source import Results
from paper_repro.plots.style import (
    BLACK,
    BLUE,
    DASH_DOT,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Look,
)
from paper_repro.stats import Interval

BASELINE, NOISE = "plain", "noise"
SHORTER = "plain-at-mk2"  # plain training of several durations
GAIN = ("C1-mlp", "C1-resnet", "C1-transformer")  # the ledger's claims of a gain over plain training
RUNNING = "/running"  # after an arm's name: evaluated with the batch norms' statistics of training
DATA = {"digits": "digits", "cifar10-jpeg": "CIFAR-10", "trec-coarse": "TREC"}
MODELS = {"mlp": "MLP", "resnet8-w8": "ResNet-8", "transformer": "transformer"}

LOOKS = {
    "plain": Look("plain training (plain)", BLACK, "o", DOTTED),
    "plain-at-mk2": Look("plain, rates of mk2 (plain-at-mk2)", GREEN, ".", DOTTED),
    "mk2": Look("majority kernels, k = 2 (mk2)", BLUE, "s"),
    "mk4": Look("majority kernels, k = 4 (mk4)", VERMILION, "D", DASHED),
    "noise": Look("weight noise (noise)", ORANGE, "^", DASH_DOT),
    "swa": Look("weights averaged at the end (swa)", SKY, "v", DOTTED),
    "stopped": Look("stopped early (stopped)", BLACK, "P", DOTTED),
    "ensemble4": Look("distilled from 4 models (ensemble4)", PURPLE, "*", DASHED),
    "selected4": Look("neurons of a wider model (selected4)", GREY, "x", DOTTED),
    "selected4-tuned": Look("the same, trained on (selected4-tuned)", GREY, "X", DASHED),
}
WHAT = {  # in the order of tables
    "plain": "plain training",
    "plain-at-mk2": "plain training at the rates of mk2",
    "mk1": "majority kernels, k = 1: plain training",
    "mk2": "majority kernels, k = 2",
    "mk3": "majority kernels, k = 3",
    "mk4": "majority kernels, k = 4",
    "mk8": "majority kernels, k = 8",
    "mk2-lr": "as mk2, at the rates of plain: the mean moves less",
    "mk2-lrk": "as mk2, at the rates of plain: the mean moves as far",
    "const2-lr": "as mk2-lr, coefficients constant",
    "const2-lrk": "as mk2-lrk, coefficients constant",
    "const2": "as mk2, coefficients constant",
    "plain-slow": "plain training, kernels at the rate at which the mean of two copies moves",
    "plain-small": "plain training, first kernels over root 2",
    "noise": "weight noise of the best size",
    "swa": "weights averaged at the end",
    "ema": "weights averaged all along",
    "dropout": "dropout",
    "stopped": "plain training of the best number of steps",
    "simplex2": "midpoint of a weight-space simplex",
    "simplex2-apart": "the same, corners kept apart",
    "ensemble4": "distilled from 4 models",
    "selected4": "neurons selected from a wider model",
    "selected4-tuned": "the same, trained on",
    "mk2-network": "as mk2, one draw per network",
    "mk2-unit": "as mk2, one draw per output unit",
    "mk2-element": "as mk2, one draw per weight",
    "mk2-uniform": "as mk2, uniform numbers over their sum",
    "mk2-one-hot": "as mk2, one copy at a time",
    "mk2-identical": "as mk2, copies begin equal",
    "mk2-scaled": "as mk2, first copies scaled up",
    "mk2-hidden": "as mk2, one head",
}

NAME = r"^(?P<arm>[^:@]+)(?::(?P<duration>[\d.e-]+))?(?:@(?P<size>\d+))?$"
COLUMNS = {  # what is read of a run, as <split>/<metric>
    "test/accuracy": "accuracy",
    "test/accuracy_running": "accuracy_running",
    "train/accuracy": "train_accuracy",
    "train/loss": "train_loss",
    "train/seconds": "seconds",
    "train/training_flops": "flops",
}


def title(dataset: str, model: str) -> str:
    """What people call a model on a data set."""
    return f"{MODELS.get(model, model)}, {DATA.get(dataset, dataset)}"


@cache
def ledger() -> Ledger:
    """What the paper says."""
    return load_ledger("majority")


def runs(results: Results) -> pd.DataFrame:
    """One row per run: dataset, model, arm, duration (share of the task's steps), size (training examples), main
    (whether that is the task's first), seed, and ``COLUMNS`` (NaN where not recorded)."""
    rows = results.metrics[results.metrics["experiment"] == "student"]
    rows = rows.assign(column=(rows["split"] + "/" + rows["metric"]).map(COLUMNS)).dropna(subset="column")
    names = rows["method"].str.extract(NAME)
    examples = rows[rows["column"] == "train_accuracy"].drop_duplicates("key").set_index("key")["n"]
    rows = rows.assign(
        arm=names["arm"], duration=names["duration"].astype(float).fillna(1.0), main=names["size"].isna(),
        size=rows["key"].map(examples),
    )  # fmt: skip
    run = [*PANEL, "arm", "duration", "size", "main", "seed"]
    wide = rows.dropna(subset=run).pivot_table(index=run, columns="column", values="value", aggfunc="first")
    return wide.reindex(columns=list(COLUMNS.values())).reset_index().rename_axis(columns=None)


class Task:
    """The runs of one model on one data set: ``size`` is the main number of training examples, of ``sizes``."""

    def __init__(self, panel: tuple[str, str], rows: pd.DataFrame) -> None:
        self.dataset, self.model = self.panel = panel
        self.rows = rows
        self.sizes = sorted(int(size) for size in rows["size"].unique())
        main = rows.loc[rows["main"], "size"]
        self.size = int(main.iloc[0]) if len(main) else self.sizes[0]
        present = set(rows["arm"])
        self.arms = [*(arm for arm in WHAT if arm in present), *sorted(present - set(WHAT))]
        groups = rows.drop_duplicates(["arm", "size", "duration", "seed"]).groupby(["arm", "size", "duration"])
        self._runs: dict[Any, pd.DataFrame] = {key: group.set_index("seed") for key, group in groups}
        self._none = rows.head(0).set_index("seed")

    def of(self, arm: str, size: int | None = None, duration: float = 1.0) -> pd.DataFrame:
        """The runs of an arm (None: at the main size), index: seed."""
        return self._runs.get((arm, self.size if size is None else size, duration), self._none)

    def durations(self, arm: str, size: int | None = None) -> list[float]:
        """The shares of the steps that an arm was run for, ascending."""
        wanted = arm, self.size if size is None else size
        return sorted(duration for *run, duration in self._runs if tuple(run) == wanted)

    def gap(self, a: str, b: str, size: int | None = None) -> Interval | None:
        """Accuracy of arm ``a`` minus that of ``b``, paired by seed; None where no seed has both."""
        values = [
            self.of(arm.removesuffix(RUNNING), size)["accuracy_running" if arm.endswith(RUNNING) else "accuracy"]
            for arm in (a, b)
        ]
        found = (values[0] - values[1]).dropna()
        return stats.mean_interval(found.to_numpy()) if len(found) else None

    def gap_at_equal_loss(self, arm: str, size: int | None = None) -> Interval | None:
        """Accuracy of ``arm`` minus that of plain training, at the rates of mk2, where that has the same training loss.

        None where nothing was run to compare; NaN where the two are not comparable (see ``at_equal_loss``).
        """
        columns = {"accuracy": "quality", "train_loss": "loss"}
        frames = [self.of(arm, size), *(self.of(SHORTER, size, share) for share in self.durations(SHORTER, size))]
        own, *plain = [frame.rename(columns=columns)[["quality", "loss"]].dropna() for frame in frames]
        if len(plain) < 2:
            return None
        try:
            found = at_equal_loss(own, plain)
        except NotComparable:
            return Interval(float("nan"), float("nan"), float("nan"), 0)
        return stats.mean_interval(found.to_numpy()) if len(found) else None


def tasks(results: Results) -> Iterator[Task]:
    """Every task that has runs, in the order of its panel."""
    found = runs(results)
    for dataset, model in panel_names(found):
        yield Task((dataset, model), found[(found["dataset"] == dataset) & (found["model"] == model)])


def smallest_effect(tier: str, claims: tuple[str, ...], panel: tuple[str, str]) -> float:
    """What matters to the first of these claims that is made of a panel at ``tier``; NaN where there is none."""
    for claim in claims:
        check = next((check for name, check in ledger().entry(claim).checks.items() if name == tier), None)
        for part in check.parts if check else ():
            if check and (part.dataset, part.model) == panel:
                return check.tolerance if part.tolerance is None else part.tolerance
    return float("nan")
