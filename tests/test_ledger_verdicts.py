"""Judging: made-up records in, verdict, interval and reason out."""

import json
import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_repro.config import sha256_key
from paper_repro.errors import UserError
from paper_repro.ledger import (
    REASONS,
    Entry,
    Verdict,
    compare,
    judge,
    judge_results,
    load_ledger,
    read_verdicts,
    regressions,
    write_verdicts,
)
from paper_repro.ledger.statistics import at_equal_loss
from paper_repro.ledger.verdicts import decide
from paper_repro.results import Metric, Record, Store, samples_to_frame, to_frame

MD_MINUS_KD = [{"metric": "auc/margin", "method": "md"}, {"weight": -1, "metric": "auc/margin", "method": "kd"}]


def record(method, seed, metrics=None, *, model="mlp", dataset="digits", samples=None, **changes):
    fields = {
        "paper": "titans", "experiment": "student", "tier": "cpu", "dataset": dataset, "model": model,
        "method": method, "seed": seed, "key": sha256_key([method, seed, model, dataset]),
        "metrics": metrics if isinstance(metrics, list) else [
            Metric(name=n, value=v, unit="fraction", split="test") for n, v in (metrics or {}).items()
        ],
        "samples": samples or {},
    }  # fmt: skip
    return Record(**{**fields, **changes})


def entry(**check):
    fields = {"terms": MD_MINUS_KD, "relation": "greater", "tolerance": 0.001, "derivation": "made up for this test"}
    return Entry(
        id="titans/T", kind="claim", statement="s", source={"paper": "p", "where": "w"}, certainty="design",
        checks={"cpu": {**fields, **check}},
    )  # fmt: skip


def pairs(differences, **changes):
    """md and kd records whose auc/margin differs by these numbers, with a seed effect that only pairing removes."""
    found = []
    for seed, difference in enumerate(differences):
        level = 0.5 + 0.1 * seed
        found += [record("md", seed, {"auc/margin": level + difference}, **changes)]
        found += [record("kd", seed, {"auc/margin": level}, **changes)]
    return found


def judged(records, subject, tier="cpu"):
    return judge(to_frame(records), subject, tier, samples_to_frame(records))


def test_differences_are_paired_by_seed():
    verdict = judged(pairs([0.010, 0.012, 0.011, 0.009]), entry())
    assert (verdict.verdict, verdict.reason) == ("reproduced", "interval_supports")
    assert verdict.measured == pytest.approx(0.0105)
    assert verdict.ci_low == pytest.approx(0.0105 - 3.1824 * 0.00129099 / 2, rel=1e-3)  # t(3)
    assert verdict.n_seeds == 4 and verdict.expected == "> 0" and verdict.level == 0.95


def test_seeds_without_a_partner_do_not_count():
    lonely = [record("md", 9, {"auc/margin": 0.0})]
    assert judged([*pairs([0.010, 0.012, 0.011]), *lonely], entry()).n_seeds == 3


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([-0.010, -0.012, -0.011], ("not reproduced", "interval_refutes")),
        ([0.0001, -0.0001, 0.0002, 0.0], ("not reproduced", "interval_refutes")),  # below the smallest of interest
        ([0.10, -0.12, 0.11], ("inconclusive", "interval_too_wide")),
        ([0.010, 0.012], ("inconclusive", "too_few_seeds")),  # fewer than three never reproduce a claim
        ([0.010], ("inconclusive", "too_few_seeds")),
        ([], ("not run", "no_records")),
    ],
)
def test_each_verdict_has_its_reason(differences, expected):
    verdict = judged(pairs(differences), entry())
    assert (verdict.verdict, verdict.reason) == expected
    assert verdict.reason in REASONS


def test_other_papers_tiers_and_experiments_are_not_looked_at():
    for changes in ({"paper": "sparse"}, {"tier": "smoke"}, {"experiment": "teacher"}):
        assert judged(pairs([0.01, 0.01, 0.01], **changes), entry()).verdict == "not run"


def test_failed_runs_are_told_from_missing_ones():
    failed = [record(method, 0, status="failed") for method in ("md", "kd")]
    assert judged(failed, entry()).reason == "runs_failed"


def test_two_records_for_one_seed_are_not_averaged():
    stale = record("md", 0, {"auc/margin": 0.9}, key="f" * 64)
    assert judged([*pairs([0.01, 0.012, 0.011]), stale], entry()).reason == "ambiguous_records"


