r"""Policy distillation with Sobolev Training: the objective of Section 4.2, and a fast training step.

    L = k KL(pi(s) || pi*(s)) + a E_v || grad_s <log pi*(s), v> - grad_s <log pi(s), v> ||      (mean over states)

`distillation_loss` is this objective as a `SobolevLoss`, for any two networks. `DistillationStep` computes the same
parameter gradients for ReLU policies, with neither autograd nor double backpropagation. With p = pi(s), logits y and
sigma = sum_a v_a, the projected log-probability is <log p, v> = <y, v> - sigma logsumexp(y), so that

    grad_s <log p, v> = D_s <y, w>,     w = v - sigma p.

Let e = dL/d(grad_s <log p, v>), which for the norm as printed is a D / ||D||, where D is the difference of the two
gradients. The derivative of the ReLU masks is 0, so the parameter gradient of the Sobolev term is that of the scalar
<y', w>, where y' = D_s y . e is the tangent of the logits along the constant e. It is a sum of two terms: one through
y' at constant w, and one through w at constant y'. The second depends on the parameters only through the logits, and
is added to the gradient of the KL divergence there:

    through y'        dW_l += g_l u_{l-1}^T          u: tangent pass along e;  g: backward pass of w
    through y         r = k dKL/dy - sigma p * (y' - <p, y'>),     dW_l += g'_l h_{l-1}^T     g': backward pass of r

This takes 6 products per layer (1 forward, 2 backward, 1 tangent, 2 for the weights); value-only training takes 3.

The teacher and the states are fixed. At each state the Sobolev term needs a combination of the derivatives of the
teacher's A logits whose coefficients sum to zero: a combination of A - 1 arrays of the state's size.
`RecordedGradients` stores these in 16 bits, so that training does not run the teacher again. If they do not fit into
memory, `ComputedGradients` runs the teacher at each step.

Shape suffixes: S projections, N states, B samples, A actions, F = A - 1 recorded gradients, I inputs (states as flat
patches, see `ReLUPasses`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sobolev.guards import check_log_probabilities
from sobolev.losses import SobolevLoss
from sobolev.networks.atari_policies import FRAME, STACK
from sobolev.networks.relu_passes import ReLUPasses
from sobolev.projections import Projection
from sobolev.weights import present

TeacherGradients = Callable[[Tensor, Tensor, Tensor], Tensor]


def kl_student_teacher(log_p_BA: Tensor, log_q_BA: Tensor) -> Tensor:
    """KL(p || q) of a student p and its teacher q, for each state (B,): the direction that the paper prints.

    An action of probability 0 (log p = -inf) adds nothing, because 0 log 0 = 0.
    """
    return (log_p_BA.exp() * _log_ratio(log_p_BA, log_q_BA)).sum(-1)


def kl_teacher_student(log_p_BA: Tensor, log_q_BA: Tensor) -> Tensor:
    """KL(q || p) of a teacher q and its student p, for each state (B,): the direction common in distillation."""
    return kl_student_teacher(log_q_BA, log_p_BA)


def _log_ratio(log_p_BA: Tensor, log_q_BA: Tensor) -> Tensor:
    """log p / q, and 0 where p is 0."""
    possible = log_p_BA > -math.inf
    return torch.where(possible, log_p_BA, 0.0) - torch.where(possible, log_q_BA, 0.0)


DIVERGENCES = {"student_teacher": kl_student_teacher, "teacher_student": kl_teacher_student}
NORMS = ("l2", "squared_l2")
CHUNK = 250  # states whose gradients are recorded at a time


def distillation_loss(
    kl_weight: float = 1.0,
    gradient_weight: float = 1.0,
    divergence: str = "student_teacher",
    norm: str = "l2",
    projection: Projection | None = None,
    generator: torch.Generator | None = None,
) -> SobolevLoss:
    """The objective of Section 4.2, for a student and a teacher that return log-probabilities (B, A).

    Any classifier that ends in log-softmax works, with classes instead of actions:

    >>> from torch import nn
    >>> from sobolev import projections
    >>> def classifier(hidden):
    ...     layers = nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10), nn.LogSoftmax(-1)
    ...     return nn.Sequential(*layers)
    >>> teacher, student = classifier(128).eval(), classifier(16)
    >>> loss = distillation_loss(gradient_weight=0.1, projection=projections.Sphere())
    >>> loss(student, torch.rand(32, 1, 8, 8), teacher).total.backward()

    Args:
        kl_weight: weight of the KL divergence; 0 trains on gradients alone.
        gradient_weight: the paper's alpha; 0 is value-only training.
        divergence: a key of `DIVERGENCES`. Where the teacher rules a class out that the student does not, only
            "teacher_student" is finite.
        norm: "l2", the paper's, or "squared_l2".
        projection: how v is drawn; None compares the gradients of every action's log-probability.
        generator: what v is drawn from; torch's global one by default.

    Raises:
        ValueError: an unknown divergence or norm, or both weights are 0. When the KL divergence is computed: outputs
            that are not log-probabilities. On a GPU only the first outputs are checked, because each check waits for
            the device.
    """
    _check(divergence, norm)
    seen: set[torch.device] = set()

    def between_policies(log_p_BA: Tensor, log_q_BA: Tensor) -> Tensor:
        check_log_probabilities({"the student": log_p_BA, "the teacher": log_q_BA}, seen)
        return DIVERGENCES[divergence](log_p_BA, log_q_BA)

    return SobolevLoss(
        order=1,
        weights=(kl_weight, gradient_weight),
        distances=(between_policies, norm),
        projection=projection,
        generator=generator,
    )


class DistillationStep:
    """Parameter gradients of `distillation_loss` for a ReLU policy, computed with `ReLUPasses`.

    Calling it sets `.grad` of the student's parameters. After the optimiser's step, call `student.refresh()`.

    Args:
        student: the policy that is trained.
        kl_weight, gradient_weight, divergence, norm: as for `distillation_loss`.
        teacher_gradients: `RecordedGradients` or `ComputedGradients`: a function of (index_B, raw_BI, w_BA), for w that
            sum to zero over actions, that returns D <logits*, w> (B, I) with respect to states in [0, 1]. None for
            value-only training.

    Raises:
        TypeError: a weight that is no number.
        ValueError: an unknown divergence or norm, a weight that is negative or not finite, both weights 0, or a
            gradient weight without teacher gradients.
    """

    def __init__(
        self,
        student: ReLUPasses,
        kl_weight: float = 1.0,
        gradient_weight: float = 1.0,
        divergence: str = "student_teacher",
        norm: str = "l2",
        teacher_gradients: TeacherGradients | None = None,
    ):
        _check(divergence, norm)
        present({0: kl_weight, 1: gradient_weight})
        if gradient_weight and teacher_gradients is None:
            raise ValueError("a gradient weight needs teacher_gradients")
        self.student, self.teacher_gradients = student, teacher_gradients
        self.kl_weight, self.gradient_weight = kl_weight, gradient_weight
        self.divergence, self.norm = divergence, norm
        self._seen: set[torch.device] = set()

    @torch.no_grad()
    def __call__(self, index_B: Tensor, raw_BI: Tensor, teacher_BA: Tensor, v_SBA: Tensor | None = None) -> None:
        """Set `.grad` from one batch.

        Args:
            index_B: the indices of its states, which `RecordedGradients` needs.
            raw_BI: its states, as flat patches of raw frames.
            teacher_BA: the teacher's log-probabilities.
            v_SBA: the projections; None for value-only training.

        Raises:
            ValueError: a gradient weight without projections, tensors of other shapes, or a teacher's outputs that are
                not log-probabilities (on a GPU, the first of them).
        """
        student = self.student
        self._check_batch(raw_BI, teacher_BA, v_SBA)
        for parameter in student.parameters():
            if parameter.grad is None:  # at first, and after `optimizer.zero_grad()`
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.zero_()
        inputs, logits_BA = student.values(raw_BI)
        log_p_BA = logits_BA.log_softmax(-1)
        p_BA = log_p_BA.exp()
        kl_B = DIVERGENCES[self.divergence](log_p_BA, teacher_BA)
        r_BA = self._kl_by_logits(log_p_BA, p_BA, kl_B, teacher_BA).mul_(self.kl_weight / len(raw_BI))
        # A recorded step reads its weight from a tensor, whose value the host does not know.
        learns_gradients = isinstance(self.gradient_weight, Tensor) or self.gradient_weight != 0
        if learns_gradients:
            if v_SBA is None or self.teacher_gradients is None:
                raise ValueError("a gradient weight needs teacher_gradients and projections, v_SBA")
            for v_BA in v_SBA:
                w_BA = v_BA - v_BA.sum(-1, keepdim=True) * teacher_BA.exp()
                teacher_BI = self.teacher_gradients(index_B, raw_BI, w_BA)
                r_BA += self._gradient_term(inputs, p_BA, teacher_BI, v_BA, len(v_SBA))
        signals, _ = student.backward(r_BA, inputs, to_input=False)
        student.accumulate(inputs, signals, of_values=True)

    def _check_batch(self, raw_BI: Tensor, teacher_BA: Tensor, v_SBA: Tensor | None) -> None:
        """Refuse shapes that would broadcast, and a teacher's outputs that are not log-probabilities."""
        batch, actions = len(raw_BI), len(self.student.biases[-1])
        expected: dict[str, tuple[int, ...]] = {"raw_BI": (batch, STACK * FRAME**2), "teacher_BA": (batch, actions)}
        found = {"raw_BI": raw_BI, "teacher_BA": teacher_BA}
        if v_SBA is not None:
            expected["v_SBA"], found["v_SBA"] = (max(len(v_SBA), 1), batch, actions), v_SBA
        for name, tensor in found.items():
            if tensor.shape != expected[name]:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {expected[name]}")
        check_log_probabilities({"the teacher": teacher_BA}, self._seen)

    def _kl_by_logits(self, log_p_BA: Tensor, p_BA: Tensor, kl_B: Tensor, teacher_BA: Tensor) -> Tensor:
        if self.divergence == "teacher_student":
            return p_BA - teacher_BA.exp()
        return p_BA * (_log_ratio(log_p_BA, teacher_BA) - kl_B[:, None])

    def _gradient_term(
        self, inputs: list[Tensor], p_BA: Tensor, teacher_BI: Tensor, v_BA: Tensor, samples: int
    ) -> Tensor:
        """Add to `.grad` the tangent's part of one projection, and return the projection's term of r.

        `teacher_BI` are the teacher's gradients for this projection.
        """
        sigma_B1 = v_BA.sum(-1, keepdim=True)
        signals, difference_BI = self.student.backward(v_BA - sigma_B1 * p_BA, inputs, to_input=True)
        difference_BI -= teacher_BI
        distance_B1 = torch.linalg.vector_norm(difference_BI, dim=1, keepdim=True).to(p_BA.dtype)
        # e is D times one factor per sample. The tangent pass is linear: it runs along D, and the signals are scaled.
        weight = self.gradient_weight / (len(p_BA) * samples)
        if self.norm == "l2":
            factor_B1 = torch.where(distance_B1 > 0, weight / distance_B1, torch.zeros_like(distance_B1))
        else:
            factor_B1 = torch.ones_like(distance_B1) * (2 * weight)
        tangents, change_BA = self.student.tangent(difference_BI, inputs)
        for g in signals:
            g *= factor_B1.view(-1, *[1] * (g.dim() - 1)).to(g.dtype)
        self.student.accumulate(tangents, signals, of_values=False)
        change_BA = change_BA * factor_B1
        return -sigma_B1 * p_BA * (change_BA - (p_BA * change_BA).sum(-1, keepdim=True))


