"""The Majority Kernels experiment: its cells, its arms on tiny models, what is chosen and counted, and bad input."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from experiments import majority_kernels as majority
from paper_repro import kernels, runner
from paper_repro.errors import UserError
from paper_repro.timing.majority_step import time_majority_steps

TIERS = ("smoke", "cpu", "gpu", "paper")
TRAIN = {
    "steps": 20, "global_batch": 32, "optimizer": "sgd", "lr": 0.1, "schedule": "one_cycle", "warmup_fraction": 0.25,
}  # fmt: skip
RATE = {"lr": 0.1, "weight_decay": 5e-4}


def config(*arms: dict[str, Any], **changes: Any) -> majority.MajorityConfig:
    student = {"model": "mlp", "options": {"in_features": 192, "hidden": [8, 8]}, "train": TRAIN}
    task = {
        "name": "digits", "dataset": "digits", "modality": "image", "validation_fraction": 0.2, "student": student,
        "wide": {"hidden": [16, 16]}, "sizes": [100, 60], "rates": [RATE], "tuning_seeds": 1, "seeds": 1, "arms": arms,
    }  # fmt: skip
    return majority.MajorityConfig.model_validate({"tier": "smoke", "tasks": [task | changes], "timing": []})


def fitted(arm: dict[str, Any], seed: int = 0, **changes: Any) -> majority.Fit:
    (task,) = config({"name": "arm", **arm}, **changes).tasks
    run = majority._run(task, task.arms[0], task.sizes[0], 1.0)
    return majority.fit(run, majority.settings_of(run, "cpu"), seed, "cpu")


def weights(found: majority.Fit) -> torch.Tensor:
    return torch.cat([value.flatten() for value in found.model.state_dict().values()])


def values(cell: runner.Cell) -> dict[str, float]:
    return {f"{one.split}/{one.name}": one.value for one in majority.compute(cell, "cpu").metrics}


@pytest.fixture(autouse=True)
def fresh() -> None:
    majority._examples_by_json.cache_clear()


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_has_its_own_cells_with_keys_of_their_own(tier: str) -> None:
    found = majority.cells(runner.load_config("majority", tier))
    assert len({cell.key() for cell in found}) == len(found) > 10
    assert [cell.stage for cell in found] == sorted(cell.stage for cell in found)


def test_at_the_cpu_tier_families_have_their_seeds_and_arms_that_are_compared_the_same_candidates() -> None:
    for task in runner.load_config("majority", "cpu").tasks:
        assert task.seeds >= (20 if task.student.model == "mlp" else 8)
        mapped = {arm.name for arm in task.arms if arm.mapped}
        assert mapped == {"plain", "plain-at-mk2", "mk2", "mk4", "noise"} and len(task.sizes) == 3
        borrowers = {arm.name for arm in task.arms if arm.rate_of is not None}
        assert borrowers == {
            "plain-at-mk2", "mk1", "mk2-lr", "mk2-lrk", "const2-lr", "const2-lrk", "plain-slow"
        }, "arms that are defined by the rates of another, and no more"  # fmt: skip


def test_one_copy_is_the_plain_model_and_so_is_no_noise() -> None:
    plain = weights(fitted({}))
    assert torch.equal(plain, weights(fitted({"method": "majority", "k": 1})))
    assert torch.equal(plain, weights(fitted({"method": "noise", "strengths": [0.0]})))
    assert torch.equal(plain, weights(fitted({"method": "dropout", "strengths": [0.0]})))
    assert not torch.equal(plain, weights(fitted({"method": "majority", "k": 2})))
    assert not torch.equal(plain, weights(fitted({}, seed=1)))


def test_paired_constant_copies_that_begin_equal_are_the_plain_model() -> None:
    arm = {"method": "majority", "k": 3, "law": "constant", "copies": "identical", "paired": True}
    torch.testing.assert_close(weights(fitted(arm)), weights(fitted({})), rtol=1e-4, atol=1e-5)


def test_unpaired_constant_copies_are_a_plain_model_that_moves_as_slowly_as_their_mean() -> None:
    copies = {"method": "majority", "k": 3, "law": "constant", "copies": "identical"}
    slow = weights(fitted({"method": "majority", "k": 1, "as_mean_of": 3}))
    torch.testing.assert_close(weights(fitted(copies)), slow, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(slow, weights(fitted({})), atol=1e-2)


def test_adam_divides_by_the_mean_square_of_the_coefficients() -> None:
    """The table of the fact sheet: the mean of k copies moves by 0.87, 0.82, 0.79, 0.75 of a plain step."""
    for k, share in ((2, 0.87), (3, 0.82), (4, 0.79), (8, 0.75)):
        assert 1 / kernels.pairing("dirichlet", k, "adamw") == pytest.approx(share, abs=0.006)
    assert kernels.pairing("constant", 4, "adamw") == 1 and kernels.pairing("uniform", 4, "sgd") == 4


def test_an_average_of_the_last_steps_is_between_them_and_an_ema_without_memory_is_the_plain_model() -> None:
    plain = weights(fitted({}))
    torch.testing.assert_close(weights(fitted({"method": "ema", "strengths": [0.0]})), plain)
    averaged = weights(fitted({"method": "swa", "strengths": [0.5]}))
    assert 0 < (averaged - plain).norm() < 0.5 * plain.norm()


def test_what_each_arm_costs_is_counted() -> None:
    arms = [
        {"name": "plain"}, {"name": "mk", "method": "majority", "k": 2, "paired": True},
        {"name": "ensemble", "method": "distilled", "k": 2, "strengths": [1]},
        {"name": "selected", "method": "selected"},
        {"name": "tuned", "method": "selected", "fine_tune": 0.5},
    ]  # fmt: skip
    found = {cell.method: values(cell) for cell in majority.cells(config(*arms))}
    student, wide = (2 * (192 * h + h * h + h * 10) for h in (8, 16))
    plain = 3 * student * 20 * 32
    expected = {"plain": 1, "mk": 1, "ensemble": 3, "selected": wide / student, "tuned": wide / student + 0.5}
    for arm, times in expected.items():
        assert found[arm]["train/training_flops"] == pytest.approx(times * plain, rel=0.01), arm
    runs = {arm: one["train/optimizer_runs"] for arm, one in found.items()}
    assert runs == {"plain": 1, "mk": 1, "ensemble": 3, "selected": 1, "tuned": 2}
    for one in found.values():
        assert one["train/different_keys"] == one["train/folding_difference"] == one["train/diverged"] == 0
        assert one["train/parameter_ratio"] == 1
    assert found["mk"]["train/spread"] > 0 and "train/spread" not in found["plain"]


def test_a_run_that_is_stopped_early_is_charged_for_its_steps() -> None:
    whole, half = (fitted({"method": "stopped", "strengths": [share]}) for share in (1.0, 0.5))
    assert torch.equal(weights(whole), weights(fitted({})))
    assert half.examples == whole.examples / 2 and not torch.equal(weights(half), weights(whole))


def test_nothing_is_recorded_of_models_that_choices_were_made_on() -> None:
    (task,) = (found := config({"name": "arm"}, rates=[{"lr": 0.1, "weight_decay": 0.0}] * 2)).tasks
    recorded = [cell.seed for cell in majority.cells(found) if cell.experiment == "student"]
    assert recorded == list(range(task.tuning_seeds, task.tuning_seeds + task.seeds)) and task.tuning_seeds > 0


def test_rate_and_strength_are_the_best_on_validation_data() -> None:
    arm = {"name": "noise", "method": "noise", "strengths": [0.2, 5.0]}
    rates = [{"lr": 1e-5, "weight_decay": 0.0}, {"lr": 0.1, "weight_decay": 0.0}]
    cells = majority.cells(config(arm, rates=rates))
    assert [cell.experiment for cell in cells] == ["tuning"] * 6 + ["student"]
    by_rate, by_strength, again = [[values(cell) for cell in cells[i : i + 2]] for i in (0, 2, 4)]
    assert [one["train/lr"] for one in by_rate] == [1e-5, 0.1]
    assert [one["train/strength"] for one in by_rate] == [0.2, 0.2], "rates are compared at the first strength"
    best = max(by_rate, key=lambda one: one["validation/accuracy"])
    assert [one["train/lr"] for one in by_strength] == [best["train/lr"]] * 2
    strongest = max(by_strength, key=lambda one: one["validation/accuracy"])
    assert [one["train/strength"] for one in again] == [strongest["train/strength"]] * 2, "and then once more"
    best = max(again, key=lambda one: one["validation/accuracy"])
    chosen = values(cells[-1])
    assert (chosen["train/lr"], chosen["train/strength"]) == (best["train/lr"], strongest["train/strength"])


def test_a_shorter_run_and_a_borrower_have_the_settings_of_whom_they_belong_to() -> None:
    rates = [{"lr": 1e-5, "weight_decay": 0.0}, {"lr": 0.1, "weight_decay": 0.0}]
    noise = {"name": "noise", "method": "noise", "strengths": [0.2, 5.0], "durations": [1, 0.5]}
    found = majority.cells(config(noise, {"name": "short", "rate_of": "noise", "durations": [0.5]}, rates=rates))
    students = {cell.method: values(cell) for cell in found if cell.experiment == "student"}
    settings = [{name: one.get(f"train/{name}") for name in ("lr", "strength")} for one in students.values()]
    assert list(students) == ["noise", "noise:0.5", "short:0.5"] and settings[0] == settings[1]
    assert settings[2] == {"lr": settings[0]["lr"], "strength": None}


def test_a_run_that_diverges_counts_with_the_model_it_began_with() -> None:
    (cell,) = majority.cells(config({"name": "plain"}, rates=[{"lr": 1e9, "weight_decay": 0.0}]))
    found = values(cell)
    assert found["train/diverged"] == 1 and found["test/accuracy"] < 0.3


def test_arms_of_a_repetition_see_the_same_examples_and_repetitions_others() -> None:
    (task,) = config({"name": "plain"}).tasks
    examples = majority._examples(majority._run(task, task.arms[0], 100, 1.0).where, "cpu")
    first, again, other = (majority.subset(examples, 100, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len(np.unique(first)) == 100 and set(majority.subset(examples, 60, 0)) <= set(first)


def test_traces_are_kept_and_change_nothing() -> None:
    arm = {"name": "mk", "method": "majority", "k": 2, "paired": True, "traced": 1}
    traced, bare = (majority.cells(config(arm | {"traced": number}))[0] for number in (1, 0))
    found = majority.compute(traced, "cpu")
    assert len(found.samples["step"]) == len(found.samples["spread"]) == majority.Trace.LOOKS + 1
    layers = [name for name in found.samples if name.startswith("spread/")]
    assert len(layers) == 3, "each kernel's is kept"
    means = np.mean([found.samples[name] for name in layers], axis=0)
    assert found.samples["spread"] == pytest.approx(list(means))
    assert found.samples["step"][-1] == 20 and all(value > 0 for value in found.samples["spread"])
    same = {one.name: one.value for one in majority.compute(bare, "cpu").metrics if one.name != "seconds"}
    assert {one.name: one.value for one in found.metrics if one.name != "seconds"} == same


def test_a_step_of_majority_kernels_is_timed_beside_a_plain_one() -> None:
    found = time_majority_steps(
        "mlp", {"in_features": 48, "hidden": [8]}, batch=4, ks=[1, 3], optimizer="sgd", rounds=3, block_s=0.005
    )
    metrics = {one["name"]: one["value"] for one in found["metrics"]}
    overhead = np.median(np.divide(found["samples"]["mk3/step"], found["samples"]["plain/step"]))
    assert metrics["overhead/mk3"] == pytest.approx(overhead)
    biases = 8 + 10
    plain = 48 * 8 + 8 * 10 + biases
    copies = plain - biases  # of each: three weights and momenta, and a mixture with its gradient
    assert metrics["memory_ratio/mk3"] == pytest.approx((copies * (3 + 3 + 2) + 3 * biases) / (3 * plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": [{"name": "a", "rate_of": "b"}]}, "takes the rates of 'b'"),
        ({"arms": [{"name": "b"}, {"name": "a", "rate_of": "b", "mapped": True}]}, "none of its own at all its sizes"),
    ],
)
def test_bad_configurations_are_one_sentence(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        majority.cells(config(**change) if "arms" not in change else config(*change["arms"]))


def test_more_examples_than_there_are_is_one_sentence() -> None:
    (cell,) = majority.cells(config({"name": "plain"}, sizes=[10_000]))
    with pytest.raises(UserError, match="not 10000; choose smaller sizes"):
        majority.compute(cell, "cpu")


def test_own_data_takes_the_tiers_recipe_at_its_first_size() -> None:
    found = majority.cells(runner.load_config("majority", "smoke"), data="digits")
    assert {cell.dataset for cell in found} == {"digits"} and not any("@" in cell.method for cell in found)


@pytest.mark.parametrize(("tier", "shape"), [("smoke", (32, 32)), ("cpu", (32, 32)), ("cpu", (20, 28))])
def test_own_images_of_any_size_and_few_of_them_can_be_used(tier: str, shape: tuple[int, int], tmp_path: Path) -> None:
    write_images(tmp_path / "own.parquet", 90, shape)
    own = runner.load_config("majority", tier)
    cells = majority.cells(own, data=str(tmp_path / "own.parquet"), seeds=1)
    sizes = {cell.params["run"]["size"] for cell in cells}
    assert len(sizes) == 1 and 50 < sizes.pop() < 90, "all that is left for training"
    (plain,) = [cell for cell in cells if cell.method == "plain" and cell.experiment == "student"]
    run = majority.Run.model_validate(plain.params["run"])
    few = run.student.model_copy(update={"train": run.student.train.model_copy(update={"steps": 2, "epochs": None})})
    short = run.model_copy(update={"student": few, "rates": run.rates[:1]})
    found = majority.compute(plain.model_copy(update={"params": {"run": short.plain()}}), "cpu")
    assert {metric.name for metric in found.metrics} >= {"accuracy", "loss"}


def write_images(path: Path, rows: int, shape: tuple[int, int]) -> None:
    """Three classes of images of noise, as a parquet file."""
    rng, images = np.random.default_rng(0), []
    for _ in range(rows):
        image = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(image, format="png")
        images.append(image.getvalue())
    pd.DataFrame({"img": images, "label": np.arange(rows) % 3}).to_parquet(path)


def test_fused_training_is_used_where_it_is_exact() -> None:
    for arm, fused in (({"k": 2}, True), ({"k": 1}, False), ({"k": 2, "granularity": "unit"}, False)):
        (task,) = config({"name": "arm", "method": "majority", **arm}).tasks
        run = majority._run(task, task.arms[0], 100, 1.0)
        examples = majority._examples(run.where, "cpu")
        model = examples.build(run.student, 0)
        majority.prepare(model, run, majority.settings_of(run, "cpu"), 0, examples)
        assert kernels.is_fused(model) is fused