def test_undefined_values_are_left_out():
    empty = [record("md", 3, {"auc/margin": None}), record("kd", 3, {"auc/margin": 0.5})]
    assert judged([*pairs([0.010, 0.012, 0.011]), *empty], entry()).n_seeds == 3


def test_a_claim_must_hold_in_all_its_parts():
    good, bad = [0.010, 0.012, 0.011], [-0.010, -0.012, -0.011]
    two = entry(parts=[{"model": "mlp"}, {"model": "bag"}])
    both = judged([*pairs(good), *pairs(good, model="bag")], two)
    assert both.verdict == "reproduced" and [part.verdict for part in both.parts] == ["reproduced"] * 2
    mixed = judged([*pairs(good), *pairs(bad, model="bag")], two)
    assert (mixed.verdict, mixed.decided_by) == ("not reproduced", "bag")
    assert mixed.measured == pytest.approx(-0.011)
    wide = judged([*pairs(good), *pairs([0.1, -0.1, 0.1], model="bag")], two)
    assert (wide.verdict, wide.reason) == ("inconclusive", "interval_too_wide")
    half = judged(pairs(good), two)
    assert (half.verdict, half.reason) == ("inconclusive", "part_missing")
    assert judged(pairs(bad), two).verdict == "not reproduced"


def test_a_list_is_a_mean_within_each_seed():
    records = [*pairs([0.010, 0.012, 0.011]), *pairs([0.030, 0.032, 0.031], model="bag")]
    verdict = judged(records, entry(parts=[{"model": ["mlp", "bag"]}]))
    assert verdict.measured == pytest.approx(0.021) and verdict.n_seeds == 3


def test_a_part_may_have_its_own_tolerance():
    narrow = entry(relation="at_least", tolerance=0.001, parts=[{"model": "mlp"}])
    wide = entry(relation="at_least", tolerance=0.001, parts=[{"model": "mlp", "tolerance": 0.02}])
    records = pairs([-0.010, -0.012, -0.011])
    assert judged(records, narrow).verdict == "not reproduced"
    assert judged(records, wide).verdict == "reproduced"


def test_equal_differs_and_open():
    near = pairs([0.001, -0.001, 0.0005, -0.0005])
    assert judged(near, entry(relation="equal", tolerance=0.005)).verdict == "reproduced"
    assert judged(near, entry(relation="equal", tolerance=0.005)).level == 0.9
    assert judged(near, entry(relation="differs", tolerance=0.005)).verdict == "not reproduced"
    far = pairs([0.010, 0.012, 0.011])
    assert judged(far, entry(relation="equal", tolerance=0.005)).verdict == "not reproduced"
    assert judged(far, entry(relation="differs", tolerance=0.005)).verdict == "reproduced"
    unknown = judged(far, entry(relation="open"))
    assert (unknown.verdict, unknown.reason) == ("inconclusive", "direction_unknown")
    assert unknown.ci_low is not None


def curve(seed, heights, accuracy):
    samples = {"curve/fraction": [0.0, 0.5, 1.0], "curve/margin": heights}
    return record("md", seed, {"accuracy": accuracy}, samples=samples)


def test_curves_are_read_at_a_fraction():
    terms = [{"curve": "curve/margin", "at": 0.75}, {"weight": -1, "metric": "accuracy"}]
    records = [curve(seed, [0.9, 0.8, 0.6], 0.6 + seed / 1e3) for seed in range(3)]
    assert judged(records, entry(terms=terms)).measured == pytest.approx(0.7 - 0.601)


def test_a_curve_is_read_at_the_fraction_that_another_method_keeps():
    kept = [record("cd3", seed, {"class_rule/fraction": 0.25 * (seed + 1)}) for seed in range(3)]
    terms = [{"curve": "curve/margin", "method": "kd", "at": {"metric": "class_rule/fraction", "method": "cd3"}}]
    records = [curve(seed, [0.9, 0.8, 0.6], 0.6).model_copy(update={"method": "kd"}) for seed in range(3)]
    verdict = judged([*records, *kept], entry(terms=terms, relation="open"))
    assert verdict.n_seeds == 3 and verdict.measured == pytest.approx((0.85 + 0.8 + 0.7) / 3)
    assert judged([*records, *kept[1:]], entry(terms=terms, relation="open")).n_seeds == 2