class ComputedGradients:
    """The teacher's projected gradients, computed at each step by a forward and a backward pass."""

    def __init__(self, teacher: ReLUPasses):
        self.teacher = teacher

    def __call__(self, index_B: Tensor, raw_BI: Tensor, w_BA: Tensor) -> Tensor:
        inputs, _ = self.teacher.values(raw_BI)
        return self.teacher.backward(w_BA.to(self.teacher.weights[-1].dtype), inputs, to_input=True)[1]


class RecordedGradients:
    """The teacher's gradients at fixed states, computed once: D (y_a - y_A) for each action a except the last one, A.

    Combinations are summed in float32. The gradients take `bytes(n_states, n_actions, dtype)` of memory.

    Args:
        teacher: the teacher, in the precision in which gradients are computed before they are rounded.
        raw_NI: the states, as flat patches of raw frames.
        dtype: the type to which gradients, coefficients and combinations are rounded, with relative errors of 2^-9 in
            bfloat16 and 2^-11 in float16.

    Raises:
        ValueError: a gradient exceeds the range of dtype.
    """

    def __init__(self, teacher: ReLUPasses, raw_NI: Tensor, dtype: torch.dtype):
        n_actions = teacher.weights[-1].shape[0]
        self.n_fields = n_actions - 1
        n_states, n_inputs = raw_NI.shape
        fields_NFI = torch.empty(n_states, self.n_fields, n_inputs, dtype=dtype, device=raw_NI.device)
        eye_AA = torch.eye(n_actions, dtype=teacher.weights[-1].dtype, device=raw_NI.device)
        for states_BI, fields_BFI in zip(raw_NI.split(CHUNK), fields_NFI.split(CHUNK), strict=True):
            inputs, _ = teacher.values(states_BI)
            for field in range(self.n_fields):
                w_BA = (eye_AA[field] - eye_AA[-1]).repeat(len(states_BI), 1)
                fields_BFI[:, field] = teacher.backward(w_BA, inputs, to_input=True)[1]
            if not fields_BFI.isfinite().all():
                raise ValueError(f"the teacher's gradients exceed the range of {dtype}: compute them instead")
        self.rows = fields_NFI.view(-1, n_inputs)

    @staticmethod
    def bytes(n_states: int, n_actions: int, dtype: torch.dtype) -> int:
        """The memory that the gradients at `n_states` states take."""
        return n_states * (n_actions - 1) * STACK * FRAME**2 * dtype.itemsize

    def __call__(self, index_B: Tensor, raw_BI: Tensor, w_BA: Tensor) -> Tensor:
        row_BF = index_B[:, None] * self.n_fields + torch.arange(self.n_fields, device=index_B.device)
        w_BF = w_BA[:, :-1].to(self.rows.dtype)
        return torch.nn.functional.embedding_bag(row_BF, self.rows, per_sample_weights=w_BF, mode="sum")


def _check(divergence: str, norm: str) -> None:
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}, not {divergence!r}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
