"""Section 4.2: a student learns a teacher's policy from states that the teacher visited, with its gradients or without.

The student is measured over training on states of episodes that it has not learned from, and in the end plays itself.
Values and metrics are computed in the run's precision; `products` is that of the derivative passes in training.

Shape suffixes: N states, B samples of a batch, A actions, I inputs of a state as flat patches (see `ReLUPasses`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.distillation.settings import DistillConfig
from experiments.runner.divergence import check_convergence
from experiments.runner.errors import CONFIGS, BadInput, check_positive, check_precision, check_seed
from experiments.runner.limits import A_MEASUREMENT, check_evaluations, check_memory, check_updates, number_bytes
from experiments.runner.run import Run
from experiments.runner.schedules import evaluation_steps, learning_rate
from experiments.runner.settings import Schedule, located
from sobolev import projections
from sobolev.atari import RecordedStates, Recording, Teacher, load_teacher, play, record
from sobolev.distillation import (
    DIVERGENCES,
    NORMS,
    ComputedGradients,
    DistillationStep,
    RecordedGradients,
    kl_student_teacher,
    kl_teacher_student,
)
from sobolev.networks.atari_policies import (
    ARCHITECTURES,
    FRAME,
    INITIALISATIONS,
    Architecture,
    AtariPolicy,
    Convolution,
)
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.seeding import generator

PROJECTIONS = {
    "sphere": projections.Sphere,
    "gaussian": projections.Gaussian,
    "rademacher": projections.Rademacher,
    "coordinate": projections.Coordinate,
}
SPLITS = ("train", "validation", "test")
NEARLY_UNIFORM = 0.9  # share of the greatest entropy from which on a policy counts as uniform (claim D3); ours
SHOWN_STATES = 4  # in the figure of gradients
LEARNED = 0.9  # share of its first KL that a student must reach to have learned the policy; ours
# Smaller than any of these is `reduced`. The updates are ours: the paper gives none.
FULL_STEPS, FULL_EVALUATED, FULL_EVALUATIONS = 20_000, 5_000, 20
# Neither smaller nor larger, but something else: with another value a run has another loss, learns from and is measured
# on other states, or compares gradients at others. Such rows do not belong beside those of Figure 4.
SHIPPED = {
    "student.initialisation": "orthogonal",
    "objective.divergence": "student_teacher",
    "objective.norm": "l2",
    "objective.projection": "sphere",
    "objective.samples": 1,
    "optimizer.batch_size": 200,
    "optimizer.schedule": Schedule.constant,
    "n_gradients": 500,
    "dataset.n_states": 100_000,
    "dataset.recording_environments": 16,
    "dataset.recording_seed": 0,
    "dataset.split": [0.6, 0.15, 0.25],
}
LEARNING_RATES = (1e-5, 1e-3)  # the paper's range, ends included
# By objective: the weight of the KL, and whether gradients count. A name with other weights misleads.
SHIPPED_WEIGHTS = {"value": (1, False), "sobolev": (1, True), "derivative": (0, True)}
SHIPPED_TEACHER = "results/teachers/{game}.safetensors"  # another visits other states


def main(config: DistillConfig, run: Run) -> dict:
    """Distil one student; the objective is its final KL(student || teacher) on held-out episodes."""
    # Data
    teacher = open_teacher(config)
    recorded = open_states(config, teacher, run)
    parts = split_by_episodes(config, recorded)
    teacher.policy.to(run.device, run.dtype)
    teacher_passes = ReLUPasses(teacher.policy)
    train = States.of(recorded, np.asarray(parts["train"]), teacher_passes, run)
    measured = {
        split: Measured.of(recorded, np.asarray(parts[split]), teacher_passes, config, run)
        for split in ("train", config.evaluate_on)
    }
    facts = measured[config.evaluate_on].facts()
    del recorded  # all its frames

    # Model and objective
    policy = AtariPolicy(
        teacher.policy.n_actions,
        architecture(config),
        initialisation=config.student.initialisation,
        generator=generator(config.seed, "init"),
    ).to(run.device, run.dtype)
    student = ReLUPasses(policy, getattr(torch, config.products.name))
    objective = config.objective
    step = DistillationStep(
        student,
        objective.kl_weight,
        objective.gradient_weight,
        objective.divergence,
        objective.norm,
        teacher_gradients(config, teacher, train.raw_NI) if objective.gradient_weight else None,
    )
    projection = PROJECTIONS[objective.projection](objective.samples)
    optimizer = torch.optim.Adam(student.parameters(), lr=config.optimizer.learning_rate, fused=True)

    # Loop
    first, steps, kl_at_start = 0, config.optimizer.steps, math.nan
    if state := run.resume():
        first, kl_at_start = state["step"], state["kl_at_start"]
        student.load_state_dict(state["student"])
        student.refresh()
        optimizer.load_state_dict(state["optimizer"])
    evaluate_at = set(evaluation_steps(steps, config.evaluations))
    batches = shuffled_batches(config.n_train, config.optimizer.batch_size, config.seed, first)
    progress = run.progress(first, steps + 1)
    for update in progress:
        run.checkpoint(
            lambda update=update, kl_at_start=kl_at_start: {
                "step": update,
                "kl_at_start": kl_at_start,
                "student": student.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
        )
        if update in evaluate_at:
            now = ReLUPasses(student.store(policy))
            errors = {split: states.errors(now) for split, states in measured.items()}
            found = errors[config.evaluate_on]
            if update == 0:
                kl_at_start = found["kl"]
            run.record(update, rows(errors | {"teacher": {} if update else facts}, config.seed))
            relative_error = found["gradient_error"] / (facts["gradient_norm"] or 1.0)
            check_convergence(update, update == steps, {config.seed: relative_error}, found.values())
            progress.set_postfix(kl=f"{found['kl']:.3g}")
        if update < steps:
            index_B = next(batches).to(run.device)
            targets_BA = train.teacher_NA[index_B]
            v_SBA = projection.draw(
                torch.empty(targets_BA.shape, dtype=run.dtype), 1, generator(config.seed, "projection", update)
            )
            step(index_B, train.raw_NI.index_select(0, index_B), targets_BA, v_SBA.to(run.device))
            optimizer.param_groups[0]["lr"] = learning_rate(config.optimizer, update)
            optimizer.step()
            student.refresh()

    # Evaluate
    final = errors[config.evaluate_on]
    learned = final["kl"] <= LEARNED * kl_at_start
    if not learned:  # its units may all have died: then it has the same policy at every state
        said = f"its KL is {final['kl']:.3g} after {kl_at_start:.3g} at step 0"
        tqdm.write(f"{run.directory}: the student has not learned the policy, {said}", file=sys.stderr)
    if config.play_episodes:
        played = play_beside(policy, teacher, config, run)
        run.record(steps, rows({"play": played}, config.seed))
    save_saliency(run, measured[config.evaluate_on], ReLUPasses(policy), teacher_passes, config, scale(config))
    return {
        "objective": final["kl"],
        "scale": scale(config),
        "steps": steps,
        "learned": learned,
        "teacher_sha256": teacher.sha256,
        **{f"{config.evaluate_on}_{name}": value for name, value in final.items()},
        **({f"play_{name}": value for name, value in played.items()} if config.play_episodes else {}),
    }


def check(config: DistillConfig) -> None:
    """Refuse what no type can."""
    check_seed(config)
    check_precision(config)
    positive = {key: getattr(config, key) for key in ("n_train", "n_evaluate", "n_gradients", "evaluations")} | {
        "dataset.n_states": config.dataset.n_states,
        "dataset.recording_environments": config.dataset.recording_environments,
        "optimizer.steps": config.optimizer.steps,
        "optimizer.batch_size": config.optimizer.batch_size,
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "objective.samples": config.objective.samples,
        "student.hidden": config.student.hidden,
    }
    check_positive(**positive)
    not_negative = {
        "play_episodes": config.play_episodes,
        "recorded_gib": config.recorded_gib,
        "dataset.recording_seed": config.dataset.recording_seed,
        "objective.kl_weight": config.objective.kl_weight,
        "objective.gradient_weight": config.objective.gradient_weight,
    }
    for key, value in not_negative.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"{key} must be 0 or more, not {value}")
    if config.objective.kl_weight == config.objective.gradient_weight == 0:
        raise BadInput("objective.kl_weight and objective.gradient_weight are both 0: there is nothing to learn from")
    choices = {
        "objective.divergence": (config.objective.divergence, DIVERGENCES),
        "objective.norm": (config.objective.norm, NORMS),
        "objective.projection": (config.objective.projection, PROJECTIONS),
        "evaluate_on": (config.evaluate_on, SPLITS[1:]),
        "student.initialisation": (config.student.initialisation, INITIALISATIONS),
    }
    for key, (value, known) in choices.items():
        if value not in known:
            raise BadInput(f"{key}={value} is not one of {', '.join(known)}")
    split = config.dataset.split
    if len(split) != 3 or min(split) <= 0 or not math.isclose(sum(split), 1):
        raise BadInput(f"dataset.split={split}: expected parts for train, validation and test that sum to 1")
    if config.dataset.stack != 4:
        raise BadInput(f"dataset.stack={config.dataset.stack}: the paper's networks read 4 frames")
    flat = check_convolutions(config.student.convolutions)
    check_cost(config, flat)
    try:
        ReLUPasses(AtariPolicy(2, architecture(config)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"student.convolutions={config.student.convolutions}: {error}") from None


def check_cost(config: DistillConfig, flat: int) -> None:
    """`flat` is how many numbers the student's linear layer sees."""
    dataset, optimizer, student = config.dataset, config.optimizer, config.student
    check_updates(**{"optimizer.steps": optimizer.steps})
    check_evaluations(config.evaluations, optimizer.steps)
    layers = zip([[4], *student.convolutions], student.convolutions, strict=False)
    weights = sum(below[0] * channels * kernel**2 for below, (channels, kernel, _) in layers) + flat * student.hidden
    state = 4 * FRAME**2  # in bytes
    batch = min(config.n_train, optimizer.batch_size)
    check_memory(
        {
            "student": 4 * number_bytes(config) * weights,  # with their gradients and Adam's two moments
            "dataset.n_states": FRAME**2 * dataset.n_states,  # each is a new frame
            "n_train": state * config.n_train,
            "objective.samples and optimizer.batch_size": number_bytes(config) * config.objective.samples * batch,
            "dataset.recording_environments": state * dataset.recording_environments,
            "play_episodes": state * config.play_episodes,  # side by side
            "evaluations": A_MEASUREMENT * config.evaluations,
        }
    )


