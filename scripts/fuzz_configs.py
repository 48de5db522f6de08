"""Attack with untrusted configs:  python -m scripts.fuzz_configs [--times 200] [--seed 0]

Generates random folders of configs, with commands that choose from them. Each tries to start a program, or to copy a
secret from the environment into a run's settings. A payload (what to call) is disguised (by a resolver, an anchor or an
interpolation), put at a place (callbacks, log handlers, sweeper, ...) and brought there in some way (a file's package,
a defaults list, an override, a sweep parameter). An attack is survived if it had no effect and was answered by a run or
a one-line error. `make faults` tries some with each kind of run.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import hydra._internal.hydra
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf.basecontainer import BaseContainer

import experiments.runner.execute
import run
from experiments.runner import revision, trust
from experiments.runner.command_line import OURS, one_line_errors

SECRET = "hunter2"
ELSEWHERE = "hydra.runtime.choices.theirs"  # a key whose value other keys of a config can refer to
GIT = "#!/bin/sh\ntouch {owned}\n"


def front_door(*arguments: str, judged: bool = True) -> tuple[str, list[Any]]:
    """Do what `python run.py` does in this process; returns its error line ('' if none) and the runs' settings.

    Each run asks git for the revision and ends there. With `judged=False` Hydra's own loader composes.
    """
    started: list[Any] = []

    def execute(settings: Any) -> float:
        started.append(settings)
        revision._git(revision.ROOT, "status")
        return 0.0

    with ExitStack() as stack, _restoring():
        stack.enter_context(mock.patch.object(experiments.runner.execute, "execute", execute))
        stack.enter_context(mock.patch.object(sys, "argv", ["run.py", *arguments]))
        loader = trust.Loader if judged else ConfigLoaderImpl
        stack.enter_context(mock.patch.object(hydra._internal.hydra, "ConfigLoaderImpl", loader))
        try:
            with one_line_errors():
                if judged:
                    trust.install()
                run.main()
        except SystemExit as end:
            return str(end.code or ""), started
    return "", started


@contextmanager
def _restoring() -> Iterator[None]:
    """Restore process-wide state: environment, log handlers, resolvers and the handler of SIGTERM."""
    root, before = logging.getLogger(), dict(BaseContainer._resolvers)
    handlers, level, on_term = [*root.handlers], root.level, signal.getsignal(signal.SIGTERM)
    with mock.patch.dict(os.environ, {"SECRET": SECRET}):
        os.environ.pop(OURS, None)
        os.environ.pop("HYDRA_FULL_ERROR", None)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, on_term)
            root.handlers[:], root.level = handlers, level
            BaseContainer._resolvers = before


def payload(chance: random.Random, folder: Path) -> tuple[str, Any]:
    """A place in a config, and harmful content for it."""
    owned = str(folder / "owned")
    call = chance.choice(
        [
            {"_target_": "torch.utils.collect_env.run", "command": f"touch {owned}"},
            {"_target_": "shutil.copyfile", "src": os.devnull, "dst": owned},
        ]
    )
    secret = chance.choice(["${oc.env:SECRET}", "x${oc.decode:${oc.env:SECRET}}", "${oc.select:no,${oc.env:SECRET}}"])
    called = ("callbacks.x", "sweeper.x", "sweeper.params.x", "launcher.x", "launcher.additional_parameters.x")
    return chance.choice(
        [
            *((f"hydra.{place}", call) for place in called),
            ("hydra.job_logging.handlers.x", {"class": "logging.FileHandler", "filename": owned}),
            ("hydra.hydra_logging.handlers.x", {"()": "shutil.copyfile", "src": os.devnull, "dst": owned}),
            ("hydra.job.env_set", {"PATH": f"{folder}:{os.environ['PATH']}"}),
            ("hydra", {"job": {"env_copy": ["SECRET"]}, "help": {"header": "${hydra.job.env_set.SECRET}"}}),
            *((place, secret) for place in ("labels.task", "recorder.project", "dataset.name")),
        ]
    )


def disguise(chance: random.Random, content: Any) -> Any:
    """The same content, written in another way."""
    if not isinstance(content, dict):
        return content
    ways = [content, f"${{{ELSEWHERE}}}", f"${{oc.select:{ELSEWHERE}}}", f"${{oc.create:{_inline(content)}}}"]
    if "_target_" in content:
        module, _, function = content["_target_"].rpartition(".")
        ways.append(content | {"_target_": f"${{oc.decode:{module}}}.{function}"})
    return chance.choice(ways)


def bring(chance: random.Random, folder: Path, place: str, content: Any, plain: Any) -> list[str]:
    """Write a folder of configs with the content at the place; returns the command that chooses from it."""
    experiment: dict[str, Any] = {"defaults": ["regression"]}
    arguments = ["experiment=theirs"]
    way = chance.choice(["here", "package", "moved", "entry", "group", "override", "parameter", "own group"])
    if way in ("package", "moved", "entry", "group"):
        if not isinstance(content, dict):
            place, _, key = place.rpartition(".")
            place, content = place or "_global_", {key: content}
        header = f"# @package {place}\n" if way == "package" else ""
        _write(folder / "theirs" / "x.yaml", content, header)
    match way:
        case "here":
            _put(experiment, place, content)
        case "package":
            experiment["defaults"].append({"/theirs": "x"})
        case "moved":
            experiment["defaults"].append({f"/theirs@{place}": "x"})
        case "entry":
            experiment["defaults"].append(f"/theirs/x@{place}")
        case "group":
            arguments.append(f"+theirs@{place}=x")
        case "override":
            arguments.append(f"{chance.choice(['', '+', '++'])}{place}={_inline(content)}")
        case "parameter":
            _put(experiment, "hydra.sweeper.params", {f"{chance.choice(['', '+', '++'])}{place}": _inline(content)})
        case "own group":
            group, _, key = place.rpartition(".")
            _write(folder / group.replace(".", "/") / "x.yaml", {key: content}, "")
            arguments.append(f"{chance.choice(['', '+'])}{group.replace('.', '/')}=x")
    if content is not plain and chance.random() < 0.9:
        _put(experiment, ELSEWHERE, plain)  # if the same object occurs twice, YAML writes an anchor
    if chance.random() < 0.3:
        _put(experiment, "hydra.mode", "MULTIRUN")
    experiment["defaults"].append("_self_")
    _write(folder / "experiment" / "theirs.yaml", experiment, "# @package _global_\n")
    return [*(["-m"] if chance.random() < 0.4 else []), "--config-dir", str(folder), *arguments]


def survived(chance: random.Random, folder: Path, judged: bool = True) -> bool:
    """Whether one attack had no effect and was answered by a run or by one line."""
    place, plain = payload(chance, folder)
    git = folder / "git"
    git.write_text(GIT.format(owned=folder / "owned"))
    git.chmod(0o700)
    arguments = bring(chance, folder, place, disguise(chance, plain), plain)
    try:
        said, started = front_door(*arguments, f"runs_dir={folder / 'runs'}", judged=judged)
    except Exception as error:
        said, started = f"{type(error).__name__}\n{error}", []
    leaked = any(SECRET in str(asdict(settings)) for settings in started)
    survived = not (folder / "owned").exists() and not leaked and "\n" not in said
    if not survived:
        print(f"not survived: {arguments} {said}", file=sys.stderr)
    return survived


def attacks(somewhere: Path, seed: int, times: int) -> Iterator[bool]:
    for number in range(seed, seed + times):
        with tempfile.TemporaryDirectory(dir=somewhere) as folder:
            yield survived(random.Random(number), Path(folder))


def _put(config: dict[str, Any], place: str, content: Any) -> None:
    *path, last = place.split(".")
    for key in path:
        config = config.setdefault(key, {})
    config[last] = content


def _write(path: Path, content: Any, header: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + yaml.safe_dump(content, sort_keys=False))


def _inline(content: Any) -> str:
    """The content as text for an override or an interpolation."""
    if isinstance(content, dict):
        return "{" + ",".join(f"'{key}':{_inline(value)}" for key, value in content.items()) + "}"
    if isinstance(content, list):
        return "[" + ",".join(map(_inline, content)) + "]"
    return content if "$" in content else f"'{content}'"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.fuzz_configs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200, help="number of attacks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first attack; it increases by one each time")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        tried = list(attacks(Path(folder), options.seed, options.times))
    print(f"configs from others: {sum(tried)} of {len(tried)} survived")
    return int(not all(tried))


if __name__ == "__main__":
    sys.exit(main())
