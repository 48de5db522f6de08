"""The experiment: what it measures, its refusals, and that nothing is lost when it is interrupted."""

import csv
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import experiments.distillation.train as distill
from experiments.distillation.evaluate import Measured, evenly, play_beside, projected_gradients, save_saliency
from experiments.distillation.settings import DistillConfig
from experiments.distillation.states import split_by_episodes
from experiments.distillation.updates import shuffled_batches
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import run_id
from experiments.runner.schedules import evaluation_steps
from sobolev.atari import RecordedStates, Recording, load_teacher, record, teacher_bytes
from sobolev.distillation import ComputedGradients, DistillationStep, RecordedGradients, kl_student_teacher
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.seeding import generator
from tests.conftest import ROOT
from tests.sobolev.test_distillation import BFLOAT16_TOLERANCE

SHIPPED = sorted((ROOT / "results" / "teachers").glob("*.safetensors"))


def folder(config: DistillConfig) -> Path:
    return Path(config.runs_dir) / config.name / run_id(config)


def read_rows(config: DistillConfig) -> list[dict[str, str]]:
    with (folder(config) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(config: DistillConfig, split: str, metric: str) -> dict[int, float]:
    return {
        int(row["step"]): float(row["value"])
        for row in read_rows(config)
        if (row["split"], row["metric"]) == (split, metric)
    }


def make(make_config, *overrides: str, **options: str) -> DistillConfig:
    return make_config("experiment=distill_atari", *overrides, **options)


@pytest.mark.parametrize("objective", ["value", "sobolev", "derivative"])
def test_what_a_run_leaves(make_config, objective):
    config = make(make_config, f"objective={objective}")
    kl = execute(config)
    test = numbers(config, "test", "kl")
    assert list(test) == evaluation_steps(6, 3)
    assert test[6] == pytest.approx(kl, rel=1e-6)
    for split in ("train", "test"):
        for metric in ("kl", "kl_teacher_student", "action_error", "gradient_error"):
            assert list(numbers(config, split, metric)) == list(test)
    assert numbers(config, "teacher", "entropy")[0] <= math.log(4)
    assert {row["method"] for row in read_rows(config)} == {objective}
    assert numbers(config, "play", "score")[6] >= 0
    summary = json.loads((folder(config) / "summary.json").read_text())
    assert summary["scale"] == "reduced"
    with np.load(folder(config) / "saliency.npz") as arrays:
        assert arrays["state"].shape == arrays["student_gradient"].shape == (4, 4, 84, 84)
    with np.load(folder(config) / "student.npz") as arrays:
        assert arrays["hidden.weight"].shape == (16, 8 * 9 * 9)


def test_methods_begin_with_the_same_student_and_learn_different_ones(make_config):
    configs = [make(make_config, f"objective={name}", "play_episodes=0") for name in ("value", "sobolev")]
    ends = [execute(config) for config in configs]
    starts = [numbers(config, "test", "kl")[0] for config in configs]
    assert starts[0] == starts[1]
    assert ends[0] != ends[1]
    assert max(ends) < starts[0]


def test_resumed_equals_uninterrupted_bit_for_bit(make_config, monkeypatch):
    options = ("compute.checkpoint_seconds=0", "play_episodes=0", "n_train=100")  # 3 epochs
    whole, parts = (make(make_config, *options, runs=runs) for runs in ("whole", "parts"))
    execute(whole)
    true_rate = distill.learning_rate

    for stop in (1, 4):

        def failing(optimizer, step, stop=stop):
            if step == stop:
                raise RuntimeError("stopped")
            return true_rate(optimizer, step)

        monkeypatch.setattr(distill, "learning_rate", failing)
        with pytest.raises(RuntimeError, match="stopped"):
            execute(parts)
        assert (folder(parts) / "checkpoint.pt").exists()
    monkeypatch.setattr(distill, "learning_rate", true_rate)
    execute(parts)
    assert (folder(parts) / "metrics.csv").read_bytes() == (folder(whole) / "metrics.csv").read_bytes()
    with np.load(folder(whole) / "saliency.npz") as first, np.load(folder(parts) / "saliency.npz") as second:
        assert all(np.array_equal(first[name], second[name]) for name in first)


def weights_of(make_config, monkeypatch, *overrides: str, **options: str) -> list[float]:
    """Alpha at each update of a run."""
    used, step = [], DistillationStep.__call__
    with monkeypatch.context() as patch:
        patch.setattr(
            DistillationStep, "__call__", lambda self, *args: (used.append(self.gradient_weight), step(self, *args))
        )
        execute(make(make_config, *overrides, "play_episodes=0", **options))
    return used


def test_a_weight_falls_over_the_share_of_training_that_is_given(make_config, monkeypatch):
    falling = ("objective=sobolev_falling", "objective.gradient_weight=2")
    cosine = [2 * (1 + math.cos(math.pi * update / 3)) / 2 for update in range(3)]
    assert weights_of(make_config, monkeypatch, *falling) == pytest.approx([*cosine, 0, 0, 0])
    whole = weights_of(make_config, monkeypatch, *falling, "objective.falls_until=1")
    assert whole == pytest.approx([2 * (1 + math.cos(math.pi * update / 6)) / 2 for update in range(6)])
    assert weights_of(make_config, monkeypatch, "objective.gradient_weight=2") == [2.0] * 6


@pytest.mark.parametrize("norm", ["l2", "squared_l2"])
def test_a_balanced_weight_is_relative_to_the_teachers_gradients(make_config, monkeypatch, norm):
    options = ("objective.gradient_weight=2", f"objective.norm={norm}")
    used = weights_of(make_config, monkeypatch, *options, "objective.balanced=true", runs=f"balanced_{norm}")
    config = make(make_config, *options)
    recorded, passes = states_of(config), ReLUPasses(load_teacher(config.dataset.teacher).policy)
    run = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)  # as in training: v depends on the type
    measured = Measured.of(recorded, split_by_episodes(config, recorded)["train"], passes, config, run)
    sizes = np.linalg.norm(measured.gradient_GI, axis=1) ** (2 if norm == "squared_l2" else 1)
    assert used == pytest.approx([2 / sizes.mean()] * 6, rel=1e-4)