def check_convolutions(layers: list[list[int]]) -> int:
    """Refuse layers that no student can be built of; what its passes cannot take, they refuse themselves.

    Returns how many numbers the last one puts out.
    """
    key = f"student.convolutions={layers}"
    if not layers:
        raise BadInput(f"{key}: expected one convolution or more, [channels, kernel, stride] each")
    side = FRAME
    for number, layer in enumerate(layers, 1):
        if len(layer) != 3 or min(layer) < 1:
            raise BadInput(f"{key}: layer {number} is not [channels, kernel, stride], all positive")
        _, kernel, stride = layer
        if kernel > side:
            raise BadInput(f"{key}: the kernel of layer {number} is larger than its input of {side} x {side}")
        side = (side - kernel) // stride + 1
    return layers[-1][0] * side**2


def scale(config: DistillConfig) -> str:
    """`paper` where loss and states are those of the shipped experiment and nothing is smaller, else `reduced`."""
    objective = config.objective
    whole = (
        config.optimizer.steps >= FULL_STEPS
        and config.n_evaluate >= FULL_EVALUATED
        and config.evaluations >= FULL_EVALUATIONS
        and LEARNING_RATES[0] <= config.optimizer.learning_rate <= LEARNING_RATES[1]
        and SHIPPED_WEIGHTS.get(objective.name) == (objective.kl_weight, objective.gradient_weight > 0)
        and architecture(config) == ARCHITECTURES["student"]
        and all(attrgetter(key)(config) == value for key, value in SHIPPED.items())
        and config.dataset.teacher == SHIPPED_TEACHER.format(game=config.dataset.game)
    )
    return "paper" if whole else "reduced"


