"""The trainer: what it promises about randomness, resuming, processes and clocks. Run as a script, it is a worker."""

import copy
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import paper_repro.train.loop
import paper_repro.train.state
from paper_repro import kernels
from paper_repro.config import validate
from paper_repro.errors import UserError
from paper_repro.paths import REPO
from paper_repro.train import (
    Loss,
    Step,
    TrainConfig,
    distributed,
    forward,
    lr_at,
    parameter_groups,
    predict,
    read_checkpoint,
    train,
)
from paper_repro.train.batches import Steps

CONFIG = TrainConfig(
    epochs=3, global_batch=8, optimizer="sgd", lr=0.1, weight_decay=1e-3, schedule="linear", warmup_fraction=0.2
)
EXAMPLES = 30  # no multiple of the batch: batches reach over the seam between epochs


class Points:
    """Two noisy classes in 6 dimensions, in float64 so that 'equal' can be asked for tightly."""

    def __init__(self, examples: int = EXAMPLES, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(0)
        self.points = torch.randn(examples, 6, generator=generator, dtype=torch.float64)
        self.labels = (self.points.sum(1) > 0).long()
        self.noise = noise
        self.seen: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.points)

    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        self.seen.append(indices)
        noise = self.noise * torch.randn(len(indices), 6, generator=generator, dtype=torch.float64)
        return {"index": indices, "label": self.labels[indices], "pixels": self.points[indices] + noise}


def small_net(dropout: float = 0.2, seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2)).double()


def cross_entropy(model: nn.Module, batch: dict[str, Tensor], _: object = None) -> Tensor:
    return nn.functional.cross_entropy(forward(model, batch), batch["label"])


def failing_at(step: int, fail: Callable[[], Any]) -> Loss:
    """Cross-entropy that calls ``fail`` when asked for the loss of step ``step``."""
    calls = 0

    def loss(model: nn.Module, batch: dict[str, Tensor], _: object) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            fail()
        return cross_entropy(model, batch)

    return loss


class Interrupted(Exception):
    pass


def interrupt() -> None:
    raise Interrupted


