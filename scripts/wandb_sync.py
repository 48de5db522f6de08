"""Send recorded runs to Weights & Biases:  python -m scripts.wandb_sync [--runs runs ...]

Each run in the folders is sent from its rows, with its own id, unless W&B has all of it already. This covers runs that
were recorded offline, and rows that an online run could not send. Runs with `recorder=disabled` are not sent. An
interrupted run is sent as far as it got; the same command sends the rest later.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from pathlib import Path

import yaml

from experiments.runner.identity import is_complete
from experiments.runner.wandb_mirror import is_sent, mirror
from sobolev.files import Busy, locked

MOST_FAILURES = 2  # give up after this many failures if no run was sent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.wandb_sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs")], help="folders of runs")
    roots = parser.parse_args(arguments).runs
    if missing := [str(root) for root in roots if not root.is_dir()]:
        sys.exit(f"error: there is no folder {', '.join(missing)}")
    sent, failed = 0, 0
    for folder in sorted(path.parent for root in roots for path in root.glob("*/*/config.yaml")):
        try:
            if not is_asked(folder) or (is_complete(folder) and is_sent(folder)):
                continue
            send(folder)
        except Exception as error:  # W&B raises many kinds
            failed += 1
            print(f"{folder}: not sent ({next(iter(str(error).splitlines()), type(error).__name__)})", file=sys.stderr)
            if failed == MOST_FAILURES and not sent:  # the server is unreachable
                break
        else:
            sent += 1
            print(f"{folder}: sent")
    print(f"{sent} runs sent{f', {failed} not sent' if failed else ''}", file=sys.stderr)
    return int(failed > 0)


def is_asked(folder: Path) -> bool:
    """Whether a run's config allows sending it to W&B."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    try:
        return config["recorder"]["wandb"] != "disabled"
    except (KeyError, TypeError):
        raise ValueError("its config.yaml names no recorder") from None


def send(folder: Path) -> None:
    ended = threading.Event()
    ended.set()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        if is_complete(folder):
            return mirror(folder, Path(own), ended)
        try:
            with locked(folder / ".lock", wait=False):
                mirror(folder, Path(own), ended)
        except Busy:
            raise RuntimeError("it is running") from None


if __name__ == "__main__":
    sys.exit(main())
