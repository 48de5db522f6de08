"""Section 4.2: a student learns a teacher's policy from states that the teacher visited, with its gradients or without.

The student is evaluated during training on states of held-out episodes, and plays whole games at the end. Values and
metrics are computed in the run's precision; `compute_dtype` is that of the derivative passes in training.

Shape suffixes: S projections, N states, B samples of a batch, A actions, I inputs of a state as flat patches (see
`ReLUPasses`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.distillation.evaluate import Measured, play_beside, save_saliency
from experiments.distillation.settings import SPLITS, DistillConfig
from experiments.distillation.states import States, open_states, open_teacher, split_by_episodes
from experiments.distillation.updates import PROJECTIONS, Update, batches_and_projections
from experiments.runner.divergence import check_convergence
from experiments.runner.errors import BadInput
from experiments.runner.limits import A_MEASUREMENT, check_memory, number_bytes
from experiments.runner.run import Run
from experiments.runner.schedules import evaluation_steps, learning_rate
from sobolev import schedules
from sobolev.atari import Teacher
from sobolev.distillation import DIVERGENCES, NORMS, ComputedGradients, DistillationStep, RecordedGradients
from sobolev.networks.atari_policies import FRAME, INITIALISATIONS, Architecture, AtariPolicy, Convolution
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.seeding import generator

LEARNED = 0.9  # share of its first KL that a student must reach to have learned the policy; ours


def main(config: DistillConfig, run: Run) -> dict:
    """Distil one student; the objective is its final KL(student || teacher) on held-out episodes."""
    # Data
    teacher = open_teacher(config)
    train, measured = load_states(config, teacher, run)
    facts = measured[config.evaluate_on].facts()

    # Student and objective
    policy = new_student(config, teacher.policy.n_actions).to(run.device, run.dtype)
    student = ReLUPasses(policy, getattr(torch, config.compute_dtype.name))
    step = distillation_step(config, student, teacher, train, measured["train"])
    weight, factor = step.gradient_weight, falling(config.objective.falls_until)
    learn = Update(student, step, train.raw_NI, train.teacher_NA)

    # Loop
    first, steps, kl_at_start = 0, config.optimizer.steps, math.nan
    if state := run.resume():
        first, kl_at_start = state["step"], state["kl_at_start"]
        student.load_state_dict(state["student"])
        learn.load_state_dict(state["optimizer"])
    evaluate_at = set(evaluation_steps(steps, config.evaluations))
    drawn = batches_and_projections(config, first, teacher.policy.n_actions, run.dtype, run.device)
    progress = run.progress(first, steps + 1)
    for update in progress:
        run.checkpoint(lambda update=update, kl=kl_at_start: checkpoint(update, kl, student, learn))
        if update in evaluate_at:
            now = ReLUPasses(student.store(policy))
            errors = {split: states.errors(now) for split, states in measured.items()}
            final = errors[config.evaluate_on]
            kl_at_start = kl_at_start if update else final["kl"]
            run.record(update, rows(errors | {"teacher": {} if update else facts}, config.seed))
            relative_error = final["gradient_error"] / (facts["gradient_norm"] or 1.0)
            check_convergence(update, update == steps, {config.seed: relative_error}, final.values())
            progress.set_postfix(kl=f"{final['kl']:.3g}")
        if update < steps:
            rate = learning_rate(config.optimizer, update)
            learn(rate, weight * factor(update / steps), *next(drawn))

    # Evaluate
    played = play_beside(policy, teacher, config, run) if config.play_episodes else {}
    run.record(steps, rows({"play": played}, config.seed))
    run.save_arrays("student", **{name: tensor.cpu().numpy() for name, tensor in policy.state_dict().items()})
    passes = ReLUPasses(policy), ReLUPasses(teacher.policy)
    save_saliency(run, measured[config.evaluate_on], *passes, config.seed, run.scale)
    return {
        "objective": final["kl"],
        "steps": steps,
        "learned": has_learned(final["kl"], kl_at_start, run),
        "teacher_sha256": teacher.sha256,
        **{f"{config.evaluate_on}_{name}": value for name, value in final.items()},
        **{f"play_{name}": value for name, value in played.items()},
    }


def check(config: DistillConfig) -> None:
    """Refuse unknown names, impossible networks and what exceeds the memory; the settings refuse the rest."""
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
    flat = check_convolutions(config.student.convolutions)
    check_cost(config, flat)
    try:
        ReLUPasses(AtariPolicy(2, architecture(config)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"student.convolutions={config.student.convolutions}: {error}") from None


def check_cost(config: DistillConfig, flat: int) -> None:
    """Refuse what does not fit into memory. `flat` is the number of inputs of the student's linear layer."""
    dataset, optimizer, student = config.dataset, config.optimizer, config.student
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
    """Refuse layers that do not form a student, and return the number of outputs of the last one.

    `ReLUPasses` refuses what its passes do not support.
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


def architecture(config: DistillConfig) -> Architecture:
    return Architecture(tuple(Convolution(*layer) for layer in config.student.convolutions), config.student.hidden)


def load_states(config: DistillConfig, teacher: Teacher, run: Run) -> tuple[States, dict[str, Measured]]:
    """The training states, and per split the states for evaluation. Frames are not kept."""
    recorded = open_states(config, teacher)
    parts = split_by_episodes(config, recorded)
    passes = ReLUPasses(teacher.policy.to(run.device, run.dtype))
    train = States.of(recorded, parts["train"], passes, run)
    measured = {
        split: Measured.of(recorded, parts[split], passes, config, run) for split in ("train", config.evaluate_on)
    }
    return train, measured


def new_student(config: DistillConfig, n_actions: int) -> AtariPolicy:
    return AtariPolicy(
        n_actions,
        architecture(config),
        initialisation=config.student.initialisation,
        generator=generator(config.seed, "init"),
    )


def distillation_step(
    config: DistillConfig, student: ReLUPasses, teacher: Teacher, train: States, measured: Measured
) -> DistillationStep:
    """The training step. `measured` are training states; the size of the teacher's gradients there balances alpha."""
    objective = config.objective
    size = measured.gradient_size(objective.norm) if objective.balanced else 1.0
    return DistillationStep(
        student,
        objective.kl_weight,
        objective.gradient_weight / size,
        objective.divergence,
        objective.norm,
        teacher_gradients(config, teacher, train.raw_NI) if objective.gradient_weight else None,
    )


