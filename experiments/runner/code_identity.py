"""Which code decided a run's rows, so that rows of code that has changed since are not taken for this code's.

It is not part of a run's identity: whoever mends a comment or a message asks no other question, and shipped runs keep
their names. A run notes it instead, and the user is told where it is not the code that is here.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("experiments", "sobolev")
# What carries a run out and refuses it. The config that it reads is the run's identity.
MACHINERY = {"experiments.synthetic_gradients.downloads"} | {
    f"experiments.runner.{name}" for name in ("run", "execute", "errors", "divergence", "limits", "settings", "scale")
}


@lru_cache
def code_identity(entry: str, root: Path = ROOT) -> str:
    """A digest of the modules of ours that `entry`, experiments.<domain>.<module>.<function>, imports, directly or not.

    Comments, docstrings and layout do not enter.
    """
    sources: dict[str, str] = {}
    waiting = [entry.rpartition(".")[0]]
    while waiting:
        name = waiting.pop()
        path = root.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        carries_out = name in MACHINERY or name.endswith(".settings")
        if name in sources or carries_out or name.partition(".")[0] not in PACKAGES or not file.is_file():
            continue
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        sources[name] = ast.unparse(tree)
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]


def other_code(folder: Path, entry: str) -> str:
    """The end of a sentence on a complete run whose rows are not known to be of the code that is here, else ''."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        made_by, revision = manifest.get("code"), str(manifest.get("revision"))[:7]
    except (OSError, ValueError, AttributeError):
        made_by, revision = None, "unknown"
    if made_by == [code_identity(entry)]:
        return ""
    return f", though by other code than is here (of revision {revision}): remove the folder to run it again"