def architecture(config: DistillConfig) -> Architecture:
    return Architecture(tuple(Convolution(*layer) for layer in config.student.convolutions), config.student.hidden)


def open_teacher(config: DistillConfig) -> Teacher:
    """The teacher, if it plays what the config says."""
    path, asked = config.dataset.teacher, config.dataset.teacher_sha256
    try:
        teacher = load_teacher(located(path))
    except ValueError as error:
        raise BadInput(f"{error}: {how_to_make_a_teacher(config)}") from None
    if teacher.sha256 != asked:  # it came or changed after the config was composed
        raise BadInput(
            f"the teacher at {path} is not the one that dataset.teacher_sha256={asked} asks for: "
            "start the same command again to learn from the one that is there"
        )
    trained = asdict(teacher.options)
    wanted = {key: getattr(config.dataset, key) for key in trained}
    wanted["actions"] = tuple(wanted["actions"]) or trained["actions"]
    for key, value in trained.items():
        if wanted[key] != value:
            remedy = ": dataset.actions=[] takes the teacher's" if key == "actions" else ""
            raise BadInput(f"dataset.{key}={wanted[key]}, but the teacher at {path} was trained with {value}{remedy}")
    return teacher


def how_to_make_a_teacher(config: DistillConfig) -> str:
    game = config.dataset.game
    own = (CONFIGS / "dataset" / "atari" / f"{game}.yaml").is_file()
    training = f"`python run.py experiment=train_teacher {'dataset=atari/' if own else 'dataset.game='}{game}`"
    if config.dataset.teacher == SHIPPED_TEACHER.format(game=game):
        return f"{training}, then `python -m scripts.export_teachers` make one"
    return f"{training} leaves a teacher.safetensors in its run's folder, which dataset.teacher may name"


