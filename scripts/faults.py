"""Fault injection:  python -m scripts.faults [--kills 20] [names ...]

Runs of each kind are disturbed in every way below, and the same command is repeated. A fault is survived if the message
to the user is clear (a known exit status, no traceback), no file with a final name is empty, and the run ends with the
same rows as an undisturbed one, bit for bit.

    kill        SIGKILL at a random moment of the training
    terminate   SIGTERM, as sent by Slurm: the run saves first
    interrupt   SIGINT, Ctrl-C: likewise
    truncate    checkpoint, rows, recorded states or kept samples of a stopped run are truncated
    flip        one bit of them is flipped; damaged recorded states may be refused by name, and are then removed
    together    two processes start the same run at once: one is refused
    full disk   the run's folder is on a file system that fills up (needs root)
    mixed       another run's checkpoint, rows and summary are copied into its folder
    killed      SIGKILL before each file operation of a run in turn (regression only; needs a C compiler)
    torn        half of each write in turn reaches its file, then SIGKILL (likewise)
    no space, input/output error, no permission
                each file operation in turn fails with this error (likewise)
    locks       the file system has no locks, or refuses one (likewise)
    no W&B      the server is unreachable, or accepts the connection and never answers
    theirs      an untrusted folder of configs tries to run code: see scripts/fuzz_configs.py

Writes faults.csv into --results: how many faults of each kind were tried, how many were survived, and a digest of the
code. Each line is written as soon as it is known. Lines of faults that are not tried stay. What the present code has
already survived as often is not tried again, so that the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import csv
import errno
import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.evidence.reading import read_csv
from scripts import file_faults
from scripts.disturbed_runs import (
    EXPERIMENTS,
    PATIENCE,
    ROOT,
    Bench,
    prepare,
    rows_of,
    wait,
    whole_files,
)
from scripts.fuzz_configs import attacks
from sobolev.files import replacing

OPERATIONS = (  # a run of few file operations, with a checkpoint at each step
    "experiment=regression n_train=20 networks=1 n_test=20 model.hidden=[8] optimizer.steps=2 evaluations=2 "
    "recorder=disabled compute.threads=1 compute.device=cpu compute.checkpoint_seconds=0"
)
EACH_STEP = "compute.checkpoint_seconds=0"  # for a run that must be stopped with a checkpoint, however fast it is
ALL_OPERATIONS = 20  # from this number of kills on, every file operation is tried
COLUMNS = ("experiment", "fault", "tried", "survived", "code")
Lines = dict[tuple[str, str], tuple[int, int, str]]  # the other columns by the first two
CODE = ("run.py", "experiments", "sobolev", "hydra_plugins", "scripts")
FULL_DISK_BYTES = 40_000  # enough for the first rows but not for a checkpoint


def kill(bench: Bench, times: int) -> Iterator[bool]:
    """Kill a run repeatedly until it ends, then the next one. The kills of one run survive or fail together."""
    runs, since, clear = bench.somewhere("kill"), 0, True
    for number in range(times):
        status, said = bench.stopped(runs, signal.SIGKILL)
        since += 1
        clear = clear and status in (0, -signal.SIGKILL) and "Traceback" not in said
        if status == 0 or number == times - 1:
            yield from [clear and whole_files(runs) and bench.ends_well(runs)] * since
            runs, since, clear = bench.somewhere("kill"), 0, True


def asked(number: int, expected: int) -> Callable[[Bench, int], Iterator[bool]]:
    def ask(bench: Bench, times: int) -> Iterator[bool]:
        for _ in range(times):
            runs = bench.somewhere("asked")
            status, said = bench.stopped(runs, number)
            training = any(runs.glob("*/*/metrics.csv"))  # before training there is nothing to save
            saved = status == expected and (any(runs.glob("*/*/checkpoint.pt")) or not training)
            over = any(runs.glob("*/*/summary.json"))  # the signal only interrupted the interpreter's exit
            clear = (saved or over) and "Traceback" not in said
            if not clear:
                print(f"exit status {status}: {said}", file=sys.stderr)
            yield clear and bench.ends_well(runs)

    return ask


def damaged(damage: Callable[[bytes, random.Random], bytes]) -> Callable[[Bench, int], Iterator[bool]]:
    def spoil(bench: Bench, times: int) -> Iterator[bool]:
        number = 0
        while number < times:
            runs = bench.somewhere("damaged")
            process = bench.start(runs, EACH_STEP)
            wait(process, lambda runs=runs: any(runs.glob("*/*/checkpoint.pt")))
            process.terminate()
            process.communicate(timeout=PATIENCE)
            if any(runs.glob("*/*/summary.json")):
                continue  # it was complete already, so that no file is read again
            kinds = ("*/*/checkpoint.pt", "*/*/metrics.csv", "states/**/*.npz")
            victims = [bench.chance.choice(files) for kind in kinds if (files := sorted(runs.glob(kind)))]
            victim = victims[number % len(victims)]
            victim.write_bytes(damage(victim.read_bytes(), bench.chance))
            yield bench.ends_well(runs) or (refused_by_name(bench, runs, victim) and bench.ends_well(runs))
            number += 1

    return spoil


def refused_by_name(bench: Bench, runs: Path, victim: Path) -> bool:
    """Whether damaged recorded states were refused in one line that names the file. Removes them, as it advises."""
    if victim.suffix != ".npz":
        return False
    process = bench.start(runs)
    _, said = process.communicate(timeout=PATIENCE)
    shutil.rmtree(victim.parent)
    return process.returncode == 1 and "Traceback" not in said and str(victim) in said


def truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def flip(content: bytes, chance: random.Random) -> bytes:
    flipped = bytearray(content)
    flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def together(bench: Bench, times: int) -> Iterator[bool]:
    for _ in range(times):
        runs = bench.somewhere("together")
        both = [bench.start(runs), bench.start(runs)]
        ends = [(process.communicate(timeout=PATIENCE)[1], process.returncode) for process in both]
        # The second process may come so late that the run is complete and skipped.
        clear = all(status == 0 or "is being run by another process" in said for said, status in ends)
        yield clear and min(status for _, status in ends) == 0 and rows_of(runs) == bench.rows


def full_disk(bench: Bench, times: int) -> Iterator[bool]:
    if os.geteuid() or not shutil.which("mount"):
        print("full disk: not tried, mounting a file system needs root", file=sys.stderr)
        return
    for _ in range(times):
        runs = bench.somewhere("full")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK_BYTES}", "tmpfs", runs], check=True)
        try:
            process = bench.start(runs)
            _, said = process.communicate(timeout=PATIENCE)
            last = said.strip().splitlines()[-1] if said.strip() else ""
            clear = process.returncode == 1 and last.startswith("error: the disk is full") and whole_files(runs)
            subprocess.run(["mount", "-o", "remount,size=1g", runs], check=True)
            yield clear and bench.ends_well(runs)
        finally:
            subprocess.run(["umount", "--lazy", runs], check=True)


def mixed(bench: Bench, times: int) -> Iterator[bool]:
    """Mix the files of two runs with different seeds; the other run is complete or, every second time, stopped."""
    for number in range(times):
        others, runs = bench.somewhere("other"), bench.somewhere("mixed")
        for seed, folder in ((1, others), (0, runs)):
            process = bench.start(folder, f"seed={seed}", EACH_STEP)
            wait(process, lambda folder=folder: any(folder.glob("*/*/checkpoint.pt")))
            if seed == 0 or number % 2:
                process.terminate()
            process.communicate(timeout=PATIENCE)
        (theirs,), (ours,) = others.glob("*/*/config.yaml"), runs.glob("*/*/config.yaml")
        for path in theirs.parent.iterdir():
            if path.suffix in (".json", ".pt", ".csv"):
                shutil.copy(path, ours.with_name(path.name))
        yield bench.ends_well(runs)


def operations(*faults: int, name: str = "") -> Callable[[Bench, int], Iterator[bool]]:
    def fail(bench: Bench, times: int) -> Iterator[bool]:
        if bench.name == "regression":
            most = None if times >= ALL_OPERATIONS else times
            yield from file_faults.survived(OPERATIONS.split(), bench.somewhere("operations"), faults, name, most)

    return fail


def no_wandb(bench: Bench, times: int) -> Iterator[bool]:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for number in range(times):
            runs = bench.somewhere("wandb")
            port = silent.getsockname()[1] if number % 2 else 9
            unreachable = {"WANDB_BASE_URL": f"http://127.0.0.1:{port}", "WANDB_API_KEY": "0" * 40}
            process = bench.start(runs, "recorder=online", **unreachable)
            _, said = process.communicate(timeout=PATIENCE)
            clear = said.count("W&B is skipped from here on") == 1 and "Traceback" not in said
            yield process.returncode == 0 and clear and rows_of(runs) == bench.rows


def theirs(bench: Bench, times: int) -> Iterator[bool]:
    return attacks(bench.somewhere("theirs"), bench.chance.randrange(2**32), times)


# The function of each fault, and how many are tried per kill.
FAULTS: dict[str, tuple[Callable[[Bench, int], Iterator[bool]], float]] = {
    "kill": (kill, 1),
    "terminate": (asked(signal.SIGTERM, 128 + signal.SIGTERM), 0.25),
    "interrupt": (asked(signal.SIGINT, 128 + signal.SIGINT), 0.25),
    "truncate": (damaged(truncate), 0.2),
    "flip": (damaged(flip), 0.2),
    "together": (together, 0.1),
    "full disk": (full_disk, 0.05),
    "mixed": (mixed, 0.1),
    "killed": (operations(file_faults.KILL), 1),
    "torn": (operations(file_faults.TORN, name="write"), 1),
    "no space": (operations(errno.ENOSPC), 1),
    "input/output error": (operations(errno.EIO), 1),
    "no permission": (operations(errno.EACCES), 1),
    "locks": (operations(errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, name="flock"), 1),
    "no W&B": (no_wandb, 0.1),
    "theirs": (theirs, 1),
}


def digest() -> str:
    """The digest of the code under test and of the faults."""
    files = [file for place in CODE for file in (ROOT / place, *(ROOT / place).rglob("*.py")) if file.is_file()]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:12]


def read(file: Path) -> Lines:
    lines: Lines = {}
    for row in read_csv(file) if file.exists() else []:
        lines[row["experiment"], row["fault"]] = int(row["tried"]), int(row["survived"]), row.get("code", "")
    return lines


def is_known(line: tuple[int, int, str] | None, times: int, code: str) -> bool:
    """Whether the present code has already survived at least this many."""
    return line is not None and line[0] >= times and line[1] == line[0] and line[2] == code


def write(lines: Lines, to: Path) -> None:
    with replacing(to) as path, path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *((*of, *line) for of, line in lines.items())])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"kinds of run, of {', '.join(EXPERIMENTS)}; all by default")
    parser.add_argument(
        "--kills", type=int, default=20, help="SIGKILLs for each kind of run; other faults in proportion"
    )
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=FAULTS, metavar="fault")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="where faults.csv goes")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in EXPERIMENTS:
            parser.error(f"there is no {name!r}; choose from {', '.join(EXPERIMENTS)}")

    code, failed, file = digest(), False, options.results / "faults.csv"
    options.results.mkdir(parents=True, exist_ok=True)
    lines = read(file)
    for name in options.names or EXPERIMENTS:
        times = {fault: max(1, round(options.kills * FAULTS[fault][1])) for fault in options.faults}
        missing = [fault for fault in times if not is_known(lines.get((name, fault)), times[fault], code)]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench = prepare(name, Path(folder), options.seed)
            for fault in missing:
                survived = list(FAULTS[fault][0](bench, times[fault]))
                if survived:
                    failed |= not all(survived)
                    print(f"{name}, {fault}: {sum(survived)} of {len(survived)} survived", flush=True)
                    lines[name, fault] = len(survived), sum(survived), code
                    write(lines, file)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
