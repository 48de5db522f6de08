"""Whatever a file of evidence holds, its reader returns, or says in one line what is wrong, and soon.

Random bytes seldom get past the first check, so most examples are valid files with something random done to them.
"""

import gzip
import json
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.distillation import export_teachers
from experiments.distillation.figures import read_steps_before
from experiments.evidence.collect import Results, collect, compressed
from experiments.evidence.reading import ROWS_FILE, SUMS, EvidenceError, read_arrays, read_csv, read_json, read_yaml
from experiments.evidence.rows import read_rows, read_settings, read_surfaces
from experiments.evidence.schemas import (
    MEASURED,
    RUNS,
    SALIENCY,
    SURFACE,
    Card,
    Config,
    Manifest,
    Settings,
    Summary,
    TeacherConfig,
    TeacherSummary,
)
from tests.conftest import CONFIGS
from tests.evidence.test_collect import make_run
from tests.evidence.test_evidence_exports import make_teacher_run
from tests.evidence.test_evidence_files import ALIASES, tree
from tests.regression.test_evidence import make_surface, write_surface

SHIPPED = CONFIGS.parent / "results"
SOON = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
POISON = (
    *(b"\xef\xbb\xbf", b"\0", b"\xff", b"\r", b"\n", b",", b'"', b"-", b"9" * 30, b"1e999", b"nan", b"NaN", b"null"),
    *(b"[" * 2000, b"{" * 2000, b'{"a":' * 2000, b"- " * 200, b"[]", b"..", b"/../../x", b"a/b", b"${oc.env:HOME}"),
    *(str(2**63).encode(), b"\x1b[2J", b"\xed\xa0\x80", b"!!python/object:x", ALIASES.encode(), b"? ", b"<<: ", b"0_0"),
)


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """One to three changes to a file: bytes put in, taken out, changed or repeated, at random places."""
    places = st.floats(0, 1, exclude_max=True)
    added = st.one_of(st.sampled_from(POISON), st.binary(max_size=20))
    changes = draw(
        st.lists(
            st.tuples(st.sampled_from(["in", "over", "out", "twice", "cut"]), places, places, added),
            min_size=1,
            max_size=3,
        )
    )

    def mutate(content: bytes) -> bytes:
        for kind, first, second, new in changes:
            start = int(first * len(content))
            end = start + int(second * min(200, len(content) - start))
            content = {
                "in": content[:start] + new + content[start:],
                "over": content[:start] + new + content[start + len(new) :],
                "out": content[:start] + content[end:],
                "twice": content[:end] + content[start:],
                "cut": content[:start],
            }[kind]
        return content

    return mutate


CONTENTS = st.one_of(mutations(), mutations(), st.binary(max_size=200).map(lambda content: lambda _: content))