def falling(until: float) -> schedules.Schedule:
    """A factor that falls from 1 to 0 over this share of training, as half a cosine; constant 1 if the share is 0."""
    return schedules.cosine(until=until) if until else schedules.constant()


def teacher_gradients(config: DistillConfig, teacher: Teacher, raw_NI: Tensor) -> RecordedGradients | ComputedGradients:
    """The teacher's gradients: recorded if they fit into `recorded_gib`, else computed at each step."""
    compute_dtype = getattr(torch, config.compute_dtype.name)
    dtype = torch.bfloat16 if compute_dtype == torch.bfloat16 else torch.float16
    if RecordedGradients.bytes(len(raw_NI), teacher.policy.n_actions, dtype) > config.recorded_gib * 2**30:
        return ComputedGradients(ReLUPasses(teacher.policy, compute_dtype))
    try:
        return RecordedGradients(ReLUPasses(teacher.policy), raw_NI, dtype)
    except ValueError as error:
        raise BadInput(f"{error} with recorded_gib=0") from None


def checkpoint(update: int, kl_at_start: float, student: ReLUPasses, learn: Update) -> dict:
    return {
        "step": update,
        "kl_at_start": kl_at_start,
        "student": student.state_dict(),
        "optimizer": learn.state_dict(),
    }


def has_learned(kl: float, kl_at_start: float, run: Run) -> bool:
    """Whether the student is closer to the teacher than at the start; if not, print a line on standard error.

    All its units may have died: then its policy is the same at every state.
    """
    learned = kl <= LEARNED * kl_at_start
    if not learned:
        said = f"its KL is {kl:.3g} after {kl_at_start:.3g} at step 0"
        tqdm.write(f"{run.directory}: the student has not learned the policy, {said}", file=sys.stderr)
    return learned


def rows(errors: dict[str, dict[str, float]], seed: int) -> Iterator[tuple[int, str, str, float]]:
    """(seed, split, metric, value)."""
    for split, by_metric in errors.items():
        for metric, value in by_metric.items():
            yield seed, split, metric, value
