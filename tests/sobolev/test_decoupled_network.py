"""Decoupled training against plain backpropagation, naive double backward, closed forms and finite differences."""

import math
from dataclasses import replace

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from sobolev.networks.gradient_predictors import DirectPredictor, LabelPredictor
from sobolev.synthetic_gradients import TECHNIQUES, DecoupledNetwork, ParallelStep, Technique
from sobolev.synthetic_gradients.prediction import predict

N_CLASSES, BATCH = 5, 6
LEARNED = [name for name, technique in TECHNIQUES.items() if technique.has_predictor]


def make_parts(batchnorm: bool = False) -> list[nn.Module]:
    """Three parts on (B, 2, 6, 6), in float64, of 3 and 4 channels at the splits."""

    def block(before: int, after: int, stride: int) -> nn.Module:
        norm = nn.BatchNorm2d(after) if batchnorm else nn.Identity()
        return nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1), norm, nn.Tanh())

    head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 3 * 3, N_CLASSES))
    parts = [block(2, 3, 1), block(3, 4, 2), nn.Sequential(block(4, 3, 1), head)]
    return [part.double() for part in parts]


def make_network(technique: Technique, batchnorm: bool = False) -> DecoupledNetwork:
    torch.manual_seed(0)
    parts = make_parts(batchnorm)
    predictors: list[nn.Module] = []
    if technique.crosses == "derivative":
        predictors = [
            LabelPredictor((3, 6, 6), N_CLASSES, [4], [1]),
            LabelPredictor((4, 3, 3), N_CLASSES, [4, 3], [1, 2], head="average"),
        ]
    elif technique.crosses == "output":
        predictors = [DirectPredictor((3, 6, 6), N_CLASSES, [4, 4]), DirectPredictor((4, 3, 3), N_CLASSES, [4, 4])]
        for predictor in predictors:  # which begins at zero
            nn.init.normal_(predictor.convolutions[-1].weight, std=0.1)
    return DecoupledNetwork(parts, [predictor.double() for predictor in predictors], technique)


