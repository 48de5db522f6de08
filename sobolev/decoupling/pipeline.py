"""Each part in a process, or on a device, of its own; none waits for another's backward pass (Section 4.3).

A part receives a batch from below, sends its output up, and at once learns from its own predictor's synthetic gradient:

    below --(step, h, y)--> [part k, predictor k] --(step, h, y)--> above
                                     <--(step, L, dL/dh, log p)--

What comes from above arrives whenever it does, and then trains the predictor: with gradients of the weights that made
the prediction, applied to those it has by then, as asynchronous workers do (the paper's predictors are trained so).
Targets are true or bootstrapped, as the technique says; a bootstrapped one is on its way before the part above has
seen a loss. Fed one batch at a time, the parts do exactly what `DecoupledNetwork.step` and the optimisers do.

Shape suffixes: B samples, K classes.
"""

from __future__ import annotations

import copy
import queue
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn
from torch.func import functional_call

from sobolev.decoupling.network import DecoupledNetwork, fill, loss_of, refuse_in_place
from sobolev.decoupling.technique import Prediction, Technique, gradients_of, trainable

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Target = tuple[Tensor, Tensor | None, Tensor]  # L (B,), dL/dh of h's shape, log p (B, K)
Send = Callable[..., None]
STOP = "stop"


@dataclass
class _Pending:
    """A step of which the target has not come down yet."""

    input_B: Tensor
    output_B: Tensor
    prediction: Prediction


class _Stage:
    """One part with the predictor above it. `send_up` and `send_down` do not wait."""

    def __init__(
        self,
        part: nn.Module,
        predictor: nn.Module | None,
        technique: Technique,
        make_optimizer: MakeOptimizer,
        make_predictor_optimizer: MakeOptimizer,
        limit: int,
        lowest: bool,
    ):
        self.part, self.predictor, self.technique = part.train(), predictor, technique
        self.learned = trainable(part)
        self.predictor_learned = trainable(predictor) if predictor else []
        # Optimisers refuse to have nothing to do.
        self.optimizer = make_optimizer(self.learned) if self.learned else None
        self.predictor_optimizer = make_predictor_optimizer(self.predictor_learned) if self.predictor_learned else None
        self.limit, self.passes_down = limit, technique.needs_true_gradient and not lowest
        self.lowest = lowest
        self.pending: dict[int, _Pending] = {}

    def batch(self, step: int, h_B: Tensor, labels_B: Tensor, send_up: Send, send_down: Send) -> int | None:
        """Forward, and an update of the part; the step that was forgotten to make room for this one, if any."""
        # Weights change while the graph waits for its target: it is made on a copy of them.
        weights = {n: p.detach().clone().requires_grad_() for n, p in self.part.named_parameters() if p.requires_grad}
        input_B = h_B.detach().requires_grad_(self.passes_down)
        before = input_B._version
        output_B = functional_call(self.part, weights, input_B)
        if not self.lowest:
            refuse_in_place(input_B, before)
        if self.predictor is None:
            _, loss_B, log_p_BK = loss_of(output_B, labels_B)
            wanted = [*([input_B] if self.passes_down else []), *weights.values()]
            gradients = gradients_of(loss_B.sum(), wanted)
            target_B = gradients.pop(0) if self.passes_down else None
            send_down(step, loss_B.detach(), target_B, log_p_BK.detach())
            self._update(gradients, len(labels_B))
            return None
        send_up(step, output_B.detach(), labels_B)
        prediction = self.technique.predict(copy.deepcopy(self.predictor), output_B, labels_B)
        bootstraps = self.technique.targets == "bootstrapped" and not self.lowest
        wanted = [*([input_B] if bootstraps and self.passes_down else []), *weights.values()]
        keep = self.passes_down and not bootstraps
        gradients = gradients_of(output_B, wanted, prediction.gradient_B, retain_graph=keep)
        if bootstraps:
            target_B = gradients.pop(0) if self.passes_down else None
            log_p_BK = None if prediction.log_p_BK is None else prediction.log_p_BK.detach()
            send_down(step, None if log_p_BK is None else prediction.loss_B.detach(), target_B, log_p_BK)
        self._update(gradients, len(labels_B))
        self.pending[step] = _Pending(input_B, output_B if keep else output_B.detach(), prediction)
        if len(self.pending) <= self.limit:
            return None
        forgotten = min(self.pending)
        del self.pending[forgotten]
        return forgotten

    def target(self, step: int, target: Target, send_down: Send) -> bool:
        """An update of the predictor, unless the step is forgotten; whether there was one."""
        pending = self.pending.pop(step, None)
        if pending is None:
            return False
        if self.passes_down and self.technique.targets == "true":
            loss_B, target_B, log_p_BK = target
            (below_B,) = torch.autograd.grad(pending.output_B, pending.input_B, target_B)
            send_down(step, loss_B, below_B, log_p_BK)
        elif not self.lowest and self.technique.targets == "true":
            send_down(step, *target)
        _, gradients = pending.prediction.gradients(*target)
        fill(self.predictor_learned, gradients)
        if self.predictor_optimizer:
            self.predictor_optimizer.step()
        return True

    def _update(self, gradients: Sequence[Tensor], batch: int) -> None:
        fill(self.learned, gradients, 1 / batch)
        if self.optimizer:
            self.optimizer.step()