def baseline(accuracy, model="nbsvm", seed=0):
    return record("scratch", seed, {"accuracy": accuracy}, model=model)


def test_a_shared_record_stands_for_every_seed():
    students = [record("kd", seed, {"accuracy": 0.90 + seed / 100}) for seed in range(3)]
    minus = {"weight": -1, "metric": "accuracy", "method": "scratch", "model": "nbsvm", "shared": True}
    claim = entry(terms=[{"metric": "accuracy", "model": "mlp", "method": "kd"}, minus])
    verdict = judged([*students, baseline(0.85)], claim)
    assert verdict.n_seeds == 3 and verdict.measured == pytest.approx(0.91 - 0.85)
    assert verdict.ci_low == pytest.approx(0.06 - 4.3027 * 0.01 / math.sqrt(3), rel=1e-3)  # t(2): the students' spread
    two = entry(terms=[claim.checks["cpu"].terms[0].model_dump(), {**minus, "model": ["nbsvm", "lr"]}])
    verdict = judged([*students, baseline(0.85), baseline(0.80, "lr", seed=7)], two)
    assert verdict.n_seeds == 3 and verdict.measured == pytest.approx(0.91 - 0.825)
    assert judged(students, claim).reason == "no_records"
    undefined = record("scratch", 0, {"accuracy": None}, model="nbsvm")
    assert judged([*students, undefined], claim).reason == "no_records"


def test_a_shared_record_of_several_seeds_is_refused():
    students = [record("kd", seed, {"accuracy": 0.9}) for seed in range(3)]
    terms = [
        {"metric": "accuracy", "model": "mlp", "method": "kd"},
        {"weight": -1, "metric": "accuracy", "method": "scratch", "model": "nbsvm", "shared": True},
    ]
    verdict = judged([*students, baseline(0.85), baseline(0.85, seed=1)], entry(terms=terms))
    assert (verdict.verdict, verdict.reason) == ("inconclusive", "not_shared")


def test_identities_must_hold_in_every_run():
    terms = [{"curve": "curve/margin", "at": 1}, {"weight": -1, "metric": "accuracy"}]
    identity = entry(terms=terms, relation="identity", tolerance=1e-9, min_seeds=1)
    good = [curve(0, [0.9, 0.8, 0.6], 0.6)]
    assert judged(good, identity).verdict == "reproduced"
    broken = [*good, curve(1, [0.9, 0.8, 0.6], 0.61)]
    assert judged(broken, identity).verdict == "not reproduced"
    assert judged(broken, identity).measured == pytest.approx(-0.01)


def test_shares_have_exact_binomial_intervals():
    methods = ["ce", "kd"]
    exceeds = {"metric": "gap", "threshold": 0.01}
    claim = entry(
        terms=None, exceeds=exceeds, relation="at_most", value=0.1, tolerance=0.05, parts=[{"method": methods}]
    )
    low = [record(method, seed, {"gap": 0.001}) for method in methods for seed in range(20)]
    verdict = judged(low, claim)
    assert (verdict.verdict, verdict.n_seeds, verdict.n_unit) == ("reproduced", 40, "runs")
    assert verdict.ci_high == pytest.approx(1 - 0.025 ** (1 / 40))
    high = [record(method, seed, {"gap": 0.02}) for method in methods for seed in range(20)]
    assert judged(high, claim).verdict == "not reproduced"
    assert judged(low[:5] + high[20:22], claim).verdict == "inconclusive"
    exactly = [record(method, seed, {"gap": 0.8 - 0.79}) for method in methods for seed in range(20)]
    assert 0.8 - 0.79 > 0.01 and judged(exactly, claim).measured == 0, "what equals the threshold is not above it"


