"""Files of evidence that are damaged, foreign or poisoned: named in one line and left out; the rest goes on."""

import errno
import gzip
import hashlib
import json
import os
import re
import threading
import time
import zlib
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiments.evidence import report, results
from experiments.evidence.collect import Results, as_csv, collect, compressed
from experiments.evidence.reading import ROWS_FILE, SUMS, EvidenceError, read_csv, read_json, read_sums, rows_path
from experiments.evidence.results import replace_together
from experiments.evidence.rows import read_rows, read_surfaces
from experiments.evidence.schemas import ROWS, Settings
from scripts import report as report_program
from scripts.collect import main
from tests.conftest import CONFIGS
from tests.evidence.test_collect import HEADER, MANIFEST, make_run, values
from tests.regression.test_evidence import make_surface, write_surface

SHIPPED = CONFIGS.parent / "results"
ROW = "regression,booth,value,20,7,9,test,value_mse,1.0\n"
NESTED = "[" * 100_000
ALIASES = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but locks."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def change(run: Path, file: str, **to: object) -> None:
    """Other entries in a JSON or YAML file of a run; `__` stands for a dot."""
    content = yaml.safe_load((run / file).read_text())
    for key, value in to.items():
        group, _, name = key.rpartition("__")
        (content[group] if group else content)[name] = value
    (run / file).write_text(json.dumps(content))


# --- A run's files ---

DAMAGED = {
    "summary.json": {
        **{"[]": "be an object", "null": "be an object", "5": "be an object", NESTED: "recursion limit"},
        **{'{"scale": "paper"}': "objective: Field required", '{"objective": NaN, "scale": "paper"}': "finite number"},
        '{"objective": "1", "scale": "paper"}': "objective: Input should be a valid number",
        "\ufeff{}": "Invalid JSON",
    },
    "manifest.json": {
        **{"{}": "run_id: Field required", "nonsense": "Invalid JSON", NESTED: "recursion limit"},
        json.dumps(
            {"run_id": "bad"} | {k: v for k, v in MANIFEST.items() if k != "wall_seconds"}
        ): "wall_seconds: Field",
        json.dumps({"run_id": "other"} | MANIFEST): "manifest.json belongs to other",
        json.dumps({"run_id": "bad"} | MANIFEST | {"revision": "a\nb"}): "revision: not one line",
    },
    "config.yaml": {
        **{"a: [": "ParserError", "- a": "be an object", "": "be an object", ALIASES: "it holds an alias"},
        **{
            NESTED[:60_000]: "nested more than 20 deep",
            "a: " * 9: "ScannerError",
            "x" * 70_000: "more than 65,536 bytes",
        },
        **{
            "!!python/name:os.system x": "ConstructorError",
            "a: 2001-01-01": "not JSON serializable",
            "a: .nan": "JSON",
        },
    },
    "metrics.csv": {
        **{"\ufeff" + HEADER + ROW: "the header is", HEADER[:-7] + "\n" + ROW: "the header is", "": "the header is"},
        HEADER + ROW[:-1] + ",1\n": "line 2: 10 fields, not 9",
        HEADER + ROW[:-3]: "the last line has no end",
        HEADER + ROW + ROW: "a row twice",
        HEADER + ROW.replace("booth", "beale"): "rows of another run",
        HEADER + ROW.replace(",7,", ",8,"): "rows of another run",
        HEADER + ROW.replace("1.0", "fast"): "line 2: value is 'fast', not a number",
        HEADER + ROW.replace(",9,", ",-9,"): "line 2: step is '-9', not a number from 0",
        HEADER + ROW.replace(",7,", f",{2**63},"): f"line 2: seed is '{2**63}', not a number from 0",
        HEADER + ROW.replace("regression", "../../.."): "experiment is '../../..', not a name",
        HEADER + '"': "unexpected end of data",
        HEADER + "\0\xff": "fields, not 9",
    },
    "surface.npz": {"secret": "BadZipFile"},
}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [(file, content, said) for file, contents in DAMAGED.items() for content, said in contents.items()],
    ids=lambda value: None if len(value) < 30 else f"{value[:30]}...",
)
def test_a_damaged_file_costs_its_run_and_no_other(tmp_path, capsys, file, content, said):
    bad, whole = make_run(tmp_path, "bad", 1.0, seeds=(7,)), make_run(tmp_path, "whole", 2.0)
    (bad / file).write_text(content)
    assert not collect([bad, whole], tmp_path / "results")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("left out, ")
    assert line.endswith(f": {bad}")
    assert said in line
    assert {seed for _, seed in values(tmp_path / "results")} == {"0", "1"}


