"""Student and teacher timed side by side, on models small enough for a test."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.timing_agreement import agreement
from paper_repro import zoo
from paper_repro.errors import UserError
from paper_repro.results.schema import Metric
from paper_repro.timing import device_sync, measure, module_state, pinned_threads
from paper_repro.timing.inference import Subject, amortised, time_models, time_pair


def subject(name: str, width: int, depth: int, batch_size: int) -> Subject:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return Subject(name, nn.Sequential(*layers), lambda n: (torch.zeros(n, width),), batch_size, 2.0 * depth * width**2)


def settings(**changes):
    return {"rounds": 6, "threads": 1, "block_s": 0.01, "warmup": 1} | changes


@pytest.fixture(scope="module")
def outcome():
    subjects = {"student": subject("slim", 64, 1, 32), "teacher": subject("wide", 1024, 8, 1)}
    threads = torch.get_num_threads()
    found = time_models(subjects, **settings())
    assert torch.get_num_threads() == threads and not torch.is_inference_mode_enabled()
    return found


def metrics(outcome) -> dict[str, float]:
    return {metric["name"]: metric["value"] for metric in outcome["metrics"]}


def test_the_result_is_what_a_record_takes(outcome):
    assert set(outcome) == {"metrics", "samples", "cost", "protocol", "clocks"}
    assert len({Metric(**metric).name for metric in outcome["metrics"]}) == len(outcome["metrics"])
    for name, values in outcome["samples"].items():
        rounds = outcome["protocol"]["rounds"]
        assert len(values) >= rounds and np.isfinite(values).all(), name
        assert len(values) == rounds or name.endswith("latency_call_s")
    protocol = outcome["protocol"]
    assert protocol["weights"] == "random" and protocol["input"].startswith("synthetic")
    assert protocol["threads"] == 1 and protocol["output_finite"] == {"student": True, "teacher": True}


def test_metrics_agree_with_the_samples_and_with_each_other(outcome):
    found, samples = metrics(outcome), outcome["samples"]
    for role in ("student", "teacher"):
        assert found[f"{role}/latency_s"] == np.median(samples[f"{role}/latency_s"])
        assert found[f"{role}/latency_s/low"] <= found[f"{role}/latency_s"] <= found[f"{role}/latency_s/high"]
        assert found[f"{role}/throughput_per_s"] == np.median(1 / np.array(samples[f"{role}/seconds_per_example"]))
    quotients = np.divide(samples["teacher/latency_s"], samples["student/latency_s"])
    assert found["speedup/latency"] == pytest.approx(np.median(quotients))
    assert found["speedup/latency"] > 1 and found["speedup/throughput"] > 1  # 2000 times the work
    assert found["student/throughput_per_s"] > 1 / found["student/latency_s"]  # a batch of 32
    assert found["student/params"] == 64 * 65 and found["teacher/flops"] == 2 * 8 * 1024**2


def test_batch_one_is_timed_once_for_both(outcome):
    assert set(outcome["protocol"]["inner"]) == {"student/latency", "student/throughput", "teacher/both"}
    assert outcome["protocol"]["batch_sizes"]["student"] == {"latency": 1, "throughput": 32}


def test_peak_memory_counts_weights_and_activations():
    def peak(batch_size: int) -> float | None:
        found = time_models({"student": subject("one", 512, 2, batch_size)}, **settings(rounds=1))
        assert not any(metric["name"].startswith("speedup") for metric in found["metrics"])
        return metrics(found)["student/peak_memory_bytes"]

    freed = [b"freed" * 20_000 for _ in range(2000)]
    _above = [bytes(100) for _ in range(100_000)]  # keeps malloc from giving back what lies below
    del freed
    small, big = peak(1), peak(20_000)
    if small is None or big is None:
        pytest.skip("this system tells no peak of memory")
    weights, activation = 4 * 2 * 512 * 513, 4 * 20_000 * 512
    assert weights <= small < big and big > weights + activation


def test_models_run_in_eval_mode_at_the_stated_precision_and_threads():
    seen = set()

    class Spy(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            seen.add((self.training, torch.is_inference_mode_enabled(), y.dtype, torch.get_num_threads(), len(x)))
            return y

    one = Subject("spy", Spy(8, 8), lambda n: (torch.zeros(n, 8),), 4)
    found = time_models({"student": one}, **settings(precision="bf16", threads=2))
    assert seen == {(False, True, torch.bfloat16, 2, 4), (False, True, torch.bfloat16, 2, 1)}
    assert metrics(found)["student/flops"] is None


def test_a_batch_that_does_not_fit_is_halved_and_said():
    class Small(nn.Linear):
        def forward(self, x):
            if len(x) > 4:
                raise torch.OutOfMemoryError
            return super().forward(x)

    found = time_models({"student": Subject("s", Small(8, 8), lambda n: (torch.zeros(n, 8),), 32)}, **settings())
    assert found["protocol"]["batch_sizes"]["student"] == {"latency": 1, "throughput": 4}

    class Full(nn.Linear):
        def forward(self, x):
            raise torch.OutOfMemoryError

    with pytest.raises(UserError, match="does not fit"):
        time_models({"student": Subject("f", Full(8, 8), lambda n: (torch.zeros(n, 8),), 2)}, **settings())


def test_bad_input_is_said_in_a_sentence():
    with pytest.raises(UserError, match="no device 'abacus'"):
        time_models({}, device="abacus")
    with pytest.raises(UserError, match="fp8"):
        time_models({}, precision="fp8")


def test_a_pair_of_the_zoo_an_image_and_a_text_model():
    state = torch.get_rng_state()
    found = time_pair("resnet8-w4", "bag", student_batch=2, num_classes=7, **settings(rounds=1))
    assert torch.equal(torch.get_rng_state(), state)  # weights and inputs were drawn on streams of their own
    values = metrics(found)
    for role, name in (("student", "resnet8-w4"), ("teacher", "bag")):
        cost = zoo.cost(name, 7)
        assert values[f"{role}/params"] == cost["params"] and values[f"{role}/flops"] == cost["flops_per_example"]
    assert found["protocol"]["models"] == {"student": "resnet8-w4", "teacher": "bag"}
    with pytest.raises(UserError, match="no model 'vgg'"):
        time_pair("vgg", "bag")


def test_amortised_cost_is_the_student_always_and_the_teacher_on_what_is_deferred():
    assert amortised(2.0, 10.0, 0.8) == pytest.approx(4.0)
    assert np.allclose(amortised(2.0, 10.0, np.array([0.0, 1.0])), [12.0, 2.0])


def test_module_state_brings_back_training_bit_for_bit():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()

    def state() -> list[torch.Tensor]:
        moments = [value for entry in optimizer.state.values() for value in entry.values()]
        gradients = [parameter.grad for parameter in model.parameters()]
        values = (*model.state_dict().values(), *moments, *gradients, torch.get_rng_state())
        return [value.detach().clone() for value in values]

    step()
    snapshot = module_state(model, optimizer)
    before, restore = state(), snapshot()
    step()
    changed = state()
    assert not any(torch.equal(a, b) for a, b in zip(before, changed, strict=True) if a.numel() > 1)
    restore()
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    step()
    assert all(torch.equal(a, b) for a, b in zip(changed, state(), strict=True))


def test_a_timed_training_step_starts_from_the_state_before_warm_up():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []

    def step() -> None:
        seen.append(model.weight.detach().clone())
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    measure({"step": step}, rounds=1, inner=1, warmup=3, snapshots=[module_state(model, optimizer)])
    assert torch.equal(seen[0], seen[3]) and not torch.equal(seen[0], seen[2])


def test_threads_are_put_back_after_a_failure():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), pinned_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_sync_waits(device):
    device_sync(device)()


def test_agreement_is_judged_by_the_whole_interval(capsys):
    assert agreement("same", [(1.0 + 0.001 * i, 1.0) for i in range(10)])
    assert not agreement("slower", [(1.06, 1.0)] * 10)
    assert not agreement("vague", [(0.9, 1.0), (1.1, 1.0)] * 5)
    assert not agreement("too few", [(1.0, 1.0)] * 3)
    assert capsys.readouterr().out.count("NOT within 5%") == 3
