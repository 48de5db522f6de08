"""A digest of the code that produced a run's rows, to tell when that code has changed since.

The digest is not part of a run's identity: a refactoring does not change the question, and shipped runs keep their
names. The manifest of a run holds the digest, and the user is told when it differs from that of the current code.

Data that the settings do not identify, such as a user's folder of images, have a digest beside that of the code.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sysconfig
from functools import lru_cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from experiments.runner.settings import RunConfig

ROOT = Path(__file__).parents[2]
PACKAGES = ("experiments", "sobolev")
# Modules that start, stop and validate a run. They do not affect its rows; the config is already its identity.
MACHINERY = {"experiments.synthetic_gradients.downloads"} | {
    f"experiments.runner.{name}"
    for name in ("run", "execute", "together", "errors", "divergence", "limits", "settings", "scale")
}
OF = " of "
LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]  # identified by their versions


def code_of(config: RunConfig) -> str:
    """The digest of the code that produces a run's rows, with that of its data if there is one: "<code> of <data>"."""
    code, data = code_identity(config.entry, named=frozenset(config.named_modules())), config.data_digest()
    return f"{code}{OF}{data}" if data else code


def difference(noted: list[str], here: str) -> str:
    """What differs between the digests that a run noted and `code_of` here: "code", "data", or '' for nothing.

    A digest of data that is missing on one side is not a difference.
    """
    code, _, data = here.partition(OF)
    there = [entry.partition(OF)[::2] for entry in noted]
    if not there or any(of != code for of, _ in there):
        return "code"
    return "data" if any(data and of and of != data for _, of in there) else ""


@lru_cache
def code_identity(entry: str, root: Path = ROOT, named: frozenset[str] = frozenset()) -> str:
    """A digest of the modules that `entry`, experiments.<domain>.<module>.<function>, imports, directly or indirectly.

    Only modules of this project count and, if `entry` belongs to a user's domain, those of its package. `named` are
    the modules that the settings refer to by name; those that a user wrote count together with what they import from
    their own package. Comments, docstrings and formatting do not count.
    """
    sources: dict[str, str] = {}
    waiting = [entry.rpartition(".")[0], *named]
    places = {package: root / package for package in PACKAGES}
    theirs = entry.partition(".")[0]
    for package in {theirs, *(name.partition(".")[0] for name in named)} - places.keys():
        place = _place_of(package)
        if place and (package == theirs or not any(place.is_relative_to(library) for library in LIBRARIES)):
            places[package] = place
    while waiting:
        name = waiting.pop()
        package, *inner = name.split(".")
        if name in sources or name in MACHINERY or name.endswith(".settings") or package not in places:
            continue
        path = places[package].joinpath(*inner)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not file.is_file():
            continue
        within = name if path.is_dir() else name.rpartition(".")[0]  # what relative imports start from
        tree = ast.parse(file.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = resolve_name("." * node.level + (node.module or ""), within)
                waiting += [module, *(f"{module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        sources[name] = ast.unparse(tree)
    return hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:16]


def _place_of(package: str) -> Path | None:
    """A package's folder, or a module's file without its suffix; None if there is neither. Nothing is imported."""
    spec = find_spec(package) if package.isidentifier() and package != "__main__" else None
    if spec and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0])
    return Path(spec.origin).with_suffix("") if spec and spec.has_location else None


def other_code(folder: Path, config: RunConfig) -> str:
    """The end of a message about a complete run: that its code or data may differ, or '' if they do not."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        made_by, revision = map(str, manifest["code"]), str(manifest.get("revision") or "unknown")[:7]
    except (OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
        made_by, revision = (), "unknown"
    other = difference([*made_by], code_of(config))
    by = {"code": f"by different code (revision {revision})", "data": "from different data"}
    return f", but computed {by[other]}: remove the folder to run it again" if other else ""
