"""Files of one's own: what is read, and what is refused in one line before anything is opened."""

import os
from pathlib import Path

import numpy as np
import pytest

from experiments.runner.errors import BadInput
from experiments.surrogates.files import read, split

X = np.random.default_rng(0).uniform(-1, 1, (40, 3))
Y = np.stack((X.prod(1), (X**2).sum(1)), 1)
DY = np.stack((X.prod(1)[:, None] / X, 2 * X), 1)


def npz(folder, **arrays):
    path = folder / "mine.npz"
    np.savez(path, **({"x": X, "y": Y, "dy": DY} | arrays))
    return str(path)


def csv(folder, header, *rows):
    path = folder / "mine.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return str(path)


def test_a_npz_is_read_with_or_without_a_dimension_of_outputs(tmp_path):
    both = read(npz(tmp_path))
    assert (both.inputs, both.outputs) == (("x1", "x2", "x3"), ("y1", "y2"))
    np.testing.assert_array_equal(both.dy, DY)
    one = read(npz(tmp_path, y=Y[:, 0], dy=DY[:, 0]))
    assert one.y.shape == (40, 1)
    np.testing.assert_array_equal(one.dy, DY[:, :1])


def test_a_file_that_was_written_again_within_a_tick_of_its_clock_is_read_again(tmp_path):
    first = read(path := npz(tmp_path))
    time = Path(path).stat().st_mtime_ns
    npz(tmp_path, y=2 * Y)
    os.utime(path, ns=(time, time))
    np.testing.assert_array_equal(read(path).y, 2 * first.y)


def test_derivatives_may_be_left_out_or_unknown_in_part(tmp_path):
    path = tmp_path / "bare.npz"
    np.savez(path, x=X, y=Y)
    assert not read(str(path)).has_derivatives
    some = np.where(np.arange(40)[:, None, None] < 5, DY, np.nan)
    assert np.isfinite(read(npz(tmp_path, dy=some)).dy).sum() == 5 * 6


