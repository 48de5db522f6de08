"""Teachers' files, in the format safetensors: a policy's parameters and the game that it was trained to play."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sobolev.atari.environments import AtariOptions
from sobolev.files import sha256
from sobolev.networks.atari_policies import ARCHITECTURES, STACK, AtariPolicy

FORMAT = "sobolev atari teacher 1"
FLOATS = ("F16", "BF16", "F32", "F64")  # the types that are read as float32, by their names in safetensors


@dataclass(frozen=True)
class Teacher:
    """A trained policy.

    Attributes:
        policy: the policy.
        options: the game that it was trained on; `options.actions` names its outputs.
        sha256: the digest of its file.
    """

    policy: AtariPolicy
    options: AtariOptions
    sha256: str


def teacher_bytes(policy: AtariPolicy, options: AtariOptions) -> bytes:
    """The content of a teacher's file.

    Raises:
        ValueError: the numbers of actions, or of frames in a state, differ between `options` and the policy.
    """
    if len(options.actions) != policy.n_actions:
        raise ValueError(f"{policy.n_actions} actions in the policy and {len(options.actions)} in the options")
    if options.stack != STACK:
        raise ValueError(f"a policy's states have {STACK} frames, and the options' have {options.stack}")
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    return save(tensors, {FORMAT: json.dumps(asdict(options))})  # one key, because the order of several would vary


def load_teacher(path: str | Path) -> Teacher:
    """Read a file written with `teacher_bytes`. Parameters become float32, whatever floating-point type is stored.

    Raises:
        ValueError: the file is missing, unreadable, damaged or not a teacher. The message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no teacher at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            options = _options(file.metadata() or {})
            policy = AtariPolicy(len(options.actions), ARCHITECTURES["teacher"])
            if options.stack != STACK:
                raise ValueError(f"stack is {options.stack}, expected {STACK}")
            policy.load_state_dict(_parameters(file, policy))
        digest = sha256(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no teacher: {error}") from None
    policy.requires_grad_(False)
    return Teacher(policy, options, digest)


def _options(metadata: dict[str, str]) -> AtariOptions:
    if FORMAT not in metadata:
        raise ValueError(f"its metadata has no {FORMAT!r}")
    try:
        return AtariOptions.parse(json.loads(metadata[FORMAT]))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it does not say what it plays ({error})") from None


def _parameters(file: safe_open, policy: AtariPolicy) -> dict[str, Tensor]:
    """The parameters in float32. Names, types and shapes are checked before anything is read."""
    expected = {name: tensor.shape for name, tensor in policy.state_dict().items()}
    if difference := set(file.keys()) ^ set(expected):
        raise ValueError(f"it differs from one in {', '.join(sorted(difference))}")
    tensors = {}
    for name, shape in expected.items():
        stored = file.get_slice(name)
        if tuple(stored.get_shape()) != shape:
            raise ValueError(f"{name} has shape {tuple(stored.get_shape())}, expected {tuple(shape)}")
        if stored.get_dtype() not in FLOATS:
            raise ValueError(f"{name} has type {stored.get_dtype()}, expected one of {', '.join(FLOATS)}")
        tensors[name] = file.get_tensor(name).to(torch.float32)
        if not tensors[name].isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite in float32")
    return tensors