def teacher_in(folder: Path, template: Path, seed: int) -> Path:
    """A teacher as that at `template`, its last layer drawn anew."""
    found = load_teacher(template)
    torch.nn.init.normal_(found.policy.actions.weight, std=0.3, generator=generator(seed, "another"))
    path = folder / "own.safetensors"
    path.write_bytes(teacher_bytes(found.policy, found.options))
    return path


def test_another_teacher_at_the_same_path_is_another_question(make_config, atari_folder, tmp_path, monkeypatch):
    """Neither skipped as complete, nor gone on with from a checkpoint of the first."""
    template = atari_folder / "teacher.safetensors"
    options = (
        *(f"dataset.teacher={tmp_path / 'own.safetensors'}", "dataset.recording_environments=8"),
        *("play_episodes=0", "compute.checkpoint_seconds=0"),
    )
    teacher_in(tmp_path, template, seed=1)
    first = make(make_config, *options)

    def failing(_, step):
        if step == 4:
            raise RuntimeError("stopped")
        return 1e-4

    with monkeypatch.context() as patch:
        patch.setattr(distill, "learning_rate", failing)
        with pytest.raises(RuntimeError, match="stopped"):
            execute(first)
    checkpoint = (folder(first) / "checkpoint.pt").read_bytes()

    teacher_in(tmp_path, template, seed=2)
    second = make(make_config, *options)
    assert second.dataset.teacher == first.dataset.teacher
    assert run_id(second) != run_id(first)
    execute(second)
    starts = [numbers(config, "test", "kl")[0] for config in (first, second)]
    assert starts[0] != starts[1]
    with pytest.raises(BadInput, match=r"is not the one that dataset.teacher_sha256=.* asks for"):
        execute(first)  # a sweep composed it before the teacher changed
    assert (folder(first) / "checkpoint.pt").read_bytes() == checkpoint

    teacher_in(tmp_path, template, seed=1)
    assert run_id(make(make_config, *options)) == run_id(first)


def test_training_states_are_of_other_episodes_than_those_measured(make_config):
    config = make(make_config)
    recorded = states_of(config)
    parts = split_by_episodes(config, recorded)
    assert len(parts["train"]) == config.n_train
    held = {split: set(recorded.first_S[list(part)].tolist()) for split, part in parts.items()}
    assert all(held.values())
    for one, other in itertools.combinations(held, 2):
        assert not held[one] & held[other]
    assert max(parts["train"]) < min(parts["validation"]) <= max(parts["validation"]) < min(parts["test"])


def states_of(config: DistillConfig) -> RecordedStates:
    dataset = config.dataset
    recording = Recording(
        load_teacher(dataset.teacher), dataset.n_states, dataset.recording_environments, dataset.recording_seed
    )
    return RecordedStates.load(record(recording, dataset.folder), recording)