@pytest.mark.parametrize(
    "to",
    [
        *({"labels__task": "a/b"}, {"labels__task": ".."}, {"name": "../../.."}, {"labels__method": "x" * 65}),
        *({"labels__n_train": 2**63}, {"labels__n_train": -3}, {"seed": 2**63}, {"seed": -1}, {"seed": "0"}),
        *({"networks": 10**9}, {"labels": None}, {"labels": []}),
    ],
    ids=str,
)
def test_names_that_are_paths_and_numbers_that_overflow_are_refused(tmp_path, to):
    """Even where rows say the same."""
    bad, whole = make_run(tmp_path, "bad", 1.0, seeds=(7,)), make_run(tmp_path, "whole", 2.0)
    change(bad, "config.yaml", **to)
    ((key, value),) = to.items()
    if column := {
        "labels__task": "booth",
        "labels__method": "value",
        "labels__n_train": "20",
        "name": "regression",
    }.get(key):
        (bad / "metrics.csv").write_text(HEADER + ROW.replace(column, str(value), 1))
    before = {path for path in tmp_path.parent.iterdir()}
    assert not collect([bad, whole], tmp_path / "results")
    assert {row["seed"] for row in read_csv(tmp_path / "results" / "rows.csv.gz")} == {"0", "1"}
    assert {path.name for path in tmp_path.iterdir()} == {"regression", "results"}
    assert before == {path for path in tmp_path.parent.iterdir()}


@pytest.mark.parametrize("file", ["surface.npz", "metrics.csv", "summary.json", "manifest.json", "config.yaml"])
def test_a_link_out_of_a_runs_folder_is_not_followed(tmp_path, capsys, file):
    run = make_run(tmp_path, "a", 1.0)
    write_surface(run / "surface.npz", make_surface())
    (run / file).rename(tmp_path / file)
    (run / file).symlink_to(tmp_path / file)
    assert not collect([run], tmp_path / "results")
    assert f"{file} leads out of its folder" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("file", ["surface.npz", "metrics.csv", "manifest.json", "config.yaml"])
def test_what_is_no_file_is_not_waited_for(tmp_path, capsys, file):
    names = ("pipe", "folder", "whole")
    pipe, folder, whole = (make_run(tmp_path, name, 1.0, seeds=(seed,)) for seed, name in enumerate(names))
    for run in (pipe, folder):
        (run / file).unlink(missing_ok=True)
    os.mkfifo(pipe / file)
    (folder / file).mkdir()
    assert not collect([pipe, folder, whole], tmp_path / "results")
    assert capsys.readouterr().err.count(f"left out, there is no file {file}: ") == 2
    assert set(values(tmp_path / "results")) == {("value", "2")}


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ({"loss__name": "sobolev"}, "labels.method is value, but its settings give sobolev"),
        ({"n_train": 100}, "labels.n_train is 20, but its settings give 100"),
        ({"dataset__name": "beale"}, "labels.task is booth, but its settings give beale"),
    ],
)
def test_labels_that_settings_do_not_give_are_not_collected(tmp_path, capsys, to, said):
    run = make_run(tmp_path, "a", 1.0)
    change(run, "config.yaml", **to)
    assert not collect([run], tmp_path / "results")
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


# --- The results ---


@pytest.fixture
def collected(tmp_path):
    """Results of two runs."""
    runs = [make_run(tmp_path, name, 1.0, method=method) for name, method in (("a", "value"), ("b", "sobolev"))]
    for run in runs:
        write_surface(run / "surface.npz", make_surface())
    assert collect(runs, tmp_path / "results" / "regression")
    return tmp_path / "results" / "regression"


def cut_lines(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-2])


