"""A shorter form of `make faults`: a run is broken on purpose and ends in the rows of one that was not."""

from scripts import faults
from scripts.collect import read_csv


def test_a_broken_run_ends_in_the_same_rows(tmp_path):
    kinds = ["kill", "terminate", "flip", "together"]
    assert faults.main(["regression", "--kills", "2", "--faults", *kinds, "--results", str(tmp_path)]) == 0
    rows = read_csv(tmp_path / "faults.csv")
    assert [row["fault"] for row in rows] == kinds
    assert all(row["tried"] == row["survived"] for row in rows)