def data(seed: int = 1, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 2, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(N_CLASSES, (batch,), generator=generator)


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def naive_gradients(network: DecoupledNetwork, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The definition, term by term: whole-graph backward passes, double backward and a loop over samples."""
    technique = network.technique
    hidden = [x.detach().requires_grad_()]  # a gradient reaches parts that do not learn, too
    for part in network.parts:
        hidden.append(part(hidden[-1]))
    log_p = hidden[-1].log_softmax(1)
    loss = functional.cross_entropy(hidden[-1], labels, reduction="none")
    splits = range(1, len(network.parts))
    true = [torch.autograd.grad(loss.sum(), hidden[k], retain_graph=True)[0] for k in splits]

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total = {"l1": lambda d: d.abs().sum(), "squared_l2": lambda d: (d * d).sum()}[technique.distance](a - b)
        return total / a.numel() if technique.reduction == "mean" else total

    targets = [(loss.detach(), g, log_p.detach()) for g in true]
    synthetic, losses = [None] * len(splits), [0.0] * len(splits)
    for i, k in reversed(list(enumerate(splits))):
        if technique.crosses == "gradient":
            synthetic[i] = true[i]
            continue
        if technique.crosses == "nothing":
            synthetic[i] = torch.zeros_like(true[i])
            continue
        h = hidden[k].detach().requires_grad_()
        if technique.crosses == "output":
            g = network.predictors[i](h.detach(), labels)
            m = guess = None
        else:
            guess = network.predictors[i](h)
            m = -guess[torch.arange(len(labels)), labels]
            (g,) = torch.autograd.grad(m.sum(), h, create_graph=True)
        synthetic[i] = g.detach()
        target_loss, target_gradient, target_log_p = targets[i]
        for b in range(len(labels)):
            if technique.value:
                losses[i] += technique.value * distance(m[b], target_loss[b]) / len(labels)
            if technique.gradient:
                losses[i] += technique.gradient * distance(g[b], target_gradient[b]) / len(labels)
            if technique.label:
                losses[i] += technique.label * distance(guess[b], target_log_p[b]) / len(labels)
        if technique.targets == "bootstrapped" and i > 0:
            (down,) = torch.autograd.grad(hidden[k], hidden[k - 1], g.detach(), retain_graph=True)
            targets[i - 1] = (
                m.detach() if m is not None else loss.detach(),
                down,
                None if m is None else guess.detach(),
            )

    found = {}
    for i, part in enumerate(network.parts):
        named = {name: p for name, p in part.named_parameters(prefix=f"parts.{i}") if p.requires_grad}
        if not named:
            continue
        if part is network.parts[-1]:
            objective = loss.mean()
        elif technique.crosses == "nothing":
            continue
        else:
            objective = (hidden[i + 1] * synthetic[i]).sum() / len(labels)
        found |= dict(zip(named, torch.autograd.grad(objective, named.values(), retain_graph=True), strict=True))
    for i, predictor in enumerate(network.predictors):
        for name, parameter in predictor.named_parameters(prefix=f"predictors.{i}"):
            if not parameter.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(losses[i], parameter, retain_graph=True, allow_unused=True)
            found[name] = torch.zeros_like(parameter) if gradient is None else gradient
    return found


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("targets", ["true", "bootstrapped"])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_step_is_the_definition(name, targets, batchnorm):
    technique = replace(TECHNIQUES[name], targets=targets, distance="squared_l2", reduction="mean")
    for chosen in (replace(TECHNIQUES[name], targets=targets), technique):
        network = make_network(chosen, batchnorm)
        x, labels = data()
        network.step(x, labels)
        torch.testing.assert_close(gradients(network), naive_gradients(network, x, labels))


class Shifted(nn.Module):
    """A module with a + b, of one shape, added to what comes in: autograd has one gradient for both."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...]):
        super().__init__()
        self.module = module
        self.a, self.b = (nn.Parameter(torch.randn(shape, dtype=torch.float64)) for _ in range(2))

    def forward(self, x):
        return self.module(x + (self.a + self.b))


@pytest.mark.parametrize("name", TECHNIQUES)
def test_parameters_that_are_added_up_each_have_the_gradient(name):
    network = make_network(TECHNIQUES[name])
    shapes = [(2, 6, 6), (BATCH, 3, 6, 6), (BATCH, 4, 3, 3)]  # of a batch's, the gradient is the one that goes down
    network.parts = nn.ModuleList(map(Shifted, network.parts, shapes))
    if name == "noprop":
        network.parts[:-1].requires_grad_(False)
    x, labels = data()
    network.step(x, labels)
    torch.testing.assert_close(gradients(network), naive_gradients(network, x, labels))
    places = [parameter.grad.data_ptr() for parameter in network.main_parameters()]
    assert len(set(places)) == len(places)  # so that what changes one, as clipping does, changes no other


# A frozen part at the index, or one that has no parameters.
NOTHING_TO_LEARN = {"frozen lowest": 0, "frozen": 1, "frozen last": 2, "no parameters": 1}


def leave_nothing_to_learn(network: DecoupledNetwork, what: str) -> None:
    if what == "no parameters":
        network.parts[1] = nn.Sequential(nn.AvgPool2d(2), nn.ConstantPad3d((0, 0, 0, 0, 0, 1), 0.0))
    else:
        network.parts[NOTHING_TO_LEARN[what]].requires_grad_(False)


@pytest.mark.parametrize("what", NOTHING_TO_LEARN)
@pytest.mark.parametrize("targets", ["true", "bootstrapped"])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_gradients_go_through_a_part_that_has_nothing_to_learn(name, targets, what):
    network = make_network(replace(TECHNIQUES[name], targets=targets))
    leave_nothing_to_learn(network, what)
    x, labels = data()
    network.step(x, labels)
    torch.testing.assert_close(gradients(network), naive_gradients(network, x, labels))


@pytest.mark.parametrize("name", LEARNED)
def test_a_frozen_predictor_is_used_and_does_not_learn(name):
    network = make_network(TECHNIQUES[name])
    network.predictors[0].requires_grad_(False)
    x, labels = data()
    network.step(x, labels)
    torch.testing.assert_close(gradients(network), naive_gradients(network, x, labels))


class PerfectPredictor(nn.Module):
    """log p of the parts above: what a label predictor would be at its best."""

    def __init__(self, above: list[nn.Module]):
        super().__init__()
        self.above = nn.Sequential(*above).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()).double())  # something to learn

    def forward(self, h):
        return (self.scale * self.above(h)).log_softmax(1)