DAMAGES = {
    "cut at a line's end": cut_lines,
    "cut": lambda text: text[: len(text) // 2],
    "BOM": lambda text: "\ufeff" + text,
    "column gone": lambda text: re.sub(r"^[^,]*,", "", text, flags=re.MULTILINE),
    "garbage": lambda _: "\0" * 99,
    "empty": lambda _: "",
}


PACKED = gzip.decompress, compressed


@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
@pytest.mark.parametrize("file", ["rows.csv.gz", "runs.csv", "settings.json"])
@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
def test_damaged_results_are_named_and_left_as_they_are(collected, tmp_path, capsys, file, damage, sums):
    if damage == "gone":
        (collected / file).unlink()
    else:
        path, (unpack, pack) = collected / file, PACKED if file == ROWS_FILE else (bytes, bytes)
        path.write_bytes(pack(DAMAGES[damage](unpack(path.read_bytes()).decode()).encode()))
    if not sums:
        (collected / SUMS).unlink()
        if (damage, file) in {("gone", "runs.csv"), ("gone", "settings.json"), ("cut at a line's end", "runs.csv")}:
            return  # as a table that never had these lines
    before = tree(collected)
    capsys.readouterr()
    assert not collect([make_run(tmp_path, "c", 3.0, seeds=(7,))], collected)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert file in line
    assert tree(collected) == before
    if file == "rows.csv.gz" and sums:
        assert report_program.main(["--results", str(collected.parent)]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def bomb() -> bytes:
    """16 MB that unpack to 16 GB: a block of zeros that begins anew, again and again."""
    packer = zlib.compressobj(wbits=31)
    begin = packer.compress(b"\0") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return begin + 2**14 * block + packer.flush()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda packed: packed[:-1], "cannot be unpacked: it is cut short"),
        (lambda packed: packed[: len(packed) // 2], "cannot be unpacked: it is cut short"),
        (lambda packed: packed[:-8] + bytes(8), "cannot be unpacked (Error -3 while decompressing data: incorrect"),
        (gzip.decompress, "cannot be unpacked (Error -3 while decompressing data: incorrect header check)"),
        (lambda packed: 2 * packed, "goes on behind its end"),
        (lambda packed: packed + b"\n", "goes on behind its end"),
        (lambda _: bomb(), "unpacks to more than 268,435,456 bytes"),
    ],
)
def test_a_damaged_archive_of_rows_is_refused_in_one_line(collected, capsys, damage, said):
    (collected / SUMS).unlink()
    (collected / ROWS_FILE).write_bytes(damage((collected / ROWS_FILE).read_bytes()))
    began = time.process_time()
    with pytest.raises(EvidenceError, match=re.escape(said)):
        read_rows(collected / ROWS_FILE)
    assert time.process_time() - began < 20  # all of the last one takes a minute on the machines of today
    assert report_program.main(["--results", str(collected.parent)]) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ")
    assert said in line


def as_before(folder: Path) -> None:
    """Results as they were when rows were not compressed."""
    rows, sums = gzip.decompress((folder / ROWS_FILE).read_bytes()), read_sums(folder)
    del sums[ROWS_FILE]
    (folder / ROWS_FILE).unlink()
    (folder / "rows.csv").write_bytes(rows)
    sums["rows.csv"] = hashlib.sha256(rows).hexdigest()
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))


def test_results_of_before_are_read_and_compressed_when_collecting(collected, tmp_path, capsys):
    known, rows = Results.read(collected), read_rows(collected / ROWS_FILE)
    as_before(collected)
    assert rows_path(collected) == collected / "rows.csv"
    pd.testing.assert_frame_equal(read_rows(rows_path(collected)), rows)
    assert Results.read(collected) == known
    assert report_program.main(["--results", str(collected.parent)]) == 0
    (collected / "rows.csv").write_text(cut_lines((collected / "rows.csv").read_text()))
    capsys.readouterr()
    assert not collect([make_run(tmp_path, "c", 3.0, seeds=(7,))], collected)  # it is not what its checksum says
    assert "rows.csv is not what" in capsys.readouterr().err
    assert not (collected / ROWS_FILE).exists()


@pytest.mark.parametrize("interrupted", [False, True])
def test_collecting_replaces_the_rows_of_before(collected, tmp_path, monkeypatch, interrupted):
    as_before(collected)
    run, before = make_run(tmp_path, "c", 3.0, seeds=(7,)), Results.read(collected)
    if interrupted:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                collect([run], collected)
        assert (collected / "rows.csv").exists()
        assert (collected / ROWS_FILE).exists()
    assert collect([run], collected)
    assert not (collected / "rows.csv").exists()
    assert set(read_sums(collected)) == {name for name in tree(collected) if name != SUMS}
    assert before.rows.items() <= Results.read(collected).rows.items()
    assert ("value", "7") in values(collected)


def test_the_same_rows_are_the_same_file(collected):
    packed = (collected / ROWS_FILE).read_bytes()
    assert packed[4:8] == bytes(4)  # no date
    assert compressed(gzip.decompress(packed)) == packed
    columns = pd.read_csv(collected / ROWS_FILE)  # as README has it
    assert list(columns) == list(ROWS)
    assert len(columns) == 4