class Pipeline:
    """The parts of a network at work, one process each. A context: the network has what was learned once it ends.

    Nothing bounds how far the lowest part runs ahead but the pace at which one feeds it; what is fed and not yet worked
    off lies in memory.

    Args:
        network: whose parts and predictors are trained; of a technique with predictors.
        make_optimizer: of a part's parameters. Made and used in its process, so a function that can be pickled:
            `functools.partial(torch.optim.SGD, lr=0.1)`.
        make_predictor_optimizer: of a predictor's parameters.
        devices: one a part; the CPU by default.
        limit: steps that a part remembers while their targets are under way. Older ones train no predictor.

    Raises:
        ValueError: a technique without predictors: its parts learn nothing before the true gradient comes. A network of
            one part, or not one device for each part.
    """

    def __init__(
        self,
        network: DecoupledNetwork,
        make_optimizer: MakeOptimizer,
        make_predictor_optimizer: MakeOptimizer,
        devices: Sequence[str] | None = None,
        limit: int = 16,
    ):
        if not network.technique.has_predictor:
            raise ValueError(f"crosses={network.technique.crosses} has no predictors to learn from without waiting")
        if len(network.parts) < 2:
            raise ValueError("a pipeline needs a network of 2 parts or more, not 1")
        devices = ["cpu"] * len(network.parts) if devices is None else devices
        if len(devices) != len(network.parts):
            raise ValueError(f"{len(network.parts)} parts need {len(network.parts)} devices, not {len(devices)}")
        self.network = network.share_memory()
        context = _context()
        # Each queue has one writer: of two, one that stands still could hold up the other.
        self._up, down, reports = ([context.Queue() for _ in network.parts] for _ in range(3))
        self._queues = self._up, down, reports  # which must outlive the start of the processes
        self._over = context.Event()
        self._heard = _merged(reports)
        self.updates = [0] * len(network.parts)  # of each part, as far as heard
        self.lessons = [0] * len(network.predictors)  # of each predictor
        self.forgotten: list[set[int]] = [set() for _ in network.predictors]  # steps, by part
        self.limit = limit
        self.processes = []
        for k, (part, predictor) in enumerate(zip(network.parts, [*network.predictors, None], strict=True)):
            settings = (network.technique, make_optimizer, make_predictor_optimizer, limit, k == 0)
            sources = [self._up[k], down[k]]
            neighbours = (self._up[k + 1] if predictor else None, down[k - 1] if k else None)
            arguments = (k, part, predictor, settings, devices[k], sources, neighbours, reports[k], self._over)
            self.processes.append(context.Process(target=_work, args=arguments, daemon=True))
        self._fed = 0

    def __enter__(self) -> Pipeline:
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """End the processes, once each part has learned from all that was fed; an error ends them at once.

        Weights come back to the network. Targets that are still on their way are lost: `wait` first for those.

        Raises:
            RuntimeError: a process failed on what was fed last.
        """
        stopped = 0
        try:
            if kind is None:
                self._up[0].put((STOP,))
                while stopped < len(self.processes):
                    stopped += self._hear() == STOP
        finally:
            self._over.set()
            for process in self.processes:
                if stopped < len(self.processes):
                    process.terminate()
                process.join()
            self._up[0].cancel_join_thread()  # nobody reads any more

    def feed(self, x_B: Tensor, labels_B: Tensor) -> None:
        """Hand a batch to the lowest part, without waiting for it."""
        self._up[0].put(("batch", self._fed, x_B.clone().share_memory_(), labels_B.clone().share_memory_()))
        self._fed += 1

    def wait(self, updates: Sequence[int] = (), lessons: Sequence[int] = ()) -> None:
        """Until parts and predictors, from below, have had so many updates; those left out do not matter.

        Raises:
            RuntimeError: a process failed, or so many lessons cannot come, for steps were forgotten.
        """

        def behind(has: Sequence[int], wanted: Sequence[int]) -> bool:
            return any(h < w for h, w in zip(has, wanted, strict=False))

        while behind(self.updates, updates) or behind(self.lessons, lessons):
            for k, wanted in enumerate(lessons):
                # A true target comes down through every part above.
                passed = self.forgotten[k:] if self.network.technique.targets == "true" else self.forgotten[k : k + 1]
                lost = len(set().union(*passed))
                if wanted > self._fed - lost:
                    raise RuntimeError(
                        f"predictor {k} can have {self._fed - lost} lessons, not {wanted}: {lost} of {self._fed} steps "
                        f"were forgotten before their targets came. Raise limit={self.limit}, or feed more slowly"
                    )
            self._hear()

    def step(self, x_B: Tensor, labels_B: Tensor) -> None:
        """Lock step: feed a batch and wait until every part and predictor has learned from it."""
        self.feed(x_B, labels_B)
        self.wait([self._fed] * len(self.updates), [self._fed] * len(self.lessons))

    def _hear(self) -> str:
        """The next report; what it says is counted."""
        while True:
            try:
                what, k, content = self._heard.get(timeout=1)
                break
            except queue.Empty:
                for number, process in enumerate(self.processes):
                    if process.exitcode is not None:
                        raise RuntimeError(f"part {number} ended with exit code {process.exitcode}") from None
        if what == "batch":
            self.updates[k] += 1
        elif what == "target":
            self.lessons[k] += 1
        elif what == "forgotten":
            self.forgotten[k].add(content)
        elif what == "error":
            raise RuntimeError(f"part {k} failed:\n{content}")
        return what