@pytest.mark.parametrize("targets", ["true", "bootstrapped"])
@pytest.mark.parametrize("name", ["vfbn", "critic", "sobolev", "sobolev_label"])
def test_with_perfect_predictors_every_gradient_is_backpropagations(name, targets):
    torch.manual_seed(0)
    parts = make_parts()
    x, labels = data()
    predictors = [PerfectPredictor([make_parts()[k] for k in range(i + 1, 3)]) for i in range(2)]
    for i, predictor in enumerate(predictors):
        predictor.above.load_state_dict(nn.Sequential(*parts[i + 1 :]).state_dict())
    network = DecoupledNetwork(parts, predictors, replace(TECHNIQUES[name], targets=targets))
    step = network.step(x, labels)
    decoupled = gradients(network.parts)
    network.parts.zero_grad()
    functional.cross_entropy(network(x), labels).backward()
    torch.testing.assert_close(decoupled, gradients(network.parts))
    torch.testing.assert_close(torch.stack(step.predictor_losses), torch.zeros(2, dtype=torch.float64))
    for predicted in step.predicted_losses_B:
        torch.testing.assert_close(predicted, step.loss_B)


def test_a_perfect_direct_predictor_is_backpropagation():
    torch.manual_seed(0)
    parts = make_parts()
    x, labels = data()
    reference = DecoupledNetwork(parts, [], TECHNIQUES["backprop"])
    true = reference.compare(x, labels).true_B
    reference.step(x, labels)
    expected = gradients(reference.parts)

    class Recorded(nn.Module):
        def __init__(self, gradient):
            super().__init__()
            self.gradient = nn.Parameter(gradient)

        def forward(self, h, labels):
            return self.gradient * 1

    network = DecoupledNetwork(parts, [Recorded(gradient) for gradient in true], TECHNIQUES["direct"])
    network.step(x, labels)
    torch.testing.assert_close(gradients(network.parts), expected)


def test_backpropagation_in_parts_is_backpropagation():
    network = make_network(TECHNIQUES["backprop"], batchnorm=True)
    x, labels = data()
    network.step(x, labels)
    found = gradients(network)
    network.zero_grad()
    functional.cross_entropy(network(x), labels).backward()
    torch.testing.assert_close(found, gradients(network))


@pytest.mark.parametrize("name", LEARNED)
def test_a_part_needs_nothing_from_above(name):
    """Another upper network, even one that puts out nonsense, changes nothing in what the parts below learn."""
    network = make_network(TECHNIQUES[name])
    x, labels = data()
    network.step(x, labels)
    before = gradients(network.parts)
    with torch.no_grad():
        for parameter in network.parts[2].parameters():
            parameter.mul_(-3).add_(1)
        for parameter in network.predictors[1].parameters():
            parameter.mul_(2)
    network.step(x, labels)
    after = gradients(network.parts)
    lowest = [key for key in before if key.startswith("0.")]
    assert all(torch.equal(before[key], after[key]) for key in lowest)
    assert any(not torch.equal(before[key], after[key]) for key in before if key.startswith("1."))


def test_the_synthetic_gradient_of_a_linear_predictor_is_softmax_minus_label():
    """m = -log softmax(W z)_y: dm/dz = W^T (p - e_y), and dm/dy = -log p."""
    torch.manual_seed(0)
    predictor = LabelPredictor((2, 4, 4), N_CLASSES, [3], [1], head="average").double()
    h = torch.randn(BATCH, 2, 4, 4, dtype=torch.float64)
    labels = torch.arange(BATCH) % N_CLASSES
    prediction = predict(TECHNIQUES["sobolev_label"], predictor, h, labels)
    convolved = predictor.convolutions[0](h)
    logits = convolved.relu().mean((2, 3)) @ predictor.linear.weight.T + predictor.linear.bias
    residual = logits.softmax(1) - functional.one_hot(labels, N_CLASSES)
    at_convolution = (residual @ predictor.linear.weight)[:, :, None, None] / 16 * (convolved > 0)
    expected = functional.conv_transpose2d(at_convolution, predictor.convolutions[0].weight, padding=1)
    torch.testing.assert_close(prediction.gradient_B, expected)
    y = functional.one_hot(labels, N_CLASSES).double().requires_grad_()
    (dm_dy,) = torch.autograd.grad((-y * prediction.log_p_BK.detach()).sum(), y)
    torch.testing.assert_close(dm_dy, -logits.log_softmax(1))