def open_states(config: DistillConfig, teacher: Teacher, run: Run) -> RecordedStates:
    """The states that the teacher visits, recorded now if they were not before."""
    dataset = config.dataset
    try:
        recording = Recording(teacher, dataset.n_states, dataset.recording_environments, dataset.recording_seed)
        with tqdm(desc=f"{dataset.game} states", total=dataset.n_states, disable=None, mininterval=0.5) as progress:
            path = record(recording, dataset.folder, torch.get_num_threads(), run.device, progress.update)
        return RecordedStates.load(path, recording)
    except ValueError as error:
        raise BadInput(f"dataset: {error}") from None


def split_by_episodes(config: DistillConfig, recorded: RecordedStates) -> dict[str, range]:
    """Indices of each part, in the order of time; of the train part the first `n_train`."""
    try:
        parts = dict(zip(SPLITS, recorded.split(*config.dataset.split), strict=True))
    except ValueError as error:
        raise BadInput(f"dataset.split: {error}") from None
    if len(parts["train"]) < config.n_train:
        raise BadInput(
            f"n_train={config.n_train}, but the train part of the recording has {len(parts['train'])} states: "
            "lower n_train, or raise dataset.n_states or the first of dataset.split"
        )
    return parts | {"train": parts["train"][: config.n_train]}