def test_a_surface_that_was_changed_is_not_drawn(collected):
    rows = read_rows(collected / "rows.csv.gz")
    assert len(read_surfaces(collected / "surfaces", rows)) == 2
    write_surface(collected / "surfaces" / "regression_booth_value_20.npz", make_surface(slope=2.0))
    with pytest.raises(EvidenceError, match=r"value_20.npz is not what .*SHA256SUMS says"):
        read_surfaces(collected / "surfaces", rows)


def test_two_who_collect_at_once_lose_nothing(tmp_path, monkeypatch):
    runs = [make_run(tmp_path, str(seed), 1.0, seeds=(seed,)) for seed in range(4)]
    read = Results.read

    def slowly(folder: Path) -> Results:
        there = read(folder)
        time.sleep(0.1)
        return there

    monkeypatch.setattr(Results, "read", slowly)
    threads = [threading.Thread(target=collect, args=([run], tmp_path / "results")) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {seed for _, seed in values(tmp_path / "results")} == {"0", "1", "2", "3"}
    assert {row["run_id"] for row in read_csv(tmp_path / "results" / "runs.csv")} == {"0", "1", "2", "3"}


def full_disk_after(monkeypatch, writes: int) -> None:
    replacing, left = results.replacing, [writes]

    def failing(path: Path):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return replacing(path)

    monkeypatch.setattr(results, "replacing", failing)


@pytest.mark.parametrize("writes", range(5))
def test_a_full_disk_leaves_the_old_results_whole(collected, tmp_path, monkeypatch, capsys, writes):
    before = tree(collected)
    run = make_run(tmp_path, "c", 3.0, seeds=(7,), method="derivative")
    write_surface(run / "surface.npz", make_surface())
    with monkeypatch.context() as patch:
        full_disk_after(patch, writes)
        assert not collect([run], collected)
    assert "No space left on device" in capsys.readouterr().err
    assert {name: content for name, content in tree(collected).items() if not name.startswith(".")} == before
    assert collect([run], collected)
    assert ("derivative", "7") in values(collected)


def test_who_comes_next_finishes_what_was_decided(collected, tmp_path, monkeypatch):
    """A kill in the midst of renaming: the first file has its name, the others have not."""
    run = make_run(tmp_path, "c", 3.0, seeds=(7,), method="derivative")
    replace, calls = Path.replace, []

    def killed(path: Path, target: Path) -> Path:
        if ".decided" in path.parts and (calls.append(path) or len(calls) > 1):
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            collect([run], collected)
    with pytest.raises(EvidenceError, match="is not what"):
        Results.read(collected)
    (tmp_path / "none").mkdir()
    monkeypatch.setattr("sys.argv", ["collect", "--runs", str(tmp_path / "none"), "--results", str(collected.parent)])
    with pytest.raises(SystemExit, match="no complete run"):
        main()
    assert ("derivative", 7) in {(*key[2:3], int(key[4])) for key in Results.read(collected).rows}
    assert not (collected / ".decided").exists()


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in SHIPPED.glob(f"*/{ROWS_FILE}")), ids=lambda path: path.name
)
def test_what_ships_is_what_its_checksums_say(folder):
    sums = read_sums(folder)
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    kinds = ("rows.csv.gz", "runs.csv", "*.json", "*.safetensors", "*/*.npz")
    assert set(sums) == {path.relative_to(folder).as_posix() for kind in kinds for path in folder.glob(kind)}


def test_reading_and_writing_changes_nothing():
    folder = SHIPPED / "teachers"
    assert as_csv(ROWS, read_csv(folder / ROWS_FILE, ROWS)) == gzip.decompress((folder / ROWS_FILE).read_bytes())
    assert read_json(folder / "settings.json", Settings) == json.loads((folder / "settings.json").read_text())


@pytest.mark.parametrize("name", ["surfaces", "rows.csv.gz"])
def test_what_lies_in_the_way_of_results_is_named_before_any_of_them_changes(tmp_path, name):
    replace_together(tmp_path, {"settings.json": b"{}"})
    if name == "surfaces":
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).mkdir()
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(OSError, match="where a f") as caught:
        replace_together(tmp_path, {"rows.csv.gz": b"new", "settings.json": b"[]", "surfaces/one.npz": b"new"})
    assert caught.value.filename == str(tmp_path / name)
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_the_front_page_shows_figures_that_ship():
    assert set(report.FIGURES) <= {path.name for path in (SHIPPED / "figures").iterdir()}