@cache
def valid() -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    """For each kind of file a whole one, and its reader."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), "a", 1.0)
        write_surface(run / "surface.npz", make_surface())
        of_run = {path.name: path.read_bytes() for path in run.iterdir()}
    teacher = SHIPPED / "teachers"
    saliency = min((SHIPPED / "distillation" / "saliency").glob("*.npz"))
    summary = {
        "objective": -1.0,
        "steps": 9,
        "score": 1.0,
        "options": {"game": "pong", "actions": [], "action_repeat": 4},
    }
    rows = b"".join(gzip.decompress((teacher / ROWS_FILE).read_bytes()).splitlines(keepends=True)[:40])
    a_setting = json.dumps(dict(list(json.loads((teacher / "settings.json").read_text()).items())[:1])).encode()
    return {
        "summary": (of_run["summary.json"], lambda path: read_json(path, Summary)),
        "summary of a teacher": (json.dumps(summary).encode(), lambda path: read_json(path, TeacherSummary)),
        "manifest": (of_run["manifest.json"], lambda path: read_json(path, Manifest)),
        "config": (of_run["config.yaml"], lambda path: read_yaml(path, Config)),
        "config of a teacher": (
            b"seed: 0\nteacher: {algorithm: ppo, steps: 9}\n",
            lambda path: read_yaml(path, TeacherConfig),
        ),
        "measured": (of_run["metrics.csv"], lambda path: read_csv(path, MEASURED)),
        "any table": (of_run["metrics.csv"], read_csv),
        "rows": (rows, read_rows),
        "rows.csv.gz": (compressed(rows), read_rows),
        "runs": ((teacher / "runs.csv").read_bytes(), lambda path: read_csv(path, RUNS)),
        "settings": (a_setting, lambda path: read_json(path, Settings)),
        "settings of cells": (a_setting, read_settings),
        "card": ((teacher / "breakout.json").read_bytes(), lambda path: read_json(path, Card)),
        "surface": (of_run["surface.npz"], lambda path: read_arrays(path, SURFACE)),
        "saliency": (saliency.read_bytes(), lambda path: read_arrays(path, SALIENCY)),
    }


def refusal(read: Callable[[Path], object], path: Path) -> str:
    """What a reader says in refusing, and nothing where it reads; either within five seconds of work."""
    said, began = "", time.process_time()
    try:
        read(path)
    except EvidenceError as error:
        said = str(error)
    assert said.isprintable()
    assert time.process_time() - began < 5
    return said


@SOON
@given(mutate=CONTENTS)
def test_every_reader_reads_or_refuses(mutate):
    with tempfile.TemporaryDirectory() as folder:
        for kind, (content, read) in valid().items():
            path = Path(folder) / kind
            path.write_bytes(content)
            if not kind.startswith("rows"):
                read(path)
            path.write_bytes(mutate(content))
            assert len(refusal(read, path)) < 500, kind
            assert [*Path(folder).iterdir()] == [path]
            path.unlink()


RUN_FILES = ("metrics.csv", "summary.json", "manifest.json", "config.yaml", "surface.npz")


@SOON
@given(file=st.sampled_from(RUN_FILES), mutate=CONTENTS)
def test_a_run_is_collected_or_left_out_and_nothing_lands_elsewhere(file, mutate):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bad, whole = (
            make_run(root / "deep" / "runs", name, 1.0, seeds=(seed,)) for name, seed in (("bad", 7), ("whole", 0))
        )
        for run in (bad, whole):
            write_surface(run / "surface.npz", make_surface())
        (bad / file).write_bytes(mutate((bad / file).read_bytes()))
        before = tree(root)
        results = root / "deep" / "results" / "regression"
        collect([bad, whole], results)
        assert {
            name: content for name, content in tree(root).items() if not name.startswith("deep/results/regression/")
        } == before
        names = {"rows.csv.gz", "runs.csv", "settings.json", SUMS, "surfaces/regression_booth_value_20.npz"}
        assert set(tree(results)) == names
        rows = read_rows(results / "rows.csv.gz")
        assert 0 in rows["seed"]
        assert set(rows["seed"].tolist()) <= {0, 7}
        assert len(read_surfaces(results / "surfaces", rows)) == 1


@SOON
@given(file=st.sampled_from(["rows.csv.gz", "runs.csv", "settings.json", SUMS]), mutate=CONTENTS, sums=st.booleans())
def test_results_are_read_or_refused(file, mutate, sums):
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        for name in ("rows.csv.gz", "runs.csv", "settings.json", SUMS):
            content = (SHIPPED / "teachers" / name).read_bytes()
            (results / name).write_bytes(mutate(content) if name == file else content)
        if not sums:
            (results / SUMS).unlink()
        refusal(Results.read, results)
        refusal(read_steps_before, results)


@SOON
@given(
    file=st.sampled_from(["summary.json", "manifest.json", "config.yaml", "scores.npz", "teacher.safetensors"]),
    mutate=CONTENTS,
)
def test_a_teacher_is_read_or_refused(atari_folder, file, mutate):
    with tempfile.TemporaryDirectory() as folder:
        run = make_teacher_run(Path(folder), atari_folder / "teacher.safetensors")
        (run / file).write_bytes(mutate((run / file).read_bytes()))
        refusal(export_teachers.TrainedTeacher.read, run)