def teacher_gradients(config: DistillConfig, teacher: Teacher, raw_NI: Tensor) -> RecordedGradients | ComputedGradients:
    """Recorded if they fit into `recorded_gib`, else computed anew at each step."""
    products = getattr(torch, config.products.name)
    dtype = torch.bfloat16 if products == torch.bfloat16 else torch.float16
    if RecordedGradients.bytes(len(raw_NI), teacher.policy.n_actions, dtype) > config.recorded_gib * 2**30:
        return ComputedGradients(ReLUPasses(teacher.policy, products))
    try:
        return RecordedGradients(ReLUPasses(teacher.policy), raw_NI, dtype)
    except ValueError as error:
        raise BadInput(f"{error} with recorded_gib=0") from None


@dataclass(frozen=True)
class States:
    """States as flat patches in bytes, and the teacher's log-probabilities there."""

    raw_NI: Tensor
    teacher_NA: Tensor

    @classmethod
    def of(
        cls, recorded: RecordedStates, indices: np.ndarray, teacher: ReLUPasses, run: Run, chunk: int = 500
    ) -> States:
        n_chunks = -(-len(indices) // chunk)
        raw, log_p = [], []
        for part in np.array_split(indices, n_chunks):
            raw.append(teacher.flat_patches(recorded.stack(torch.from_numpy(part)).to(run.device)))
            log_p.append(teacher.values(raw[-1])[1].log_softmax(-1))
        return cls(torch.cat(raw), torch.cat(log_p))


@dataclass(frozen=True)
class Measured:
    """States that a student is measured on; the first of them, evenly spaced in time as all are, also by gradients.

    Attributes:
        gradient_at: positions in `states` where gradients are compared.
        v_GA: one projection each, on the unit sphere.
        gradient_GI: the teacher's gradients of <log pi, v> there.
    """

    states: States
    gradient_at: Tensor
    v_GA: Tensor
    gradient_GI: Tensor

    @classmethod
    def of(
        cls, recorded: RecordedStates, indices: np.ndarray, teacher: ReLUPasses, config: DistillConfig, run: Run
    ) -> Measured:
        chosen = indices[evenly(len(indices), config.n_evaluate)]
        states = States.of(recorded, chosen, teacher, run)
        at = torch.from_numpy(evenly(len(chosen), config.n_gradients)).to(run.device)
        like = torch.empty(len(at), states.teacher_NA.shape[1], dtype=run.dtype)
        v_GA = projections.Sphere().draw(like, 1, generator(0, "measured projections"))[0].to(run.device)
        return cls(states, at, v_GA, projected_gradients(teacher, states.raw_NI[at], v_GA))

    def errors(self, student: ReLUPasses, chunk: int = 500) -> dict[str, float]:
        """Means over the states: both KL divergences, how often the most probable action differs, and the gradients'
        error E_v || grad <log pi*, v> - grad <log pi, v> ||."""
        log_q = self.states.teacher_NA
        log_p = torch.cat([student.values(part)[1].log_softmax(-1) for part in self.states.raw_NI.split(chunk)])
        gradient_GI = projected_gradients(student, self.states.raw_NI[self.gradient_at], self.v_GA)
        errors = {
            "kl": kl_student_teacher(log_p, log_q),
            "kl_teacher_student": kl_teacher_student(log_p, log_q),
            "action_error": log_p.argmax(-1) != log_q.argmax(-1),
            "gradient_error": (gradient_GI - self.gradient_GI).norm(dim=1),
        }
        return {name: error.double().mean().item() for name, error in errors.items()}

    def facts(self) -> dict[str, float]:
        """What the teacher is like on these states."""
        log_q = self.states.teacher_NA.double()
        entropy = -(log_q.exp() * log_q).sum(-1)
        return {
            "entropy": entropy.mean().item(),
            "nearly_uniform": (entropy > NEARLY_UNIFORM * math.log(log_q.shape[1])).double().mean().item(),
            "gradient_norm": self.gradient_GI.norm(dim=1).double().mean().item(),
        }


def projected_gradients(passes: ReLUPasses, raw_NI: Tensor, v_NA: Tensor, chunk: int = 250) -> Tensor:
    """The gradients of <log pi, v> by states in [0, 1] (N, I)."""
    gradients = []
    for raw_BI, v_BA in zip(raw_NI.split(chunk), v_NA.split(chunk), strict=True):
        inputs, logits_BA = passes.values(raw_BI)
        w_BA = v_BA - v_BA.sum(-1, keepdim=True) * logits_BA.softmax(-1)
        gradients.append(passes.backward(w_BA, inputs, to_input=True)[1])
    return torch.cat(gradients)


def play_beside(policy: AtariPolicy, teacher: Teacher, config: DistillConfig, run: Run) -> dict[str, float]:
    """Whole games drawn from the student, and how far it is from the teacher on the states that it visits itself."""
    visited: list[tuple[Tensor, Tensor]] = []

    def log_probs(state_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            visited.append((policy(state_BCHW), teacher.policy(state_BCHW)))
        return visited[-1][0]

    scores = play(
        log_probs,
        teacher.options,
        config.play_episodes,
        config.seed,
        threads=torch.get_num_threads(),
        device=run.device,
    )
    log_p, log_q = (torch.cat(column) for column in zip(*visited, strict=True))
    return {
        "score": float(scores.mean()),
        "score_std": float(scores.std()),
        "kl": kl_student_teacher(log_p, log_q).double().mean().item(),
        "action_error": (log_p.argmax(-1) != log_q.argmax(-1)).double().mean().item(),
    }


def save_saliency(
    run: Run, measured: Measured, student: ReLUPasses, teacher: ReLUPasses, config: DistillConfig, scale: str
) -> None:
    """Gradients of the log-probability of the teacher's choice, of teacher and student: in each of a few equal parts of
    the states where gradients are compared, the one where the teacher's is greatest. Where it is certain, it vanishes.
    """
    raw, log_q = (tensor[measured.gradient_at] for tensor in (measured.states.raw_NI, measured.states.teacher_NA))
    choice = torch.nn.functional.one_hot(log_q.argmax(-1), log_q.shape[1]).to(log_q.dtype)
    size = projected_gradients(teacher, raw, choice).norm(dim=1)
    parts = torch.arange(len(size), device=size.device).tensor_split(SHOWN_STATES)
    shown = torch.stack([part[size[part].argmax()] for part in parts if len(part)])
    raw, choice = raw[shown], choice[shown]
    gradients = {
        f"{name}_gradient": passes.from_flat_patches(projected_gradients(passes, raw, choice)).to(torch.float16)
        for name, passes in (("teacher", teacher), ("student", student))
    }
    arrays = {"state": teacher.from_flat_patches(raw), "choice": choice.argmax(-1), **gradients}
    numbers = {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
    run.save_arrays("saliency", **numbers, seed=np.array(config.seed), scale=np.array(scale))


def evenly(n: int, at_most: int) -> np.ndarray:
    """Positions of at most so many of n things, evenly spaced."""
    return np.linspace(0, n - 1, min(n, at_most)).round().astype(int)


def shuffled_batches(n: int, batch_size: int, seed: int, first: int) -> Iterator[Tensor]:
    """Endless batches of indices from update `first` on. The order of epoch k is drawn from (seed, k) alone.

    States that do not fill a last batch wait for the next epoch.
    """
    batch_size = min(n, batch_size)
    per_epoch = n // batch_size
    for epoch in range(first // per_epoch, 2**62):
        order = torch.randperm(n, generator=generator(seed, "shuffle", epoch))
        start = first % per_epoch if epoch == first // per_epoch else 0
        yield from order[: per_epoch * batch_size].view(per_epoch, batch_size)[start:]


def rows(errors: dict[str, dict[str, float]], seed: int) -> Iterator[tuple[int, str, str, float]]:
    """(seed, split, metric, value)."""
    for split, by_metric in errors.items():
        for metric, value in by_metric.items():
            yield seed, split, metric, value
