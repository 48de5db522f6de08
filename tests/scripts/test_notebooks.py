"""Every notebook runs from its first cell to its last, at a small budget, and was committed with its outputs."""

from base64 import b64decode

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {  # what any notebook has, and what takes its place
    "sizes = [10, 25, 50, 100, 200]": "sizes = [10, 20]",
    "sizes = [25, 100, 400]": "sizes = [25]",
    "range(5)": "range(1)",
    "range(600)": "range(5)",
    "max_iter=500": "max_iter=20",
    "steps=300": "steps=2",
    "dataset=ackley,rosenbrock,styblinski_tang n_train=20,100": "dataset=styblinski_tang n_train=20",
    "optimizer.steps=1500 evaluations=10": "optimizer.steps=4 evaluations=2",
    "hydra/launcher=local hydra.launcher.n_jobs=2 ": "",
}
LARGEST = 60_000  # bytes of a picture


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_has_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    pictures = [o.data["image/png"] for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    assert pictures
    assert all(len(b64decode(picture)) < LARGEST for picture in pictures)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    for cell in cells:
        for whole, part in SMALL.items():
            cell.source = cell.source.replace(whole, part)
    patience = {"timeout": 600, "startup_timeout": 600}  # seconds: a busy machine takes minutes to start a kernel
    NotebookClient(notebook, **patience, resources={"metadata": {"path": str(ROOT)}}).execute()