def test_a_csv_says_the_same_by_the_names_of_its_columns(tmp_path):
    header = "x2,dy/dx1,y,x1,dy/dx2"
    found = read(csv(tmp_path, header, "1,2,3,4,5", "6,,8,9,10", "7,1,2,3,4"))
    assert (found.inputs, found.outputs) == (("x2", "x1"), ("y",))
    np.testing.assert_array_equal(found.x[0], [1, 4])
    np.testing.assert_array_equal(found.dy[:, 0], [[5, 2], [10, np.nan], [4, 1]])
    own = read(csv(tmp_path, "angle,lift,dlift/dangle", "1,2,3", "2,3,4"))
    assert (own.inputs, own.outputs) == (("angle",), ("lift",))
    asked = read(csv(tmp_path, "angle,lift,drag", "1,2,3", "2,3,4"), ("lift", "drag"))
    assert (asked.inputs, asked.outputs) == (("angle",), ("lift", "drag"))
    assert not asked.has_derivatives
    day = read(csv(tmp_path, "a,day,dlift_da,y", "1,2,3,5", "", "2,3,4,6", ",,,"), ("y", "dlift_da"))  # as it is asked
    assert (day.inputs, day.outputs, len(day.x)) == (("a", "day"), ("dlift_da", "y"), 2)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"dy": DY.swapaxes(1, 2)}, "its axes are swapped: save dy.swapaxes(1, 2)"),
        ({"dy": DY[:, :, :2]}, "dy is (40, 2, 2): expected (40, 2, 3)"),
        ({"x": X[:, 0]}, "x is (40,): expected (N, I)"),
        ({"y": Y[:30]}, "expected (40,) or (40, O)"),
        ({"x": np.where(np.isclose(X, X[3, 1]), np.nan, X)}, "x2 is nan at sample 3"),
        ({"y": np.where(np.isclose(Y, Y[3, 1]), np.inf, Y)}, "y is infinite at sample 3"),
        ({"x": np.where(np.arange(3) == 2, 1.0, X)}, "x3 is the same at all samples"),
        ({"y": np.array([{}] * 40)}, "y holds Python objects"),
        ({"y": Y.astype(complex)}, "y holds complex128"),
        ({"x": X[:1], "y": Y[:1], "dy": DY[:1]}, "has 1 sample: too few"),
        ({"y": Y * 1e300}, "y is beyond 1e+100 at sample 0: give it in larger units"),
        ({"y": Y * 1e-300}, "the same at all samples but for"),
        ({"x": X * 1e-6 + 1.7e9}, "x1 is the same at all samples but for rounding"),
    ],
)
def test_a_npz_that_is_not_as_expected_is_one_line(tmp_path, arrays, said):
    with pytest.raises(BadInput) as refused:
        read(npz(tmp_path, **arrays))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("header", "rows", "outputs", "said"),
    [
        ("x1,x2,y,dy/dx1", ["1,2,3,4"], (), "has no column dy/dx2"),
        ("x1,y,dz/dx1", ["1,2,3"], (), "z is no output"),
        ("x1,y,dy/dx3", ["1,2,3"], (), "x3 is no input"),
        ("a,b", ["1,2"], (), "has no output among a, b"),
        ("y,y2", ["1,2"], (), "has no input"),
        ("x1,y", ["1,2", "1,two"], (), "line 3: expected 2 numbers"),
        ("x1,y", ["1,2,3"], (), "line 2: expected 2 numbers"),
        ("x1,x1,y", ["1,2,3"], (), "has the column x1 twice"),
        ("x1,y", ["1,2"], ("lift",), "has no column lift"),
        ("x1,y", [], (), "has a header and no samples"),
        (",x,y", ["0,1,2"], (), "column 1 has no name: is it an index? pandas: index=False"),
        ("Unnamed: 0,x,y,dy/dx", ["0,1,2,3"], (), "column 1 has no name: is it an index? pandas: index=False"),
        ("x,lift,dlift/dx,", ["0,1,2,"], (), "column 4 has no name: does its line end with a comma?"),
        ("x1,y", ["1,2", "", "1,two"], (), "line 4: expected 2 numbers, as in its header, and 'two' is none"),
        ("x1,y", ["1,2", '1,"' + "2" * 140_000 + '"'], (), "line 3: field larger than field limit (131072)"),
        ("a;b;c", ["1;2;3"], (), "separated by semicolons: expected commas, and numbers with points"),
        ("a\tb", ["1\t2"], (), "separated by tabs"),
        ("x1,y", ['"1,5",2'], (), "'1,5' has a decimal comma: write a point"),
        ("x1,y", ["1,5,2,0"], (), "it has 4: do its numbers have decimal commas?"),
        ("a,lift,dlift_da", ["1,2,3"], (), "the column dlift_da looks like a derivative, and would be an input"),
        ("a,y,dy_da", ["1,2,3"], (), "name it dy/da"),
        ("a,y,dy/a", ["1,2,3"], (), "name it dy/da"),
        ("a,lift,dLift/dA", ["1,2,3"], (), "is a derivative, but Lift is no output"),
    ],
)
def test_a_csv_that_is_not_as_expected_is_one_line(tmp_path, header, rows, outputs, said):
    with pytest.raises(BadInput) as refused:
        read(csv(tmp_path, header, *rows), outputs)
    assert said in str(refused.value)


def test_what_is_no_file_of_samples_is_one_line(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "mine.txt").write_text("x")
    (tmp_path / "none.csv").write_text("\n")
    for path, said in (
        ("", "dataset.path is empty"),
        (str(tmp_path), "cannot be read"),
        (str(tmp_path / "gone.npz"), "No such file"),
        (str(tmp_path / "cut.npz"), "cannot be read"),
        (str(tmp_path / "mine.txt"), "expected a .npz or .csv file"),
        (str(tmp_path / "none.csv"), "none.csv is empty"),
    ):
        with pytest.raises(BadInput, match=said):
            read(path)


def test_a_split_is_seeded_whole_and_refuses_too_few(tmp_path):
    samples = read(npz(tmp_path))
    parts, again, other = (split(samples, (0.5, 0.25, 0.25), seed, "it") for seed in (0, 0, 1))
    assert [len(part.x) for part in parts.values()] == [20, 10, 10]
    assert {tuple(x) for part in parts.values() for x in part.x} == {tuple(x) for x in X}
    np.testing.assert_array_equal(parts["train"].dy, again["train"].dy)
    assert not np.array_equal(parts["train"].x, other["train"].x)
    with pytest.raises(BadInput, match="8 samples, of which 1 would be the validation part"):
        split(samples.at(np.arange(8)), (0.7, 0.15, 0.15), 0, "it")