def same(first: Any, second: Any) -> bool:
    """Bit-for-bit equality of nested containers of tensors."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


# --- settings, schedule, optimiser


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 5}, "exactly one"),
        ({"epochs": None}, "exactly one"),
        ({"schedule": "one_cycle", "warmup_fraction": 0}, "one_cycle needs"),
        ({"global_batchsize": 8}, "did you mean 'global_batch'"),
        ({"global_batch": 0}, "global_batch"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate({**CONFIG.model_dump(), **change}, TrainConfig, "test")


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("linear", 0.2, [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("constant", 0.5, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]),
        ("cosine", 0.0, [1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
    ],
)
def test_learning_rates_by_hand(schedule: str, warmup: float, expected: list[float]) -> None:
    total = 10 if schedule == "constant" else len(expected)
    config = CONFIG.model_copy(update={"schedule": schedule, "warmup_fraction": warmup, "lr": 1.0})
    assert [lr_at(step, total, config) for step in range(len(expected))] == pytest.approx(expected)


@pytest.mark.parametrize(("total", "warmup"), [(20, 0.3), (100, 0.05), (7, 0.5)])
def test_one_cycle_is_that_of_torch(total: int, warmup: float) -> None:
    config = CONFIG.model_copy(update={"schedule": "one_cycle", "warmup_fraction": warmup, "lr": 0.4})
    optimizer = torch.optim.SGD(small_net().parameters(), lr=0.4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total, pct_start=warmup, cycle_momentum=False)
    theirs = []
    for _ in range(total):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if len(theirs) < total:
            scheduler.step()
    assert [lr_at(step, total, config) for step in range(total)] == pytest.approx(theirs)


@given(
    st.sampled_from(["one_cycle", "cosine", "linear", "constant"]),
    st.floats(0.01, 0.99),
    st.integers(1, 200),
)
def test_learning_rate_is_positive_and_at_most_lr(schedule: str, warmup: float, total: int) -> None:
    config = CONFIG.model_copy(update={"schedule": schedule, "warmup_fraction": warmup, "lr": 1.0})
    assert all(0 < lr_at(step, total, config) <= 1 + 1e-12 for step in range(total))


def test_norms_and_biases_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2))
    decayed, spared = parameter_groups(model, CONFIG)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert decayed["weight_decay"] == CONFIG.weight_decay
    assert len(spared["params"]) == 6
    assert spared["weight_decay"] == 0
    (everything,) = parameter_groups(model, CONFIG.model_copy(update={"decay_norms": True}))
    assert len(everything["params"]) == 8


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_step_is_that_of_a_bare_loop(optimizer: Literal["sgd", "adamw"]) -> None:
    config = TrainConfig(
        steps=1, global_batch=EXAMPLES, optimizer=optimizer, lr=0.1, weight_decay=0.1, decay_norms=True,
        schedule="constant", grad_clip=0.05,
    )  # fmt: skip
    ours, bare = small_net(dropout=0), small_net(dropout=0)
    source = Points(noise=0)
    cross_entropy(ours, source.batch(torch.arange(3), torch.Generator())).backward()  # left-over gradients
    train(ours, source, cross_entropy, config, seed=0)
    cross_entropy(bare, source.batch(torch.arange(EXAMPLES), torch.Generator())).backward()
    nn.utils.clip_grad_norm_(bare.parameters(), 0.05)
    if optimizer == "sgd":
        torch.optim.SGD(bare.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1).step()
    else:
        torch.optim.AdamW(bare.parameters(), lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(ours.state_dict(), bare.state_dict(), rtol=1e-10, atol=1e-12)


# --- data order and randomness


def order(config: TrainConfig = CONFIG, **settings: Any) -> Tensor:
    source = Points()
    train(small_net(), source, cross_entropy, config, **{"seed": 0, **settings})
    return torch.cat(source.seen)


def test_every_epoch_shows_every_example_once_in_a_new_order() -> None:
    seen = order(CONFIG.model_copy(update={"epochs": 4.0}))[: 3 * EXAMPLES].split(EXAMPLES)
    assert all(torch.equal(epoch.sort().values, torch.arange(EXAMPLES)) for epoch in seen)
    assert not torch.equal(seen[0], seen[1])


def test_the_order_depends_on_seed_and_axes_and_nothing_else() -> None:
    first = order()
    torch.rand(3)  # the state of the global generator does not matter
    longer = order(CONFIG.model_copy(update={"global_batch": 5, "lr": 0.01}))  # nor do the other settings
    common = min(len(first), len(longer))
    assert torch.equal(first[:common], longer[:common])
    assert not torch.equal(first, order(seed=1))
    assert not torch.equal(first, order(stream_axes={"dataset": "other"}))


def test_the_callers_generator_and_threads_are_left_alone() -> None:
    threads = torch.get_num_threads()
    model = small_net()
    before = torch.get_rng_state()
    train(model, Points(), cross_entropy, CONFIG, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_workers_change_nothing() -> None:
    weights = []
    for workers in (0, 2):
        model = small_net()
        train(model, Points(), cross_entropy, CONFIG.model_copy(update={"workers": workers}), seed=0)
        weights.append(model.state_dict())
    assert same(*weights)


@pytest.mark.parametrize("micro", [1, 4])
def test_accumulation_is_no_accumulation(micro: int) -> None:
    whole, parts = small_net(dropout=0), small_net(dropout=0)
    first = train(whole, Points(), cross_entropy, CONFIG, seed=0)
    second = train(parts, Points(), cross_entropy, CONFIG.model_copy(update={"micro_batch": micro}), seed=0)
    torch.testing.assert_close(whole.state_dict(), parts.state_dict(), rtol=1e-10, atol=1e-12)
    assert first.history == pytest.approx(second.history, rel=1e-6)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="choose a divisor of 8"):
        train(small_net(), Points(), cross_entropy, CONFIG.model_copy(update={"micro_batch": 3}), seed=0)
    with pytest.raises(UserError, match="no training examples"):
        train(small_net(), Points(0), cross_entropy, CONFIG, seed=0)


# --- what is reported


def test_history_is_the_mean_loss_of_each_epoch() -> None:
    losses = iter(range(100))
    config = CONFIG.model_copy(update={"epochs": 2.5, "global_batch": 4})
    result = train(
        small_net(), Points(8), lambda model, batch, _: 0 * cross_entropy(model, batch) + next(losses), config, seed=0
    )
    assert (result.steps, result.examples, result.history) == (5, 20, [0.5, 2.5, 4.0])


def test_a_loss_that_is_not_finite_names_its_step(tmp_path: Path) -> None:
    model = small_net()
    spoil = failing_at(5, lambda: nn.init.constant_(next(model.parameters()), math.nan))
    with pytest.raises(UserError, match="nan at step 5;"):
        train(model, Points(), spoil, CONFIG, seed=0, checkpoint=tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()  # a spoilt state is never saved


def test_clocks_are_separate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = 0.0

    def spend(seconds: float, result: Any = None) -> Any:
        nonlocal now
        now += seconds
        return result

    monkeypatch.setattr(paper_repro.train.loop, "perf_counter", lambda: now)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(paper_repro.train.state, "write_atomic", lambda path, content: spend(1000))
    source = Points()
    make = source.batch
    monkeypatch.setattr(source, "batch", lambda indices, generator: spend(1, make(indices, generator)))
    config = CONFIG.model_copy(update={"epochs": None, "steps": 5, "compile": True})
    asked = []

    def loss(model: nn.Module, batch: dict[str, Tensor], step: Step) -> Tensor:
        asked.append((step.number, step.total))
        with step.clock("teacher_s"):
            spend(3)
        return spend(10, cross_entropy(model, batch))

    result = train(small_net(), source, loss, config, seed=0, checkpoint=tmp_path / "c.pt")
    assert result.clocks == {"data_s": 5, "train_s": 40, "teacher_s": 15, "io_s": 1000, "compile_s": 10}
    assert asked == [(step, 5) for step in range(5)]


class Images(Points):
    def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        batch = super().batch(indices, generator)
        return {**batch, "pixels": batch["pixels"].float().reshape(-1, 3, 2, 1).expand(-1, -1, -1, 2)}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_and_channels_last(precision: str, tmp_path: Path) -> None:
    seen = []

    def loss(model: nn.Module, batch: dict[str, Tensor], _: object) -> Tensor:
        logits = forward(model, batch)
        seen.append((logits.dtype, batch["pixels"].is_contiguous(memory_format=torch.channels_last)))
        return nn.functional.cross_entropy(logits, batch["label"])

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    config = CONFIG.model_copy(update={"precision": precision, "channels_last": True, "epochs": 20.0})
    result = train(model, Images(), loss, config, seed=0, checkpoint=tmp_path / "c.pt")
    assert set(seen) == {({"bf16": torch.bfloat16, "fp16": torch.float16}[precision], True)}
    assert result.history[-1] < result.history[0]
    assert ("scale" in read_checkpoint(tmp_path / "c.pt")["scaler"]) == (precision == "fp16")


def test_majority_kernels_train_on_channels_last() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    for number in range(2):
        copied = kernels.expand(copy.deepcopy(model), 2, fresh=lambda: copy.deepcopy(model))
        if number:
            kernels.fuse(copied)
        config = CONFIG.model_copy(update={"channels_last": True, "optimizer": "sgd", "epochs": 2.0})

        def loss(net: nn.Module, batch: dict[str, Tensor], step: Step, drawn: nn.Module = copied) -> Tensor:
            kernels.draw(drawn, step.number)
            return nn.functional.cross_entropy(forward(net, batch), batch["label"])

        result = train(copied, Images(), loss, config, seed=0)
        assert result.history[-1] < result.history[0]


# --- checkpoint and resume


def run_through(path: Path, seed: int = 0, config: TrainConfig = CONFIG) -> dict[str, Any]:
    """Train without interruption and return the final checkpoint, without the clocks."""
    train(small_net(), Points(), cross_entropy, config, seed=seed, checkpoint=path)
    return {name: value for name, value in read_checkpoint(path).items() if name != "clocks"}


def run_half(path: Path, step: int = 5, config: TrainConfig = CONFIG) -> None:
    """Train until an exception at ``step``, with a checkpoint after every step before it."""
    eager = config.model_copy(update={"checkpoint_every_s": 0.0})
    with pytest.raises(Interrupted):
        train(small_net(), Points(), failing_at(step, interrupt), eager, seed=0, checkpoint=path)
    assert read_checkpoint(path)["sampler"]["step"] == step


@pytest.mark.parametrize("step", [1, 5, 10])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resuming_is_running_through(tmp_path: Path, step: int, optimizer: str) -> None:
    config = CONFIG.model_copy(update={"optimizer": optimizer, "lr": 0.02})
    run_half(tmp_path / "half.pt", step, config)
    assert same(run_through(tmp_path / "half.pt", config=config), run_through(tmp_path / "whole.pt", config=config))


def test_resuming_after_sigkill_is_running_through(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPO), "TEST_TRAIN_WORKER": "killed"},
    )
    assert killed.returncode == -signal.SIGKILL
    assert 0 < read_checkpoint(tmp_path / "killed.pt")["sampler"]["step"] < 11
    assert same(run_through(tmp_path / "killed.pt"), run_through(tmp_path / "whole.pt"))


@pytest.mark.parametrize("part", ["generators", "position", "optimizer", "seed"])
def test_resuming_without_one_part_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The negative control: were that part not restored, the comparison above would notice."""
    whole = run_through(tmp_path / "whole.pt", seed=1 if part == "seed" else 0)
    run_half(tmp_path / "half.pt")
    if part == "generators":
        monkeypatch.setattr(paper_repro.train.state, "set_rng", lambda state, device: None)
    elif part == "position":
        item = Steps.__getitem__
        monkeypatch.setattr(Steps, "__getitem__", lambda self, step: item(self, step - 5))
    elif part == "optimizer":
        monkeypatch.setattr(torch.optim.SGD, "load_state_dict", lambda self, state: None)
    assert not same(run_through(tmp_path / "half.pt")["model"], whole["model"])


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    whole = run_through(tmp_path / "c.pt")
    model = small_net()
    result = train(model, Points(), failing_at(0, interrupt), CONFIG, seed=0, checkpoint=tmp_path / "c.pt")
    assert same(dict(model.state_dict()), whole["model"])
    assert len(result.history) == 3


