"""The states that a student learns from: the teacher that visits them, and how they are recorded, split and loaded.

Shape suffixes: N states, A actions, I inputs of a state as flat patches (see `ReLUPasses`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.distillation.settings import SPLITS, DistillConfig
from experiments.runner.errors import CONFIGS, BadInput
from experiments.runner.run import Run
from experiments.runner.settings import located
from sobolev.atari import RecordedStates, Recording, Teacher, load_teacher, record
from sobolev.devices import to_device
from sobolev.networks.relu_passes import ReLUPasses

SHIPPED_TEACHER = "results/teachers/{game}.safetensors"


def open_teacher(config: DistillConfig) -> Teacher:
    """Load the teacher; refuse one that was trained with other options than the config has."""
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


def open_states(config: DistillConfig, teacher: Teacher) -> RecordedStates:
    """The states that the teacher visits, recorded now unless they were before.

    The teacher always computes on the CPU: a run's device is not part of its identity, so it must not decide which
    states the student learns from.
    """
    dataset = config.dataset
    try:
        recording = Recording(teacher, dataset.n_states, dataset.recording_environments, dataset.recording_seed)
        with tqdm(desc=f"{dataset.game} states", total=dataset.n_states, disable=None, mininterval=0.5) as progress:
            path = record(recording, dataset.folder, torch.get_num_threads(), progress.update)
        return RecordedStates.load(path, recording)
    except ValueError as error:
        raise BadInput(f"dataset: {error}") from None


def split_by_episodes(config: DistillConfig, recorded: RecordedStates) -> dict[str, np.ndarray]:
    """Indices of each part, in order of time; of the train part the first `n_train`."""
    try:
        parts = dict(zip(SPLITS, map(np.asarray, recorded.split(*config.dataset.split)), strict=True))
    except ValueError as error:
        raise BadInput(f"dataset.split: {error}") from None
    if len(parts["train"]) < config.n_train:
        raise BadInput(
            f"n_train={config.n_train}, but the train part of the recording has {len(parts['train'])} states: "
            "lower n_train, or raise dataset.n_states or the first of dataset.split"
        )
    return parts | {"train": parts["train"][: config.n_train]}


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
            raw.append(teacher.flat_patches(to_device(recorded.stack(torch.from_numpy(part)), run.device)))
            log_p.append(teacher.values(raw[-1])[1].log_softmax(-1))
        return cls(torch.cat(raw), torch.cat(log_p))
