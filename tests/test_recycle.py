"""The Reduce, Reuse, Recycle experiment: its cells, its arms on tiny models, what is counted, and bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import reduce_reuse_recycle as recycle
from paper_repro import runner
from paper_repro.distill.kd import Distillation, Window
from paper_repro.distill.teacher import ModelSpec
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir
from paper_repro.train import TrainConfig

TIERS = ("smoke", "cpu", "gpu", "paper")
SGD = TrainConfig(epochs=1, global_batch=64, optimizer="sgd", lr=0.1, schedule="one_cycle", warmup_fraction=0.3)


def net(hidden: int, **changes: object) -> ModelSpec:
    options = {"in_features": 192, "hidden": [hidden]}
    return ModelSpec(model="mlp", options=options, train=SGD.model_copy(update=changes))


def task(*arms: recycle.Arm, **changes: object) -> recycle.Task:
    found = recycle.Task(
        dataset="digits", modality="image", validation_fraction=0.2, student=net(8), durations=[0.5, 1], lrs=[0.1],
        tuned_at=1, tuning_seeds=1, teachers={"a": net(16, epochs=2), "b": net(8, epochs=2, lr=0.05)}, arms=list(arms),
    )  # fmt: skip
    return found.model_copy(update=changes)


def arm(name: str = "arm", **fields: object) -> recycle.Arm:
    return recycle.Arm.model_validate({"name": name, "seeds": 1, **fields})


def cells(*arms: recycle.Arm, **changes: object) -> list[runner.Cell]:
    return recycle.cells(recycle.RecycleConfig(tier="smoke", tasks=[task(*arms, **changes)], timing=[]))


def weights(one: recycle.Arm, duration: float = 1) -> torch.Tensor:
    model = recycle.trained(recycle._run(task(one), one, duration), 0, "cpu")[0]
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def values(cell: runner.Cell) -> dict[str, float]:
    return {f"{metric.split}/{metric.name}": metric.value for metric in recycle.compute(cell, "cpu").metrics}


def _accuracy(run: recycle.Run, seed: int) -> float:
    """On validation data."""
    measured = recycle._examples(run.where, "cpu").quality(
        run.student, recycle.trained(run, seed, "cpu")[0], "validation"
    )
    return next(one.value for one in measured if one.name == "accuracy")


@pytest.fixture(autouse=True)
def fresh() -> None:
    for cached in (recycle._examples_by_json, recycle._trained_by_json, recycle._test_quality_by_json):
        cached.cache_clear()


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_has_its_own_cells_with_keys_of_their_own(tier: str) -> None:
    found = recycle.cells(runner.load_config("recycle", tier))
    assert len({cell.key() for cell in found}) == len(found) > 10
    assert [cell.stage for cell in found] == sorted(cell.stage for cell in found)


def test_at_the_cpu_tier_every_point_of_a_curve_has_three_seeds_and_every_curve_two_points() -> None:
    for one in runner.load_config("recycle", "cpu").tasks:
        assert all(arm.seeds >= 3 and len(arm.durations or one.durations) >= 2 for arm in one.arms)
        assert one.arms[0].name == "ce" and len(one.teachers) >= 2


def test_a_window_that_is_empty_and_a_weight_of_zero_are_no_distillation() -> None:
    plain = weights(arm())
    assert torch.equal(plain, weights(arm(kd=Distillation(window=Window(end=0.0)), teachers=["a"])))
    asked = Distillation(task_weight=1.0, kd_weight=0.0)
    assert torch.equal(plain, weights(arm(kd=asked, teachers=["a", "b"], draw=1))), "a teacher moves no random number"
    assert not torch.equal(plain, weights(arm(kd=Distillation(), teachers=["a"])))


def test_logits_from_a_cache_teach_what_the_teacher_in_the_loop_teaches() -> None:
    in_the_loop = weights(arm(kd=Distillation(temperature=2.0), teachers=["a"]))
    cached = weights(arm(kd=Distillation(temperature=2.0), teachers=["a"], cached=True))
    assert torch.allclose(in_the_loop, cached, atol=1e-5)


def test_what_a_run_costs_is_counted() -> None:
    half = arm(kd=Distillation(window=Window(end=0.5)), teachers=["a", "b"])
    found = values(next(cell for cell in cells(half) if cell.method == "arm@1"))
    steps = found["train/steps"]
    assert steps == round(0.8 * 1437 / 64) and found["train/examples"] == 64 * steps
    assert found["train/teacher_passes"] == 2 * np.ceil(steps / 2)
    student, a, b = (2 * (192 * hidden + hidden * 10) for hidden in (8, 16, 8))  # multiply-adds count as two
    by_hand = 64 * (3 * student * steps + (a + b) / 2 * found["train/teacher_passes"])
    assert found["train/training_flops"] == pytest.approx(by_hand, rel=0.05)
    assert 0 < found["train/teacher_seconds"] < found["train/seconds"]
    assert found["train/teacher_training_seconds"] > 0 and found["train/labelling_seconds"] == 0
    assert found["test/teacher_accuracy"] > 0.5


def test_a_teacher_begins_where_no_student_does() -> None:
    spec = recycle._teacher(task(), net(8, lr=1e-9))
    student = recycle._examples(spec.where, "cpu").build(spec.spec, 0).state_dict()
    teacher = recycle._trained(spec, "cpu").model.state_dict()
    assert not any(torch.allclose(student[name], teacher[name], atol=1e-3) for name in student if "weight" in name)


def test_the_floor_of_glue_is_an_encoder_that_was_not_trained() -> None:
    glue = recycle.Glue(arms=["ce", "kd"], duration=1, seeds=2, tasks=["sst2", "rte"], recipe={"train": SGD})  # type: ignore[arg-type]
    found = cells(arm("ce"), arm("kd"), arm("other"), glue=glue)
    methods = [cell.method for cell in found if cell.experiment == "glue" and cell.dataset == "rte"]
    assert sorted(methods) == ["ce@0", "ce@0", "ce@1", "ce@1", "kd@1", "kd@1"]


def test_a_cached_arm_is_charged_for_its_labels_and_asks_nobody() -> None:
    cached = arm(kd=Distillation(), teachers=["a"], cached=True)
    found = cells(cached)
    assert [cell.experiment for cell in found] == ["teacher", "teacher", "labels", "student", "student"]
    measured = values(found[-1])
    assert measured["train/teacher_passes"] == measured["train/teacher_seconds"] == 0
    assert measured["train/labelling_seconds"] == values(found[2])["train/seconds"] > 0


def test_the_rate_is_the_best_on_validation_data_and_borrowed_where_an_arm_says_so() -> None:
    owner, borrower = arm("ce"), arm("smooth", label_smoothing=0.1, rate_of="ce")
    found = cells(owner, borrower, lrs=[1e-5, 0.2], tuning_seeds=2)
    tuning = [cell for cell in found if cell.experiment == "tuning"]
    assert [cell.method for cell in tuning] == ["ce@1", "ce@1"]
    qualities = {values(cell)["train/lr"]: values(cell)["validation/accuracy"] for cell in tuning}
    run = recycle.Run.model_validate(tuning[1].params["run"])
    each = [_accuracy(run, seed) for seed in range(2)]
    assert qualities[0.2] == pytest.approx(np.mean(each)) and each[0] != each[1]
    for cell in found:
        if cell.experiment == "student":
            assert recycle.rate(recycle.Run.model_validate(cell.params["run"]), "cpu") == max(
                qualities, key=lambda lr: qualities[lr]
            )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (arm(kd=Distillation(), teachers=["nobody"]), "names 'nobody', which its task lacks"),
        (arm(rate_of="nothing"), "names 'nothing', which its task lacks"),
        (arm(kd=Distillation()), "needs 'kd' and teachers together"),
        (arm(kd=Distillation(), teachers=["a", "b"], cached=True), "a single teacher and no augmentation"),
        (arm(kd=Distillation(), teachers=["a"], cached=True, augment=True), "a single teacher and no augmentation"),
    ],
)
def test_an_arm_that_makes_no_sense_is_one_sentence(wrong: recycle.Arm, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        cells(wrong)


def test_more_teachers_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(UserError, match="3 of 2 teachers cannot be drawn"):
        weights(arm(kd=Distillation(), teachers=["a", "b"], draw=3))


def test_a_pool_with_one_broken_checkpoint_names_the_file() -> None:
    taught = arm(kd=Distillation(), teachers=["a", "b"])
    weights(taught)
    broken = sorted((cache_dir() / "models").glob("*.safetensors"))[0]
    content = broken.read_bytes()
    try:
        broken.write_bytes(content[:-8] + b"12345678")
        recycle._trained_by_json.cache_clear()
        with pytest.raises(UserError, match=f"{broken.name} are not those that were saved there"):
            weights(taught)
    finally:
        broken.write_bytes(content)


def test_own_images_and_own_text_take_the_recipe_of_their_kind(tmp_path: Path) -> None:
    config = runner.load_config("recycle", "smoke")
    path = tmp_path / "own.parquet"
    texts = [f"document {number} about {number % 7} things" for number in range(60)]
    pd.DataFrame({"text": texts, "label": [number % 2 for number in range(60)]}).to_parquet(path)
    own = recycle.cells(config, data=str(path), seeds=1)
    assert {cell.experiment for cell in own} >= {"teacher", "student"} and "glue" not in {c.experiment for c in own}
    assert {cell.model for cell in own} == {"mlm"}
    assert {cell.model for cell in recycle.cells(config, data="digits", seeds=1)} >= {"mlp"}
    text_only = config.model_copy(update={"tasks": [config.tasks[1]]})
    with pytest.raises(UserError, match="has no image task to take the recipe from"):
        recycle.cells(text_only, data="digits")


def test_a_rate_with_which_training_diverges_is_not_chosen_and_such_a_student_is_a_failure(tmp_path: Path) -> None:
    wild = arm()
    found = cells(wild, lrs=[0.1, 1e30])
    tuning = [cell for cell in found if cell.experiment == "tuning"]
    assert values(tuning[0])["validation/accuracy"] > 0 == values(tuning[1])["validation/accuracy"]
    assert recycle.rate(recycle._run(task(wild, lrs=[0.1, 1e30]), wild, 1), "cpu") == 0.1
    student = next(cell for cell in cells(wild, lrs=[1e30]) if cell.experiment == "student")
    assert runner.compute_cell(student, tmp_path, "cpu", 1, 1) == "failed", "and the other cells go on"