def test_speed_is_a_ratio_of_interleaved_rounds():
    samples = {
        "teacher/latency_s": list(np.linspace(1.0, 1.2, 9)),
        "student/latency_s": list(np.linspace(0.1, 0.12, 9)),
    }
    timing = record("cpu", 0, samples=samples, model="s|t", dataset="synthetic", experiment="timing")
    speedup = {"slow": {"sample": "teacher/latency_s"}, "fast": {"sample": "student/latency_s"}}
    claim = {"terms": None, "experiment": "timing", "relation": "greater", "value": 1, "parts": [{"model": "s|t"}]}
    verdict = judged([timing], entry(speedup=speedup, **claim))
    assert (verdict.verdict, verdict.n_seeds, verdict.n_unit) == ("reproduced", 9, "rounds")
    assert verdict.measured == pytest.approx(10)
    amortised = judged([timing], entry(speedup={**speedup, "deferred": 0.2}, **claim))
    assert amortised.measured == pytest.approx(1 / (0.1 + 0.2))
    assert judged([timing], entry(speedup={**speedup, "slow": {"sample": "none"}}, **claim)).verdict == "not run"


def timed(dataset, rounds=9, **seconds):
    samples = {name.replace("__", "/"): [value] * rounds for name, value in seconds.items()}
    return record("cpu", 0, samples=samples, model="table", dataset=dataset, experiment="timing")


def test_a_speed_up_may_be_relative_to_another():
    long = timed("long", dan__model=0.01, big__model=6.0)  # 600 times as fast
    short = timed("short", rounds=7, dan__model=0.02, big__model=4.0)  # 200 times
    pair = {"slow": {"sample": "big/model"}, "fast": {"sample": "dan/model"}}
    speedup = {name: {**series, "dataset": "long"} for name, series in pair.items()} | {"relative_to": pair}
    claim = {"terms": None, "experiment": "timing", "relation": "greater", "value": 1, "parts": [{"dataset": "short"}]}
    verdict = judged([long, short], entry(speedup=speedup, **claim))
    assert verdict.measured == pytest.approx(3) and (verdict.n_seeds, verdict.verdict) == (7, "reproduced")
    assert judged([long], entry(speedup=speedup, **claim)).reason == "no_records"
    assert judged([long, short], entry(speedup=pair, **claim)).measured == pytest.approx(200)


def test_the_interval_of_an_equal_speed_has_the_level_that_it_says():
    samples = {"a/step": list(np.arange(1.0, 8.0)), "b/step": [1.0] * 7}
    timing = record("cpu", 0, samples=samples, model="step", experiment="timing")
    speedup = {"slow": {"sample": "a/step"}, "fast": {"sample": "b/step"}}
    claim = {"terms": None, "experiment": "timing", "speedup": speedup, "value": 4}
    wide = judged([timing], entry(relation="greater", **claim))
    assert (wide.level, wide.ci_low, wide.ci_high) == (0.95, 1, 7)
    narrow = judged([timing], entry(relation="equal", **{**claim, "tolerance": 0.5}))
    assert (narrow.level, narrow.ci_low, narrow.ci_high) == (0.9, 1, 7)
    sixteen = {"a/step": list(np.arange(1.0, 17.0)), "b/step": [1.0] * 16}
    many = timing.model_copy(update={"samples": sixteen})
    assert judged([many], entry(relation="greater", **claim)).ci_low == 4
    assert judged([many], entry(relation="equal", **{**claim, "tolerance": 0.5})).ci_low == 5


def test_numbers_without_a_check_are_not_run():
    ledger = load_ledger("titans")
    teacher = judged([], ledger.entry("teacher-imagenet"))
    assert (teacher.verdict, teacher.reason, teacher.expected) == ("not run", "no_check_at_tier", "= 0.886")
    assert judged([], ledger.entry("table4")).reason == "value_not_found"


limits = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(sorted)


@given(limits, st.floats(-0.5, 0.5), st.floats(0.001, 0.5))
def test_the_rules_are_consistent(interval, value, tolerance):
    low, high = interval
    assert decide("greater", low, high, value, tolerance) == decide("less", -high, -low, -value, tolerance)
    assert decide("at_least", low, high, value, tolerance) == decide("at_most", -high, -low, -value, tolerance)
    opposite = {"reproduced": "not reproduced", "not reproduced": "reproduced", "inconclusive": "inconclusive"}
    assert decide("differs", low, high, value, tolerance) == opposite[decide("equal", low, high, value, tolerance)]
    if decide("greater", low, high, value, tolerance) == "reproduced":
        assert low > value and decide("at_least", low, high, value, tolerance) == "reproduced"
    if decide("at_least", low, high, value, tolerance) == "not reproduced":
        assert decide("greater", low, high, value, tolerance) == "not reproduced"
    assert decide("open", low, high, value, tolerance) == "inconclusive"