def _merged(sources: list) -> queue.SimpleQueue:
    """One queue of this process with what comes from several processes."""
    merged = queue.SimpleQueue()

    def forward(source: Any) -> None:
        while True:
            merged.put(source.get())

    for source in sources:
        threading.Thread(target=forward, args=(source,), daemon=True).start()
    return merged


def _shared(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.share_memory_()


def _context() -> Any:
    """Processes that inherit nothing, so that CUDA works in them; where there is a fork server, PyTorch's import."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # which optimisers import when first used: seconds
    return context


def _work(
    k: int,
    part: nn.Module,
    predictor: nn.Module | None,
    settings: tuple,
    device: str,
    sources: list,
    neighbours: tuple,
    reports: Any,
    over: Any,
) -> None:
    """The process of part k."""
    torch.set_num_threads(1)
    local = copy.deepcopy((part, predictor))
    stage = _Stage(*(module and module.to(device) for module in local), *settings)

    above, below = neighbours

    def sender(neighbour: Any, kind: str) -> Send:
        def send(step: int, *tensors: Tensor | None) -> None:
            # Here: a queue's own thread would move the memory while this one computes with it.
            neighbour.put((kind, step, *map(_shared, tensors)))

        return send

    up, down = sender(above, "batch"), sender(below, "target")
    try:
        for kind, *content in iter(_merged(sources).get, (STOP,)):
            step, *tensors = content
            tensors = [None if tensor is None else tensor.to(device) for tensor in tensors]
            if kind == "batch":
                forgotten = stage.batch(step, *tensors, up, down)
                if forgotten is not None:
                    reports.put(("forgotten", k, forgotten))
            elif not stage.target(step, tuple(tensors), down):
                continue
            reports.put((kind, k, ""))
        if above:
            above.put((STOP,))
        for shared, learned in zip((part, predictor), local, strict=True):
            if shared is not None:
                shared.load_state_dict(learned.state_dict())
        reports.put((STOP, k, ""))
        over.wait()  # what was sent lies in this process until it is received
        for neighbour in filter(None, neighbours):
            neighbour.cancel_join_thread()  # nobody reads any more
    except Exception:
        reports.put(("error", k, traceback.format_exc()))
