"""Checkpoints: a plain dict that names its run and the state of its rows at that moment."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, ValidationError
from torch.optim.optimizer import register_optimizer_step_pre_hook

from experiments.runner.errors import BadInput
from experiments.runner.identity import Damaged
from sobolev.files import read, replacing, sha256


class Checkpoint(BaseModel, strict=True):
    """A checkpoint. Its own content is protected by the checksums of the zip archive that PyTorch writes."""

    run_id: str | None = None  # None in checkpoints from before they named their run
    state: dict[str, Any] = Field(repr=False, min_length=1)
    metrics_bytes: NonNegativeInt
    metrics_sha256: str
    wall_seconds: NonNegativeFloat
    code: list[str] = ["unknown"]  # digests (`code_identity`) of all code that contributed rows so far

    @classmethod
    def read(cls, path: Path) -> Checkpoint | None:
        """The checkpoint at `path`, in the folder of its run, or None if there is none.

        Raises:
            OSError: it cannot be read at present, which does not mean that it is damaged.
            Damaged: it is not a checkpoint, belongs to another run, or its rows are missing.
        """
        if not path.exists():
            return None
        content = io.BytesIO(read(path))
        try:
            with zipfile.ZipFile(content) as archive:
                if damaged := archive.testzip():  # torch does not verify the checksums that it writes
                    raise zipfile.BadZipFile(damaged)
            content.seek(0)
            saved = cls.model_validate(torch.load(content, weights_only=True, map_location="cpu"))
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise Damaged(f"{path} is damaged ({where or 'all of it'}: {error.errors()[0]['msg']})") from None
        except MemoryError:
            raise
        except Exception as error:
            raise Damaged(f"{path} is damaged ({type(error).__name__})") from None
        if saved.run_id not in (None, path.parent.name):
            raise Damaged(f"{path} is damaged (it belongs to run {saved.run_id})")
        rows = path.with_name("metrics.csv")
        if not rows.exists() or sha256(rows, saved.metrics_bytes) != saved.metrics_sha256:
            raise Damaged(f"{rows} does not match its checkpoint")
        return saved

    def write(self, path: Path) -> None:
        buffer = io.BytesIO()  # torch.save to a file would replace the system's error with its own
        torch.save(dict(self), buffer)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())


class Trial:
    """The first step after resuming, which shows whether the state fits the experiment.

    A checkpoint may be intact and yet come from different code. An error during this step is blamed on the checkpoint
    and reported, so that hours of training are not silently started again.
    """

    def __init__(self, path: Path):
        self._path = path
        self._calls_left = 2  # of `checkpoint`: at the step of the saved state and at the next one
        self._hook = register_optimizer_step_pre_hook(check_moments)

    @property
    def going(self) -> bool:
        return self._calls_left > 0

    def advance(self) -> None:
        self._calls_left = max(0, self._calls_left - 1)
        if not self.going:
            self.end()

    def end(self) -> None:
        self._calls_left = 0
        self._hook.remove()

    def refuse(self, error: Exception) -> None:
        """Raise an error that blames the checkpoint, if the trial still goes on and the error may come from it."""
        by_slurm = type(error).__module__.startswith("submitit.")  # raised at Slurm's signal, wherever the run is
        if self.going and not by_slurm and not isinstance(error, BadInput | OSError | MemoryError):
            reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            raise BadInput(
                f"{self._path} does not fit this run ({reason}): it is damaged or from different code; remove it to "
                "start the run again"
            ) from error


def check_moments(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Refuse optimizer state whose shape differs from that of its parameter.

    `load_state_dict` does not check this, and a fused optimizer would read out of bounds.
    """
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")