def test_metrics_are_those_of_a_loop_over_states(make_config):
    """Values and gradients of each state alone, in float64, by autograd."""
    config = make(make_config, "play_episodes=0")
    teacher = load_teacher(config.dataset.teacher)
    run = FakeRun()
    recorded = states_of(config)
    test = split_by_episodes(config, recorded)["test"]
    passes = ReLUPasses(teacher.policy.double())
    measured = Measured.of(recorded, test, passes, config, run)
    pupil = distill.AtariPolicy(4, distill.architecture(config), generator=generator(1, "init")).double()
    found = measured.errors(ReLUPasses(pupil))

    shown = test[evenly(len(test), config.n_evaluate)]
    x = recorded.stack(torch.from_numpy(shown)).double() / 255
    assert len(x) == 40
    kl, differs, gaps = [], [], []
    for n, state in enumerate(x):
        leaf = state[None].clone().requires_grad_()
        log_p, log_q = pupil(leaf)[0], teacher.policy(leaf)[0]
        kl.append(sum((p.exp() * (p - q)).item() for p, q in zip(log_p, log_q, strict=True)))
        differs.append(log_p.argmax() != log_q.argmax())
        if n in measured.gradient_at.tolist():
            v = measured.v_GA[measured.gradient_at.tolist().index(n)]
            gaps.append(torch.autograd.grad((log_q - log_p) @ v, leaf)[0].norm().item())
    assert found["kl"] == pytest.approx(np.mean(kl), rel=1e-9)
    assert found["action_error"] == pytest.approx(np.mean(differs))
    assert found["gradient_error"] == pytest.approx(np.mean(gaps), rel=1e-9)
    assert len(gaps) == config.n_gradients
    facts = measured.facts()
    entropy = torch.distributions.Categorical(logits=teacher.policy(x)).entropy().mean()
    assert facts["entropy"] == pytest.approx(entropy.item(), rel=1e-9)


class FakeRun:
    device, dtype = torch.device("cpu"), torch.float64


def test_the_states_shown_are_those_of_the_teachers_greatest_gradients(make_config):
    """Of each quarter of the compared states; one of a certain teacher would have no gradient to show."""
    config = make(make_config)
    teacher = load_teacher(config.dataset.teacher)
    passes, recorded, saved = ReLUPasses(teacher.policy.double()), states_of(config), {}
    measured = Measured.of(recorded, np.arange(100, 180), passes, config, FakeRun)

    class Saving(FakeRun):
        @staticmethod
        def save_arrays(name, **arrays):
            saved.update(arrays)

    save_saliency(Saving, measured, passes, passes, config.seed, "reduced")
    x = passes.from_flat_patches(measured.states.raw_NI[measured.gradient_at]).double() / 255
    leaf = x.requires_grad_()
    gradients = torch.autograd.grad(teacher.policy(leaf).max(1).values.sum(), leaf)[0].flatten(1).norm(dim=1)
    shown = np.linalg.norm(saved["teacher_gradient"].astype(float).reshape(4, -1), axis=1)
    assert shown == pytest.approx(gradients.view(4, -1).amax(1).numpy(), rel=1e-2)


@pytest.mark.parametrize("path", [None, *SHIPPED], ids=lambda path: path.stem if path else "untrained")
def test_gradients_equal_finite_differences_on_real_frames(make_config, atari_folder, path):
    """Central differences of <log pi, v> by single pixels, where the frames' and the teacher's own edges are."""
    teacher = load_teacher(path or atari_folder / "teacher.safetensors")
    own = [f"dataset=atari/{path.stem}", f"dataset.teacher={path}"] if path else []  # frames of the game that it plays
    recorded = states_of(make(make_config, *own))
    policy = teacher.policy.double()
    passes = ReLUPasses(policy)
    raw = recorded.stack(torch.arange(20, 380, 120))
    v = torch.randn(len(raw), policy.n_actions, generator=generator(0, "v"), dtype=torch.float64)
    gradient = passes.from_flat_patches(projected_gradients(passes, passes.flat_patches(raw), v))
    x, h = raw.double() / 255, 1e-7
    largest = gradient.flatten(1).abs().topk(6, dim=1).indices
    for b, pixels in enumerate(largest.tolist()):
        for pixel in pixels:
            step = torch.zeros_like(x[b]).flatten()
            step[pixel] = h
            ends = [policy((x[b] + s * step.view_as(x[b]))[None])[0] @ v[b] for s in (1, -1)]
            slope = ((ends[0] - ends[1]) / (2 * h)).item()
            assert gradient[b].flatten()[pixel].item() == pytest.approx(slope, rel=1e-4)


def test_the_teachers_gradients_are_recorded_where_they_fit(make_config):
    config = make(make_config)
    teacher = load_teacher(config.dataset.teacher)
    raw = torch.zeros(20, 4 * 84 * 84, dtype=torch.uint8)
    assert isinstance(distill.teacher_gradients(config, teacher, raw), RecordedGradients)
    config.recorded_gib = RecordedGradients.bytes(20, 4, torch.bfloat16) / 2**30 - 1e-9
    assert isinstance(distill.teacher_gradients(config, teacher, raw), ComputedGradients)


