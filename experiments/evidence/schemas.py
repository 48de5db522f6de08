"""The schemas of evidence files: the fields of rows, runs, settings, summaries, cards and arrays.

Names become parts of file names, numbers become 64-bit integers, and text is printed. The types here reject whatever
could lead to another folder, overflow or garble a terminal.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, JsonValue

from experiments.runner.errors import LONGEST_NAME

SCALES = ("paper", "reduced")


def _name(text: str, longest: int = LONGEST_NAME) -> str:
    """A word that may be part of a file name."""
    if not (_word(text)[0].isalnum() and len(text.encode()) <= longest) or {"/", "\\"} & set(text):
        begins = "one word that begins with a letter or digit"
        raise ValueError(f"not a name: {begins}, without slashes, {longest} bytes at most")
    return text


def _folder(text: str) -> str:
    """The name of a run's folder."""
    return _name(text, 255)


def _word(text: str) -> str:
    if [text] != text.split() or _line(text) != text:
        raise ValueError("not one word")
    return text


def _line(text: str) -> str:
    if len(text) > 300 or not text.isprintable():
        raise ValueError("not one line of 300 printable characters at most")
    return text


def _count(text: str) -> str:
    """A non-negative integer in its canonical form, so that each number has only one spelling."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and str(int(text)) == text and int(text) < 2**63):
        raise ValueError("not a number from 0 to 2^63 - 1")
    return text


def _number(text: str) -> str:
    try:
        float(text)
    except ValueError:
        raise ValueError("not a number") from None
    if "_" in text or [text] != text.split():  # only Python accepts these
        raise ValueError("not a number")
    return text


def _finite(text: str) -> str:
    if not math.isfinite(float(_number(text))):
        raise ValueError("not a finite number")
    return text


def _scale(text: str) -> str:
    if text not in SCALES:
        raise ValueError(f"not one of {', '.join(SCALES)}")
    return text


def _seeds(text: str) -> str:
    for seed in text.split(" "):
        _count(seed)
    return text


Name = Annotated[str, AfterValidator(_name)]
Folder = Annotated[str, AfterValidator(_folder)]
Word = Annotated[str, AfterValidator(_word)]
Line = Annotated[str, AfterValidator(_line)]
Scale = Annotated[str, AfterValidator(_scale)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, le=10**6)]
# The same types as text in a CSV.
CountText = Annotated[str, AfterValidator(_count)]
NumberText = Annotated[str, AfterValidator(_number)]
FiniteText = Annotated[str, AfterValidator(_finite)]

# The columns of CSV files.
CELL = {"experiment": Name, "task": Name, "method": Name, "n_train": CountText}
MEASURED = CELL | {"seed": CountText, "step": CountText, "split": Word, "metric": Word, "value": NumberText}
ROWS = MEASURED | {"value": FiniteText, "scale": Scale}
RUNS = {
    **CELL,
    **{"seeds": Annotated[str, AfterValidator(_seeds)], "scale": Scale, "run_id": Folder},
    **dict.fromkeys(("revision", "dirty", "python", "torch", "numpy", "platform", "device"), Line),
    **{"threads": CountText, "precision": Word, "wall_seconds": FiniteText},
}
RUN_NOTES = tuple(RUNS)[tuple(RUNS).index("run_id") :]  # what runs.csv takes from a manifest

# The fields of JSON and YAML files. Other fields are ignored.
Settings = dict[Line, dict[str, JsonValue]]  # by cell: its four parts, separated by spaces


class Labels(BaseModel):
    task: Name
    method: Name
    n_train: Count


class Config(BaseModel):
    """The part of a run's config that every experiment has."""

    name: Name
    seed: Count
    labels: Labels
    networks: Annotated[int, Field(ge=1, le=10**6)] = 1


class Composed(BaseModel):
    """The part of a file in `configs/experiment` or `configs/sweep` that names rows."""

    name: str | None = None
    labels: dict[str, str | int] = {}
    defaults: list[str | dict[str, str | None]] = []


class SearchConfig(BaseModel):
    """The config of a run in a search, whose labels are not used."""

    seed: Count
    evaluate_on: Word


class Training(BaseModel):
    """How a teacher was trained."""

    algorithm: Word
    steps: Count


class TeacherConfig(BaseModel):
    seed: Count
    teacher: Training


class Played(BaseModel):
    """A student's teacher, as far as it is needed to show the two playing."""

    game: Name
    teacher: str
    teacher_sha256: str


class Layers(BaseModel):
    convolutions: list[tuple[Size, Size, Size]]
    hidden: Size


class Updates(BaseModel):
    steps: Size


class StudentConfig(Config):
    """A run of distillation, as far as it is needed to show its student playing."""

    dataset: Played
    student: Layers
    optimizer: Updates
    n_train: Size
    play_episodes: Annotated[int, Field(ge=1, le=1000)]


class Manifest(BaseModel):
    run_id: Folder
    revision: Line | None  # None in a copy without its revision; `dirty` is then unknown too
    dirty: bool | None
    python: Line
    torch: Line
    numpy: Line
    platform: Line
    device: Line
    threads: Count
    precision: Word
    wall_seconds: Annotated[FiniteFloat, Field(ge=0)]
    metrics_sha256: str | None = None  # missing from older manifests


class Summary(BaseModel):
    """The summary of a complete run. A run whose objective is not finite is not complete."""

    model_config = ConfigDict(extra="allow")
    objective: FiniteFloat
    scale: Any = None  # a user's own experiment may omit it


class Options(BaseModel):
    """How a teacher plays, as far as exporting reads it."""

    model_config = ConfigDict(extra="allow")
    game: Name
    actions: list[Line]
    action_repeat: Count


class TeacherSummary(Summary):
    steps: Count
    score: FiniteFloat
    start_sha256: Line = ""
    options: Options


class Score(BaseModel):
    mean: FiniteFloat


class Card(BaseModel):
    """The card of a teacher. `before` is the card of the teacher that it continued from, or only its SHA-256."""

    run_id: Folder
    sha256: Line
    options: dict[str, JsonValue]
    training: Training
    score: Score
    before: Card | Digest | None = None


class Digest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    sha256: Line


# The arrays of npz files: the NumPy kind and the shape. A letter is a size, the same wherever it occurs.
SURFACE = {
    **{"x": ("f", "GG2"), "value": ("f", "GG"), "gradient": ("f", "GG2")},
    **{"target_value": ("f", "GG"), "target_gradient": ("f", "GG2"), "x_train": ("f", "P2")},
    **{"seed": ("i", ""), "scale": ("U", "")},
}
SALIENCY = {
    **{"state": ("u", "SCHW"), "teacher_gradient": ("f", "SCHW"), "student_gradient": ("f", "SCHW")},
    **{"seed": ("i", ""), "scale": ("U", "")},
}
SCORES = {"score": ("fi", "E"), "score_greedy": ("fi", "F")}
PREDICTIONS = {  # N test samples, O outputs, I inputs
    **{"y": ("f", "NO"), "y_predicted": ("f", "NO"), "dy": ("f", "NOI"), "dy_predicted": ("f", "NOI")},
    "scale": ("U", ""),
}
