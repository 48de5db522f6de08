"""Teachers in files: a policy's parameters with what it was trained to play, as safetensors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sobolev.atari.environments import AtariOptions
from sobolev.networks.atari_policies import ARCHITECTURES, AtariPolicy

FORMAT = "sobolev atari teacher 1"


@dataclass(frozen=True)
class Teacher:
    """A trained policy, the options it plays with (`options.actions` names its outputs), and its file's SHA-256."""

    policy: AtariPolicy
    options: AtariOptions
    sha256: str


def teacher_bytes(policy: AtariPolicy, options: AtariOptions) -> bytes:
    """The content of a teacher's file.

    Raises:
        ValueError: `options.actions` does not name as many actions as the policy has.
    """
    if len(options.actions) != policy.n_actions:
        raise ValueError(f"{policy.n_actions} actions in the policy and {len(options.actions)} in the options")
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    return save(tensors, {FORMAT: json.dumps(asdict(options))})  # one key: several would be in no certain order


def load_teacher(path: str | Path) -> Teacher:
    """Read what `teacher_bytes` wrote.

    Raises:
        ValueError: no file, or one that is damaged or foreign; names what is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no teacher at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it has no iterator)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    if FORMAT not in metadata:
        raise ValueError(f"{path} holds no teacher: its metadata has no {FORMAT!r}")
    try:
        options = json.loads(metadata[FORMAT])
        options = AtariOptions(**options | {"actions": tuple(options["actions"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say what it plays ({error!r})") from None
    policy = AtariPolicy(len(options.actions), ARCHITECTURES["teacher"])
    expected = {name: tensor.shape for name, tensor in policy.state_dict().items()}
    if set(tensors) != set(expected):
        raise ValueError(f"{path} differs from a teacher in {', '.join(sorted(set(tensors) ^ set(expected)))}")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(shape)}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite")
    policy.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})
    policy.requires_grad_(False)
    return Teacher(policy, options, hashlib.sha256(path.read_bytes()).hexdigest())
