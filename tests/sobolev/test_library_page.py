"""The page docs/library.md: its code runs, from top to bottom, and says what it says."""

from __future__ import annotations

import re

import torch

from tests.conftest import ROOT


def test_the_page_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    page = (ROOT / "docs/library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```") / 2 >= 9
    names: dict = {}
    for block in blocks:
        names.pop("terms", None)
        exec(compile(block, "docs/library.md", "exec"), names)
        if "terms" in names:
            assert names["terms"].total.isfinite()
            names["terms"].total.backward()
    assert "they would agree negated" in capsys.readouterr().out
    assert names["weights"].grad.min() > 0
    x = names["x"].numpy()
    assert (names["again"].predict(x) == names["regressor"].predict(x)).all()
    assert names["loss"].select == "energy"
