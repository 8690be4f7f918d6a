"""Claims about the combined experiment: which can be judged, and what other test examples would change."""

from pathlib import Path

import numpy as np
import pytest
from synthetic_combined import DEFERRED, LOST, N_TEST, combined_records, pace, write_combined

from paper_repro.ledger import judge_all, judge_results, load_ledger
from paper_repro.results import Record, to_frame
from paper_repro.stats import Interval, paired_error, widened


def accuracy_verdict(records: list[Record], name: str = "S1-accuracy-imdb"):  # type: ignore[no-untyped-def]
    return judge_all(to_frame(records), [load_ledger("combined").entry(name)], "cpu")[0]


def changed(records: list[Record], n: int, **metrics: float) -> list[Record]:
    """With other values, and so many test examples."""

    def metric(one):  # type: ignore[no-untyped-def]
        value = metrics.get(one.name.replace("cascade/", ""), one.value)
        return one.model_copy(update={"value": value, "n": n if one.split == "test" else one.n})

    return [record.model_copy(update={"metrics": [metric(one) for one in record.metrics]}) for record in records]


def test_every_claim_finds_the_records_of_the_tier(tmp_path: Path) -> None:
    write_combined(tmp_path, "cpu", seeds=5)
    verdicts = {verdict.id: verdict for verdict in judge_results(tmp_path, "combined", "cpu")}
    missing = {"no_records", "part_missing", "runs_failed", "no_check_at_tier", "too_few_seeds"}
    assert {name for name, verdict in verdicts.items() if verdict.reason in missing} == set()
    assert verdicts["combined/S1-accuracy-imdb"].verdict == "reproduced" and LOST < 0.005
    assert verdicts["combined/S1-speed-imdb"].verdict == "not reproduced" and pace("ngrams", DEFERRED) < 10
    assert verdicts["combined/A1-corpus"].verdict == "reproduced"


def test_an_error_of_paired_accuracies_is_what_simulation_says() -> None:
    rng, n, shares = np.random.default_rng(0), 400, (0.03, 0.01, 0.96)
    counts = rng.multinomial(n, shares, size=20_000)
    spread = ((counts[:, 0] - counts[:, 1]) / n).std()
    assert np.mean(paired_error(counts[:, 0] / n, counts[:, 1] / n, n)) == pytest.approx(spread, rel=0.08)
    covered = [
        abs((a - b) / n - 0.02) <= 1.96 * paired_error(a / n, b / n, n) for a, b in counts[:4000, :2].astype(float)
    ]
    assert np.mean(covered) > 0.935
    assert paired_error(0.0, 0.0, 500) == pytest.approx(np.sqrt(2) / 502), "none of 500 is not none of all"


def test_independent_errors_add_in_squares() -> None:
    interval = widened(Interval(0.01, 0.007, 0.014, 5), 0.004 / 1.959964)
    assert (interval.low, interval.high) == pytest.approx((0.01 - 0.005, 0.01 + np.hypot(0.004, 0.004)))


def test_few_test_examples_cannot_show_that_little_is_lost() -> None:
    records = combined_records("cpu", seeds=5)
    assert accuracy_verdict(changed(records, N_TEST, lost=0.0, missed=0.0, gained=0.0)).verdict == "reproduced"
    few = accuracy_verdict(changed(records, 500, lost=0.0, missed=0.0, gained=0.0))
    assert few.verdict == "inconclusive" and few.ci_high == pytest.approx(1.96 * np.sqrt(2) / 502, rel=0.01)
    much = accuracy_verdict(changed(records, N_TEST, lost=0.02, missed=0.025, gained=0.005))
    assert much.verdict == "not reproduced"


def test_a_promise_is_broken_where_the_test_examples_show_it() -> None:
    records = combined_records("cpu", seeds=5)
    kept = accuracy_verdict(changed(records, 500, lost=0.008, missed=0.012, gained=0.004), "S2")
    assert (kept.verdict, kept.measured) == ("reproduced", 0.0), "six of 500 are no proof of more than 0.5 %"
    broken = accuracy_verdict(changed(records, N_TEST, lost=0.008, missed=0.012, gained=0.004), "S2")
    assert (broken.verdict, broken.measured) == ("not reproduced", 1.0)


def test_a_run_that_keeps_nothing_is_no_promise_kept() -> None:
    records = combined_records("cpu", seeds=5)
    images = [record for record in records if record.dataset == "cifar10-jpeg"]
    texts = [record for record in records if record.dataset == "imdb"]
    bold, shy = changed(texts, N_TEST, lost=0.0, missed=0.0, gained=0.0), changed(images, N_TEST, deferred=1.0)
    verdict = accuracy_verdict([*bold, *shy], "S2")
    assert (verdict.verdict, verdict.reason) == ("inconclusive", "part_missing"), "of images there is none to judge"


def test_two_cascades_are_compared_by_the_ratio_of_their_speeds() -> None:
    records = [record for record in combined_records("cpu", seeds=5) if record.experiment == "timing"]
    both = [f"speedup/{arm}+teacher/throughput" for arm in ("sparse+kd+corpus", "kd+corpus")]

    def verdict(first: float, second: float) -> str:
        return accuracy_verdict(changed(records, 100, **dict(zip(both, (first, second), strict=True))), "S3").verdict

    assert verdict(1.2, 1.05) == verdict(12.0, 10.5) == "reproduced"
    assert verdict(1.05, 1.04) == verdict(10.5, 10.4) == "reproduced", "more, and without any spread that shows it"
    assert verdict(1.0, 1.2) == verdict(1.0, 1.0) == "not reproduced"