@given(limits, st.floats(0.001, 0.5), st.floats(0, 0.5))
def test_more_is_never_worse_for_greater(interval, tolerance, lift):
    rank = ["not reproduced", "inconclusive", "reproduced"]
    low, high = interval
    lifted = decide("greater", low + lift, high + lift, 0, tolerance)
    assert rank.index(lifted) >= rank.index(decide("greater", low, high, 0, tolerance))


def test_verdicts_survive_the_disk_and_are_no_records(tmp_path):
    store = Store(tmp_path)
    for one in pairs([0.010, 0.012, 0.011], dataset="cifar10-jpeg", model="resnet8-w8"):
        store.write(one)
    verdicts = judge_results(tmp_path, "titans", "cpu")
    assert write_verdicts(verdicts, tmp_path) == [tmp_path / "titans" / "cpu" / "claims.json"]
    assert read_verdicts(tmp_path, "titans", "cpu") == verdicts
    assert judge_results(tmp_path, "titans", "cpu") == verdicts  # seeded, and claims.json is not taken for a record
    assert read_verdicts(tmp_path, "titans", "gpu") == []
    fields = {
        "id", "paper", "tier", "statement", "source", "certainty", "verdict", "expected", "measured", "ci_low",
        "ci_high", "n_seeds",
    }  # fmt: skip
    assert all(fields <= set(json.loads(json.dumps(verdict.to_json()))) for verdict in verdicts)
    (tmp_path / "titans" / "cpu" / "claims.json").write_text('[{"id": 1}]')
    with pytest.raises(UserError, match="not a list of verdicts"):
        read_verdicts(tmp_path, "titans", "cpu")


def test_numbers_agree_within_their_standard_errors():
    old = [judged(pairs([0.010, 0.012, 0.011]), entry())]
    near, far = pairs([0.0115, 0.0100, 0.0125]), pairs([0.050, 0.052, 0.051])
    (same,) = compare([judged(near, entry())], old)
    assert same.agrees and same.tolerance >= 0.001
    (other,) = compare([judged(far, entry())], old)
    assert not other.agrees and other.new == pytest.approx(0.051)
    expected = 2.58 * math.sqrt(2) * 0.001 / math.sqrt(3)
    assert other.tolerance == pytest.approx(max(0.001, expected))
    assert compare([judged([], entry())], old) == []


def verdict_of(outcome, name="titans/A", reason="runs_failed"):
    return Verdict(
        id=name, kind="claim", paper="titans", tier="cpu", statement="s", source="s", certainty="design",
        verdict=outcome, reason=reason, expected="> 0",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ("reproduced", "reproduced", False),
        ("reproduced", "inconclusive", True),
        ("reproduced", "not reproduced", True),
        ("inconclusive", "not reproduced", True),
        ("inconclusive", "reproduced", False),
        ("not reproduced", "inconclusive", False),
        ("not reproduced", "not run", True),
        ("not run", "not reproduced", False),
    ],
)
def test_a_worse_verdict_is_a_regression(before, after, worse):
    anchor = verdict_of("reproduced", "titans/B")
    found = regressions([verdict_of(after), anchor], [verdict_of(before), anchor])
    assert [regression.id for regression in found] == (["titans/A"] if worse else [])


def test_a_lost_entry_is_a_regression_but_an_empty_folder_is_not():
    anchor = verdict_of("reproduced", "titans/B")
    (lost,) = regressions([anchor], [verdict_of("inconclusive"), anchor])
    assert lost.after is None
    for now, reason in (("not run", "no_records"), ("inconclusive", "part_missing")):  # as after --only
        assert regressions([verdict_of(now, reason=reason)], [verdict_of("reproduced")]) == []


def test_judging_a_full_tier_is_quick():
    methods = [
        "ce", "kd", "ce+kd", "ce+kd-t4", "md", "md-random", "md-rho0.6", "md-alpha0", "md-alpha1", "gatekeeper"
    ]  # fmt: skip
    metrics = {name: 0.5 for name in ("accuracy", "teacher_accuracy", "auc/margin", "auc/head", *map(str, range(50)))}
    samples = {"curve/fraction": list(np.linspace(0, 1, 21)), "curve/margin": [0.5] * 21}
    samples |= {f"curve/{number}": [0.5] * 21 for number in range(8)}
    records = [
        record(method, seed, metrics, model=model, dataset="cifar10-jpeg", samples=samples)
        for method in methods for seed in range(16) for model in ("resnet8-w8", "resnet8-w16")
    ]  # fmt: skip
    frame, raw = to_frame(records), samples_to_frame(records)
    started = time.process_time()
    for subject in load_ledger("titans").entries:
        judge(frame, subject, "cpu", raw)
    assert time.process_time() - started < 15