def test_the_synthetic_gradient_is_the_finite_difference_of_the_predicted_loss():
    network = make_network(TECHNIQUES["sobolev"])
    x, labels = data()
    comparison = network.eval().compare(x, labels)
    h = network.parts[0](x).detach()
    direction = torch.randn_like(h)

    def predicted(h):
        return predict(TECHNIQUES["sobolev"], network.predictors[0], h, labels).loss_B

    def true(h):
        return functional.cross_entropy(network.parts[2](network.parts[1](h)), labels, reduction="none")

    for function, gradient in ((predicted, comparison.synthetic_B[0]), (true, comparison.true_B[0])):
        difference = (function(h + 1e-6 * direction) - function(h - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close(difference, (gradient * direction).flatten(1).sum(1), rtol=1e-6, atol=1e-8)


def test_the_tangent_is_the_finite_difference_of_log_p():
    torch.manual_seed(0)
    predictor = LabelPredictor((3, 6, 6), N_CLASSES, [4, 4], [1, 2]).double()
    h, v = torch.randn(2, BATCH, 3, 6, 6, dtype=torch.float64)
    _, tangent = predictor.linearise(h)
    difference = (predictor(h + 1e-7 * v) - predictor(h - 1e-7 * v)) / 2e-7
    torch.testing.assert_close(tangent(v), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("distance", ["l1", "l2", "squared_l2", "huber"])
def test_the_two_ways_to_a_predictors_gradient_agree(distance):
    """With `linearise`, an ordinary backward pass; without it, double backward."""

    class Plain(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, h):
            return self.inner(h)

    technique = replace(TECHNIQUES["sobolev_label"], distance=distance)
    torch.manual_seed(0)
    predictor = LabelPredictor((3, 6, 6), N_CLASSES, [4, 4], [1, 2]).double()
    h, target = torch.randn(2, BATCH, 3, 6, 6, dtype=torch.float64)
    labels = torch.arange(BATCH) % N_CLASSES
    loss, log_p = torch.rand(BATCH).double(), torch.randn(BATCH, N_CLASSES).double().log_softmax(1)
    ways = [predict(technique, p, h, labels).gradients(loss, target, log_p) for p in (predictor, Plain(predictor))]
    torch.testing.assert_close(ways[0], ways[1])


@pytest.mark.parametrize("name", TECHNIQUES)
def test_learning(name):
    """Predictors fit what they are given and the network learns; noprop learns in its last part alone."""
    network = make_network(replace(TECHNIQUES[name], reduction="mean"))
    x, labels = data(batch=20)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    main = torch.optim.SGD(network.main_parameters(), lr=0.2, momentum=0.9)
    predictors = list(network.predictors.parameters())
    optimizers = [main, *([torch.optim.Adam(predictors, lr=3e-3)] if predictors else [])]
    losses = []
    for _ in range(60):
        losses.append(network.step(x, labels).loss_B.mean().item())
        for optimizer in optimizers:
            optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    learning = {key for key in before if name != "noprop" or key.startswith("parts.2")}
    assert moved == learning


def test_evaluation_works_without_gradients_and_leaves_none():
    network = make_network(TECHNIQUES["sobolev"]).eval()
    x, labels = data()
    with torch.no_grad():
        comparison = network.compare(x, labels)
        torch.testing.assert_close(network(x), comparison.logits_BK)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [g.shape[1] for g in comparison.synthetic_B] == [g.shape[1] for g in comparison.true_B] == [3, 4]


MISTAKES = {
    "crosses": ({"crosses": "everything"}, "crosses must be one of gradient, nothing, output, derivative"),
    "no weight": ({"crosses": "derivative"}, "needs a weight above 0"),
    "a weight for nothing": ({"crosses": "nothing", "value": 1}, "needs no weight above 0"),
    "a value of an output": ({"crosses": "output", "value": 1}, "has no value"),
    "negative": ({"crosses": "derivative", "value": -1}, "0 or more, and finite, not value=-1, gradient=0.0, label=0"),
    "NaN": ({"crosses": "derivative", "value": 1, "gradient": math.nan}, "finite, not value=1, gradient=nan"),
    "infinite": ({"crosses": "output", "gradient": math.inf}, "0 or more, and finite"),
    "distance": ({"crosses": "derivative", "value": 1, "distance": "l3"}, "distance must be one of"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_techniques_that_cannot_be_are_refused(mistake):
    settings, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        Technique(**settings)


@pytest.mark.parametrize("predictor", [LabelPredictor, DirectPredictor])
@pytest.mark.parametrize("shape", [(6,), (6, 4)])
def test_a_hidden_layer_without_rows_and_columns_is_refused(predictor, shape):
    with pytest.raises(ValueError, match=r"hidden layers \(C, H, W\), not \(6,.*predictor of your own"):
        predictor(shape, N_CLASSES)


@pytest.mark.parametrize("name", ["vfbn", "critic", "sobolev"])
def test_a_label_predictor_of_logits_is_refused(name):
    """What it predicts would not be a loss, and nothing else would say so."""
    network = make_network(TECHNIQUES[name])
    network.predictors[1] = nn.Sequential(nn.Flatten(), nn.LazyLinear(N_CLASSES, dtype=torch.float64))
    for use in (network.step, network.compare):
        with pytest.raises(ValueError, match=r"^predictor 1's outputs are not log-probabilities of .*LogSoftmax"):
            use(*data())
    network.predictors[1] = nn.Sequential(*network.predictors[1], nn.LogSoftmax(-1))
    network.step(*data())


class WithUnused(nn.Module):
    """A part, and a layer that it does not use."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part, self.unused = part, nn.Linear(2, 2)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.part(h)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_what_a_part_does_not_use_has_the_gradient_0(name):
    plain = make_network(TECHNIQUES[name])
    network = DecoupledNetwork([*map(WithUnused, plain.parts)], [*plain.predictors], plain.technique)
    network.step(*data())
    found = [part.unused.weight.grad for part in network.parts if part.unused.weight.requires_grad]
    assert len(found) == (1 if name == "noprop" else 3)
    assert all(gradient is not None and not gradient.any() for gradient in found)


def test_a_wrong_number_of_predictors_is_refused():
    with pytest.raises(ValueError, match="need 2 predictors, not 0"):
        DecoupledNetwork(make_parts(), [], TECHNIQUES["critic"])


@pytest.mark.parametrize("owners", ["part 0 and part 2", "part 1 and predictor 0", "predictor 0 and predictor 1"])
def test_a_parameter_with_two_owners_is_refused(owners):
    """Each overwrites the other's gradient."""
    network = make_network(TECHNIQUES["sobolev"])
    modules = dict(zip(("part", "predictor"), (list(network.parts), list(network.predictors)), strict=True))
    first, second = ((kind, int(k)) for kind, k in (owner.split() for owner in owners.split(" and ")))
    shared = modules[first[0]][first[1]]
    modules[second[0]][second[1]] = nn.Sequential(modules[second[0]][second[1]], shared)
    with pytest.raises(ValueError, match=rf"^{owners} share 1\.\S+, and each learns from a gradient of its own: .*$"):
        DecoupledNetwork(modules["part"], modules["predictor"], network.technique)
    shared.requires_grad_(False)  # no gradient to lose
    DecoupledNetwork(modules["part"], modules["predictor"], network.technique)


@pytest.mark.parametrize("name", TECHNIQUES)
def test_a_parallel_steps_gradients_are_those_of_what_is_made_of_it(name):
    x, labels = data()
    network = make_network(TECHNIQUES[name])
    network.step(x, labels)
    expected = {key: gradient / 4 for key, gradient in gradients(network).items()}
    network.zero_grad()
    (ParallelStep(network)(x, labels) / 4).backward()
    torch.testing.assert_close(gradients(network), expected)


def one_of_two(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {}
    x, labels = data()
    for name, technique in TECHNIQUES.items():
        parallel = DistributedDataParallel(ParallelStep(make_network(technique)))
        for _ in range(2):  # gradients do not add up over steps
            parallel.zero_grad()
            parallel(x[rank::2], labels[rank::2]).backward()
        found[name] = gradients(parallel.module.network)
    torch.save(found, f"{results}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.skipif(not distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_have_the_gradients_of_one(tmp_path):
    multiprocessing.spawn(one_of_two, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    x, labels = data()
    for name, technique in TECHNIQUES.items():
        network = make_network(technique)
        network.step(x, labels)
        for rank in range(2):
            torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt")[name], gradients(network), msg=name)


@pytest.mark.parametrize("technique", ["backprop", "critic", "sobolev", "direct"])
def test_gradients_lie_in_memory_as_their_parameters_do(technique):
    """A fused optimiser walks through both at once. Here activations are channels_last, and weights are not."""
    x, labels = data()
    updates = []
    for fused in (False, True):
        network = make_network(TECHNIQUES[technique])
        network.step(x.contiguous(memory_format=torch.channels_last), labels)
        before = [parameter.detach().clone() for parameter in network.parameters()]
        torch.optim.Adam(network.parameters(), fused=fused).step()
        updates.append([p.detach() - b for p, b in zip(network.parameters(), before, strict=True)])
    for plain, fused in zip(*updates, strict=True):
        torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("technique", ["critic", "direct"])
def test_a_part_that_changes_its_input_in_place_is_refused(technique):
    network = make_network(TECHNIQUES[technique])
    network.parts[1] = nn.Sequential(nn.ReLU(inplace=True), network.parts[1])
    with pytest.raises((ValueError, RuntimeError), match=r"in.place"):
        network.step(*data())