def test_clocks_and_environments_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(paper_repro.train.state, "capture", lambda: {"python": "elsewhere"})
        run_half(tmp_path / "c.pt")
    saved = read_checkpoint(tmp_path / "c.pt")["clocks"]
    result = train(small_net(), Points(), cross_entropy, CONFIG, seed=0, checkpoint=tmp_path / "c.pt")
    assert all(result.clocks[name] > saved[name] for name in ("data_s", "train_s", "io_s"))
    assert result.environments == [{"python": "elsewhere"}]
    assert len(read_checkpoint(tmp_path / "c.pt")["environments"]) == 2


@pytest.mark.parametrize("change", [{"lr": 0.2}, {"epochs": 4.0}, {"micro_batch": 4}])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run_half(tmp_path / "c.pt")
    with pytest.raises(UserError, match="belongs to another configuration"):
        run_through(tmp_path / "c.pt", config=CONFIG.model_copy(update=change))


def test_a_checkpoint_of_another_seed_is_refused_and_workers_do_not_matter(tmp_path: Path) -> None:
    run_half(tmp_path / "c.pt")
    with pytest.raises(UserError, match="belongs to another configuration"):
        run_through(tmp_path / "c.pt", seed=1)
    run_through(tmp_path / "c.pt", config=CONFIG.model_copy(update={"workers": 1}))


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.pt"
    weight = run_through(path)["model"]["0.weight"]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[content.find(weight.numpy().tobytes()) + 3] ^= 1
    path.write_bytes({"cut": bytes(content[: len(content) // 2]), "flipped": bytes(content), "other": b"{}"}[damage])
    with pytest.raises(UserError, match=r"c\.pt is damaged"):
        run_through(path)


# --- prediction


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_predictions_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    model, source = small_net(), Points(noise=0)
    model.train()
    logits = predict(model, source, batch_size)
    assert model.training  # the mode is given back; dropout was off
    assert logits.dtype == torch.float32
    expected = model.eval()(source.points).float()
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_a_batch_that_does_not_fit_is_halved() -> None:
    class Cramped(Points):
        def batch(self, indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
            if len(indices) > room:
                raise torch.OutOfMemoryError("too large")
            return super().batch(indices, generator)

    room = 3
    source = Cramped(noise=0)
    assert torch.equal(predict(small_net(), source, 16), predict(small_net(), Points(noise=0), 2))
    assert torch.equal(torch.cat(source.seen), torch.arange(EXAMPLES))
    room = 0
    with pytest.raises(torch.OutOfMemoryError):
        predict(small_net(), source, 16)


# --- several processes


def majority_net() -> nn.Module:
    """Two copies of every kernel, which differ."""
    return kernels.expand(small_net(dropout=0), 2, fresh=lambda: small_net(dropout=0, seed=2))


def drawing(model: nn.Module) -> Loss:
    """The loss after a draw that all processes share."""

    def loss(net: nn.Module, batch: dict[str, Tensor], step: Step) -> Tensor:
        kernels.draw(model, step.number)
        return cross_entropy(net, batch, step)

    return loss


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where two processes under torchrun have left what ``_distributed_worker`` computes."""
    folder = tmp_path_factory.mktemp("two")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, str(folder)],
        env={**os.environ, "PYTHONPATH": str(REPO), "TEST_TRAIN_WORKER": "distributed", "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=100,
    )
    return folder


@pytest.mark.parametrize("micro", [None, 2])
def test_two_processes_train_as_one(two_processes: Path, micro: int | None) -> None:
    model = small_net(dropout=0)
    result = train(model, Points(), cross_entropy, CONFIG, seed=0)
    for rank in (0, 1):
        there = torch.load(two_processes / f"{rank}.pt", weights_only=True)[f"train-{micro}"]
        torch.testing.assert_close(dict(model.state_dict()), there["model"], rtol=1e-10, atol=1e-12)
        assert there["history"] == pytest.approx(result.history, rel=1e-5)


def test_two_processes_train_majority_kernels_as_one(two_processes: Path) -> None:
    model = majority_net()
    train(model, Points(), drawing(model), CONFIG, seed=0)
    for rank in (0, 1):
        there = torch.load(two_processes / f"{rank}.pt", weights_only=True)["majority"]
        torch.testing.assert_close(dict(model.state_dict()), there, rtol=1e-10, atol=1e-12)


def test_two_processes_predict_every_example_once(two_processes: Path) -> None:
    expected = predict(small_net(), Points(31, noise=0), 4)
    parts = [torch.load(two_processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(part["logits"], expected) for part in parts)
    assert torch.equal(torch.cat([part["predicted"] for part in parts]), torch.arange(31))


def test_two_processes_resume_as_they_run_through(two_processes: Path) -> None:
    parts = [torch.load(two_processes / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for part in parts:
        assert same(part["resumed"], part["whole"])
    states = [state["torch"] for state in read_checkpoint(two_processes / "whole.ck")["rng"]]
    assert not torch.equal(*states)  # each process has its own dropout masks


def test_two_processes_refuse_what_does_not_divide(two_processes: Path) -> None:
    for rank in (0, 1):
        refused = torch.load(two_processes / f"{rank}.pt", weights_only=True)["refused"]
        assert "cannot be shared evenly by 2 processes" in refused


def _distributed_worker(folder: Path) -> None:
    found: dict[str, Any] = {}
    with distributed():
        rank = int(os.environ["RANK"])
        for micro in (None, 2):
            model = small_net(dropout=0)
            config = CONFIG.model_copy(update={"micro_batch": micro})
            result = train(model, Points(), cross_entropy, config, seed=0)
            found[f"train-{micro}"] = {"model": dict(model.state_dict()), "history": result.history}

        model = majority_net()
        train(model, Points(), drawing(model), CONFIG, seed=0)
        found["majority"] = dict(model.state_dict())

        source = Points(31, noise=0)
        found["logits"] = predict(small_net(), source, 4)
        found["predicted"] = torch.cat(source.seen)

        # the processes agree on a checkpoint at the first look (step 32) and fail at step 40
        config = CONFIG.model_copy(update={"epochs": None, "steps": 50, "checkpoint_every_s": 0.0})
        try:
            train(small_net(), Points(), failing_at(40, interrupt), config, seed=0, checkpoint=folder / "half.ck")
        except Interrupted:
            assert read_checkpoint(folder / "half.ck")["sampler"]["step"] == 32
        for name, file in (("resumed", "half.ck"), ("whole", "whole.ck")):
            model = small_net()
            train(model, Points(), cross_entropy, config, seed=0, checkpoint=folder / file)
            found[name] = dict(model.state_dict())

        try:
            train(small_net(), Points(), cross_entropy, CONFIG.model_copy(update={"global_batch": 7}), seed=0)
        except UserError as error:
            found["refused"] = str(error)
    torch.save(found, folder / f"{rank}.pt")


def _killed_worker(folder: Path) -> None:
    config = CONFIG.model_copy(update={"checkpoint_every_s": 0.0})
    kill = failing_at(6, lambda: os.kill(os.getpid(), signal.SIGKILL))
    train(small_net(), Points(), kill, config, seed=0, checkpoint=folder / "killed.pt")


if __name__ == "__main__":
    {"distributed": _distributed_worker, "killed": _killed_worker}[os.environ["TEST_TRAIN_WORKER"]](Path(sys.argv[1]))