# ---------------------------------------------------------------------------------------------------------------------
# Iso-quality speed-up


def runs(arm, gain, durations=(1, 2, 4, 8), seeds=4, **where):
    """Runs of an arm that gets in t what the baseline gets in gain * t, with noise that differs between its seeds."""
    noise = np.random.default_rng(len(arm)).normal(scale=1e-3, size=(seeds, len(durations)))
    return [
        record(
            f"{arm}@{duration}",
            seed,
            metrics=[
                Metric(name=name, value=value, unit="1", split=split)
                for name, value, split in (
                    ("accuracy", 0.5 + 0.1 * math.log2(gain * duration) + noise[seed, i], "test"),
                    ("loss", 1 - 0.1 * math.log2(gain * duration) - noise[seed, i], "test"),
                    ("seconds", 10.0 * duration, "train"),
                    ("training_flops", 1e9 * duration * (1 if arm == "ce" else 1.2), "train"),
                    ("teacher_training_seconds", 100.0, "train"),
                )
            ],
            **where,
        )
        for i, duration in enumerate(durations)
        for seed in range(seeds)
    ]


def iso_entry(parts=({},), **iso):
    fields = {"arm": "kd", "baseline": "ce", "at": 4, **iso}
    check = {"relation": "greater", "value": 1.0, "tolerance": 0.05, "unit": "ratio", "parts": list(parts)}
    return entry(terms=None, iso=fields, **check)


@pytest.mark.parametrize("fields", [{}, {"quality": "loss", "less_is_better": True}])
def test_an_arm_that_trains_faster_is_judged_on_its_curve(fields):
    verdict = judged(runs("ce", 1.0) + runs("kd", 1.5), iso_entry(**fields))
    assert verdict.verdict == "reproduced" and verdict.n_seeds == 4 and verdict.n_unit == "seeds"
    assert verdict.measured == pytest.approx(1.5, rel=0.02) and 1.4 < verdict.ci_low < verdict.ci_high < 1.6
    slower = judged(runs("ce", 1.0) + runs("kd", 0.8), iso_entry(**fields))
    assert slower.verdict == "not reproduced" and slower.measured == pytest.approx(0.8, rel=0.02)


def test_a_teacher_that_is_paid_for_is_charged_to_each_run():
    verdict = judged(runs("ce", 1.0) + runs("kd", 2.0), iso_entry(charged={"teacher_training_seconds": 0.1}))
    assert verdict.measured == pytest.approx(40 / (20 + 10), rel=0.02)


def test_operations_are_compared_where_they_are_asked_for():
    verdict = judged(runs("ce", 1.0) + runs("kd", 1.5), iso_entry(cost="training_flops"))
    assert verdict.measured == pytest.approx(1.5 / 1.2, rel=0.02)


def test_only_seeds_with_all_durations_count():
    found = runs("ce", 1.0) + [one for one in runs("kd", 1.5) if (one.method, one.seed) != ("kd@8", 3)]
    assert judged(found, iso_entry()).n_seeds == 3


def test_runs_of_the_same_arm_on_other_data_are_another_curve():
    elsewhere = {"durations": (100, 200), "dataset": "imdb", "model": "mlm"}
    found = runs("ce", 1.0) + runs("kd", 1.5) + runs("ce", 1.0, **elsewhere) + runs("kd", 0.5, **elsewhere)
    assert judged(found, iso_entry(parts=[{"dataset": "digits"}])).measured == pytest.approx(1.5, rel=0.02)


def test_an_interval_without_an_upper_limit_is_none_of_a_number():
    found = runs("ce", 1.0) + runs("kd", 1.9, durations=(2, 4))
    for one in found:
        if (one.method, one.seed) == ("kd@2", 0):  # with this seed twice, kd begins above the quality asked for
            one.metrics[0] = one.metrics[0].model_copy(update={"value": one.metrics[0].value + 0.028})
    verdict = judged(found, iso_entry())
    assert verdict.measured == pytest.approx(2.0, rel=0.05) and verdict.ci_high is None
    json.dumps(verdict.to_json(), allow_nan=False)