def first_gradient(make_config, monkeypatch, *overrides: str, runs: str) -> torch.Tensor:
    """The gradient at the first update of a run that learns from the teacher's gradients alone."""
    found = []

    class Watched(DistillationStep):
        def __call__(self, *batch):
            terms = super().__call__(*batch)
            found.append(torch.cat([parameter.grad.flatten() for parameter in self.student.parameters()]))
            return terms

    few = ("n_train=16", "optimizer.batch_size=16", "n_evaluate=4", "n_gradients=2", "evaluations=1", "play_episodes=0")
    config = make(make_config, "objective=derivative", "optimizer.steps=1", *few, *overrides, runs=runs)
    with monkeypatch.context() as patch:
        patch.setattr(distill, "DistillationStep", Watched)
        execute(config)
    (gradient,) = found
    return gradient


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """By norms. Single parameters would not do: where terms cancel, what is left is as wrong as they are."""
    return ((one - other).norm() / other.norm()).item()


def scale_teacher_gradients(patch: pytest.MonkeyPatch, factor: float) -> None:
    true = distill.teacher_gradients

    def scaled(*arguments):
        gradients = true(*arguments)
        return lambda *batch: factor * gradients(*batch)

    patch.setattr(distill, "teacher_gradients", scaled)


# The teacher's gradients are recorded in 16 bits, in float16 where products are in float32: field, coefficient and sum
# are rounded. Products in bfloat16 are rounded in each of five layers.
ROUNDED = {"float32": 3 * 2**-11, "bfloat16": (3 + 5) * 2**-9}


@pytest.mark.parametrize("compute_dtype", ROUNDED)
def test_recorded_and_computed_gradients_train_alike(make_config, monkeypatch, compute_dtype):
    def gradient(*overrides, runs):
        return first_gradient(make_config, monkeypatch, f"compute_dtype={compute_dtype}", *overrides, runs=runs)

    computed = gradient("recorded_gib=0.0", runs="computed")
    assert 0 < apart(gradient(runs="recorded"), computed) < ROUNDED[compute_dtype]
    for factor in (0, -1):  # wrong gradients would be noticed
        with monkeypatch.context() as patch:
            scale_teacher_gradients(patch, factor)
            assert apart(gradient(runs=f"times {factor}"), computed) > 10 * ROUNDED[compute_dtype]


def test_bfloat16_changes_an_update_by_less_than_the_seed_does(make_config, monkeypatch):
    def gradient(compute_dtype, seed, runs):
        return first_gradient(
            make_config, monkeypatch, f"compute_dtype={compute_dtype}", f"seed={seed}", runs=f"{runs} {seed}"
        )

    exact, rounded = ([gradient(dtype, seed, dtype) for seed in range(2)] for dtype in ("float32", "bfloat16"))
    for one, other in zip(rounded, exact, strict=True):
        assert 0 < apart(one, other) < BFLOAT16_TOLERANCE
    assert apart(*exact) > 10 * BFLOAT16_TOLERANCE
    scale_teacher_gradients(monkeypatch, 0)
    assert apart(gradient("bfloat16", 0, "wrong"), exact[0]) > 10 * BFLOAT16_TOLERANCE  # it would be noticed


def test_batches_are_an_epochs_permutation_from_any_update():
    batches = [next(shuffled_batches(10, 4, 3, first)) for first in range(6)]
    running = shuffled_batches(10, 4, 3, 0)
    for batch in batches:
        assert torch.equal(batch, next(running))
    for epoch in range(3):
        assert len(set(torch.cat(batches[2 * epoch : 2 * epoch + 2]).tolist())) == 8
    assert len(next(shuffled_batches(3, 200, 0, 0))) == 3


def test_the_student_is_compared_on_the_states_it_visits(make_config):
    """A student that is its own teacher is at distance 0 wherever it goes."""
    config = make(make_config)
    teacher = load_teacher(config.dataset.teacher)
    run = FakeRun()
    same = play_beside(teacher.policy, teacher, config, run)
    assert same["kl"] == 0
    assert same["action_error"] == 0
    other = distill.AtariPolicy(4, distill.architecture(config), generator=generator(1, "init"))
    assert play_beside(other, teacher, config, run)["kl"] > 0.01
    uniform = torch.full((1, 4), 0.25).log()
    assert kl_student_teacher(uniform, uniform) == 0


@pytest.mark.parametrize("objective", ["value", "derivative"])
def test_a_student_that_has_not_learned_is_said_to(make_config, capsys, objective):
    options = (f"objective={objective}", "play_episodes=0", "optimizer.steps=30")
    for rate, learned in (("1e-9", False), ("3e-3", True)):
        config = make(make_config, *options, f"optimizer.learning_rate={rate}")
        execute(config)
        assert json.loads((folder(config) / "summary.json").read_text())["learned"] is learned
        said = [
            line for line in capsys.readouterr().err.splitlines() if "the student has not learned the policy" in line
        ]
        assert len(said) == (not learned)
