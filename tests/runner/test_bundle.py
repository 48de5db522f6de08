"""A grid's rows in one file: packed while runs go on, unpacked with care, and collected like a folder."""

import io
import tarfile

import pytest

from experiments.evidence.candidates import ARRAYS
from experiments.evidence.reading import read_csv
from experiments.runner.bundle import CARRIED, pack, unpacked
from experiments.runner.errors import BadInput
from experiments.runner.execute import execute
from experiments.runner.identity import folder_of
from scripts import collect


def test_a_bundle_is_collected_like_the_folder_that_it_was_packed_from(make_config, tmp_path, monkeypatch):
    configs = [make_config(f"loss={loss}") for loss in ("value", "sobolev")]
    for config in configs:
        execute(config)
    begun = folder_of(configs[0]).with_name("begun")
    begun.mkdir()
    (begun / "metrics.csv").write_text("experiment,task\n")
    (begun / "checkpoint.pt").write_bytes(b"0" * 100)
    folders = [*map(folder_of, configs), begun, begun.with_name("to come")]
    pack(folders, bundle := tmp_path / "carried" / "runs.tgz")
    with unpacked([bundle, tmp_path]) as (found, same):
        assert same == tmp_path
        names = {path.relative_to(found).as_posix() for path in found.rglob("*.*") if path.is_file()}
        for folder in folders[:2]:
            assert f"regression/{folder.name}/summary.json" in names
            carried = found / "regression" / folder.name / "metrics.csv"
            assert carried.read_bytes() == (folder / "metrics.csv").read_bytes()
        assert "regression/begun/metrics.csv" in names
        assert not any("checkpoint" in name for name in names)
    assert not found.exists()

    rows = []
    for source in (tmp_path / "runs", bundle):
        results = tmp_path / source.name.replace(".", "_")
        monkeypatch.setattr("sys.argv", ["collect", "--runs", str(source), "--results", str(results / "results")])
        collect.main()
        rows.append((results / "results" / "regression" / "rows.csv.gz").read_bytes())
    assert rows[0] == rows[1]


def archive(path, name: str, kind: bytes = tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "/etc/passwd"
        entry.size = 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(entry, io.BytesIO(b"text"))
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda path: archive(path, "regression/../metrics.csv"),
        lambda path: archive(path, "/regression/run/metrics.csv"),
        lambda path: archive(path, "regression/run/more/metrics.csv"),
        lambda path: archive(path, "regression/run/other.py"),
        lambda path: archive(path, "regression/run/metrics.csv", tarfile.SYMTYPE),
        lambda path: archive(path, "regression/run/metrics.csv", tarfile.LNKTYPE),
        lambda path: path.write_bytes(b"no archive"),
        lambda path: path.write_bytes(archive(path, "regression/run/metrics.csv").read_bytes()[:60]),
        lambda path: path.write_bytes(b""),
    ],
)
def test_what_is_no_bundle_is_refused_in_one_line(tmp_path, make):
    make(path := tmp_path / "runs.tgz")
    with pytest.raises(BadInput, match=r"runs\.tgz") as caught, unpacked([path]):
        pass
    assert "\n" not in str(caught.value)


def test_of_two_runs_that_answer_one_question_the_later_counts_also_if_it_is_in_a_bundle(
    make_config, tmp_path, monkeypatch
):
    """Later than a run in a folder, although a bundle is unpacked anew each time."""
    for number, runs in enumerate(("first", "second")):
        config = make_config("optimizer.learning_rate=0.001", f"networks={2 + number}", runs=runs)
        execute(config)
    changed = (folder_of(config) / "summary.json").stat().st_mtime
    pack([folder_of(config)], bundle := tmp_path / "runs.tgz")
    with unpacked([bundle]) as (found,):
        (summary,) = found.rglob("summary.json")
        assert summary.stat().st_mtime == pytest.approx(changed, abs=1e-3)
    for order in ([tmp_path / "first", bundle], [bundle, tmp_path / "first"]):
        results = tmp_path / f"from_{order[0].name}"
        monkeypatch.setattr("sys.argv", ["collect", "--runs", *map(str, order), "--results", str(results)])
        collect.main()
        (noted,) = read_csv(results / "regression" / "runs.csv")
        assert noted["run_id"] == folder_of(config).name


def test_a_bundle_carries_every_array_that_figures_need():
    assert set(ARRAYS) <= set(CARRIED)


def test_a_run_that_ends_while_it_is_packed_is_packed_as_incomplete(make_config, tmp_path, monkeypatch):
    """Else its summary would make rows from before its end look like all of them."""
    config = make_config()
    execute(config)
    folder = folder_of(config)
    summary = (folder / "summary.json").read_bytes()
    (folder / "summary.json").unlink()
    read = type(folder).read_bytes

    def and_then_it_ends(path):
        try:
            return read(path)
        finally:
            if path.name == "metrics.csv":
                (folder / "summary.json").write_bytes(summary)

    monkeypatch.setattr(type(folder), "read_bytes", and_then_it_ends)
    pack([folder], bundle := tmp_path / "runs.tgz")
    with tarfile.open(bundle) as tar:
        assert not [name for name in tar.getnames() if name.endswith("summary.json")]