def test_an_arm_that_never_gets_there_is_refuted_if_it_took_longer_and_open_if_not():
    late = judged(runs("ce", 1.0) + runs("kd", 0.3), iso_entry())  # after 8 epochs where ce is after 2.4, asked at 4
    assert late.verdict == "not reproduced" and late.measured == pytest.approx(0.5, rel=0.05)
    assert late.ci_low == 0 and 0.45 < late.ci_high < 0.6
    short = judged(runs("ce", 1.0) + runs("kd", 0.9, durations=(1, 2)), iso_entry())
    assert (short.verdict, short.reason, short.ci_low) == ("inconclusive", "interval_too_wide", 0)


def test_curves_without_a_common_quality_and_missing_runs_are_no_speedup():
    apart = judged(runs("ce", 1.0) + runs("kd", 32.0), iso_entry())
    assert (apart.verdict, apart.reason, apart.measured) == ("inconclusive", "not_comparable", None)
    alone, single = runs("ce", 1.0), runs("ce", 1.0) + runs("kd", 1.5, durations=(4,))
    for found in (alone, single, runs("ce", 1.0, durations=(1, 2)) + runs("kd", 1.5)):
        verdict = judged(found, iso_entry())
        assert (verdict.verdict, verdict.reason) == ("not run", "no_records")


def fitted(method, losses, gap, seeds=4):
    """Runs with these training losses; accuracy is 0.8 - 0.1 log2(loss) + gap, plus what all runs of a seed share."""
    return [
        record(
            method,
            seed,
            metrics=[
                Metric(name="loss", value=losses[seed % len(losses)], unit="nat", split="train"),
                Metric(
                    name="accuracy", value=0.8 - 0.1 * math.log2(losses[seed % len(losses)]) + gap + 0.01 * seed,
                    unit="fraction", split="test",
                ),
            ],
        )
        for seed in range(seeds)
    ]  # fmt: skip


def test_an_arm_is_compared_with_the_baseline_at_its_own_training_loss():
    plain = fitted("plain@9", [0.1], 0.0) + fitted("plain:0.5@9", [0.4], 0.0) + fitted("plain:0.1@9", [1.6], 0.0)
    check = {"relation": "greater", "tolerance": 0.005, "matched": {
        "arm": "mk@9", "baseline": ["plain:0.1@9", "plain:0.5@9", "plain@9"]}}  # fmt: skip
    one = entry(terms=None, **check)
    verdict = judged(plain + fitted("mk@9", [0.3, 0.7, 0.5, 0.2], 0.02), one)
    assert verdict.measured == pytest.approx(0.02) and verdict.verdict == "reproduced" and verdict.n_seeds == 4
    assert judged(fitted("mk@9", [0.3], 0.02), one).verdict == "not run"
    outside = judged(plain + fitted("mk@9", [1.5, 1.7, 1.7, 1.7], 0.02), one)
    assert (outside.verdict, outside.reason) == ("inconclusive", "not_comparable")
    hinges = judged(plain + fitted("mk@9", [1.5, 1.62, 1.62, 1.62], 0.02), one)
    assert hinges.reason == "not_comparable", "it is inside by the first seed alone"
    floor = fitted("plain@9", [0.4], 0.0) + fitted("plain:0.5@9", [0.39], 0.0) + fitted("plain:0.1@9", [1.6], 0.0)
    assert judged(floor + fitted("mk@9", [0.5], 0.02), one).reason == "not_comparable", "longer, but no lower"


def test_the_interval_at_equal_loss_is_that_of_paired_differences_where_losses_are_alike():
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 0.01, (3, 12))

    def runs(row: int, quality: float, loss: float) -> pd.DataFrame:
        return pd.DataFrame({"quality": quality + noise[row], "loss": loss})

    values = at_equal_loss(runs(0, 0.7, 0.2), [runs(1, 0.6, 0.4), runs(2, 0.8, 0.1)])
    paired = (0.7 + noise[0]) - 0.5 * (0.6 + noise[1] + 0.8 + noise[2])  # 0.2 is half-way, in logarithms
    assert values.to_numpy() == pytest.approx(paired, abs=1e-12)
