"""What a run saves to go on from: a plain dict that names its run, and the rows that it was written beside."""

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
    """A checkpoint. Checksums of its own content are those of the zip archive that PyTorch writes."""

    run_id: str | None = None  # a run of before checkpoints named it goes on too
    state: dict[str, Any] = Field(repr=False, min_length=1)
    metrics_bytes: NonNegativeInt
    metrics_sha256: str
    wall_seconds: NonNegativeFloat
    code: list[str] = ["unknown"]  # whatever decided the rows so far, by `code_identity`

    @classmethod
    def read(cls, path: Path) -> Checkpoint | None:
        """The checkpoint of the run whose folder `path` lies in, or None where there is none.

        Raises:
            OSError: it cannot be read now, which does not make it damaged.
            Damaged: it is no checkpoint, another run's, or its rows are not there.
        """
        if not path.exists():
            return None
        content = io.BytesIO(read(path))
        try:
            with zipfile.ZipFile(content) as archive:
                if damaged := archive.testzip():  # torch does not compare the checksums that it writes
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
            raise Damaged(f"{path} is damaged (it is of the run {saved.run_id})")
        rows = path.with_name("metrics.csv")
        if not rows.exists() or sha256(rows, saved.metrics_bytes) != saved.metrics_sha256:
            raise Damaged(f"{rows} is not what its checkpoint says")
        return saved

    def write(self, path: Path) -> None:
        buffer = io.BytesIO()  # torch would hide what the disk says behind an error of its own
        torch.save(dict(self), buffer)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())


class Trial:
    """A resumed state until it has been seen to fit the experiment: a step long.

    A checkpoint may be whole and yet of other code. What fails before that step is done is the checkpoint's fault, and
    said so; what took hours is not begun again without a word.
    """

    def __init__(self, path: Path):
        self._path = path
        self._calls_left = 2  # of `checkpoint`, at the step that it was saved at and at the next
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
        """Raise in the place of an error that the state has caused."""
        if self.going and not isinstance(error, BadInput | OSError | MemoryError):
            reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            raise BadInput(
                f"{self._path} does not fit this run ({reason}): it is damaged or of other code; remove it, and the "
                "run begins again"
            ) from error


def check_moments(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """Refuse what an optimizer holds by parameter where it has not the parameter's shape.

    `load_state_dict` does not look, and a fused optimizer would read memory that is not its own.
    """
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")
