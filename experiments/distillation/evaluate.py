"""How a student is evaluated: its distance from the teacher on given states, its own games, and its gradients.

Shape suffixes: N states, G states whose gradients are compared, B samples of a batch, A actions, I inputs of a state as
flat patches (see `ReLUPasses`), (C, H, W) a state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.distillation.settings import DistillConfig
from experiments.distillation.states import States
from experiments.runner.run import Run
from sobolev import projections
from sobolev.atari import RecordedStates, Teacher, play
from sobolev.distillation import kl_student_teacher, kl_teacher_student
from sobolev.networks.atari_policies import AtariPolicy
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.seeding import generator

NEARLY_UNIFORM = 0.9  # share of the greatest entropy above which a policy counts as nearly uniform (claim D3); ours
SHOWN_STATES = 4  # in the figure of gradients


@dataclass(frozen=True)
class Measured:
    """States on which a student is evaluated, evenly spaced in time; on some of them gradients are compared too.

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
        """The teacher's entropy, share of nearly uniform policies and mean gradient norm on these states."""
        log_q = self.states.teacher_NA.double()
        entropy = -(log_q.exp() * log_q).sum(-1)
        return {
            "entropy": entropy.mean().item(),
            "nearly_uniform": (entropy > NEARLY_UNIFORM * math.log(log_q.shape[1])).double().mean().item(),
            "gradient_norm": self.gradient_GI.norm(dim=1).double().mean().item(),
        }

    def gradient_size(self, norm: str) -> float:
        """The mean over states of || grad <log pi*, v> ||, or of its square; 1 if all are 0."""
        norm_G = self.gradient_GI.norm(dim=1).double()
        return (norm_G.square() if norm == "squared_l2" else norm_G).mean().item() or 1.0


def projected_gradients(passes: ReLUPasses, raw_NI: Tensor, v_NA: Tensor, chunk: int = 250) -> Tensor:
    """The gradients of <log pi, v> with respect to states in [0, 1] (N, I)."""
    gradients = []
    for raw_BI, v_BA in zip(raw_NI.split(chunk), v_NA.split(chunk), strict=True):
        inputs, logits_BA = passes.values(raw_BI)
        w_BA = v_BA - v_BA.sum(-1, keepdim=True) * logits_BA.softmax(-1)
        gradients.append(passes.backward(w_BA, inputs, to_input=True)[1])
    return torch.cat(gradients)


def play_beside(policy: AtariPolicy, teacher: Teacher, config: DistillConfig, run: Run) -> dict[str, float]:
    """Play whole games with the student, and measure its distance from the teacher on the states that it visits."""
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
    run: Run, measured: Measured, student: ReLUPasses, teacher: ReLUPasses, seed: int, scale: str
) -> None:
    """Save teacher's and student's gradients of the log-probability of the teacher's choice, at a few states.

    The states where gradients are compared are divided into equal parts; each part contributes the state where the
    teacher's gradient is largest. Where the teacher is certain, the gradient vanishes.
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
    run.save_arrays("saliency", **numbers, seed=np.array(seed), scale=np.array(scale))


def evenly(n: int, at_most: int) -> np.ndarray:
    """At most `at_most` of the positions 0 to n - 1, evenly spaced."""
    return np.linspace(0, n - 1, min(n, at_most)).round().astype(int)
