"""`python run.py ...` for tests, less the seconds that its imports take: a server that has made them forks.

Each command is a process of its own, as if it had been typed in the root: with its arguments, environment, output,
signals and exit status.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class FrontDoor:
    """As much of `subprocess.Popen` as tests need; standard output and errors are captured as text."""

    def __init__(self, *arguments: str, **environment: str):
        self.outputs = [tempfile.NamedTemporaryFile("r+") for _ in range(2)]  # noqa: SIM115
        self.pid = _ask([arguments, os.environ | environment, [file.name for file in self.outputs]])
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end; what was written to standard output and to standard error."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("run.py", timeout)
            time.sleep(0.01)
        out, err = (file.read() for file in self.outputs)
        for file in self.outputs:
            file.close()
        return out, err


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` gives."""
    process = FrontDoor(*arguments)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@cache
def _server() -> subprocess.Popen[str]:
    """It ends with its standard input, that is with this process."""
    command = [sys.executable, "-m", "tests.front_door"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(request: Any) -> Any:
    server = _server()
    print(json.dumps(request), file=server.stdin, flush=True)
    return json.loads(server.stdout.readline())


def _serve() -> None:
    """A request is a command, answered by its process's number, or such a number, answered by the exit status."""

    import experiments.regression.train
    import experiments.runner.curves
    import experiments.synthetic_gradients.train  # noqa: F401

    fork, processes = multiprocessing.get_context("fork"), {}
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, int):
            answer = processes[request].exitcode
        else:
            process = fork.Process(target=_run, args=request)
            process.start()
            processes[answer := process.pid] = process
        print(json.dumps(answer), flush=True)


def _run(arguments: list[str], environment: dict[str, str], outputs: list[str]) -> None:
    """What a forked process does."""
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.environ.clear()  # it is that of whoever asked first
    os.environ.update(environment)
    sys.argv = ["run.py", *arguments]
    runpy.run_path("run.py", run_name="__main__")


if __name__ == "__main__":
    _serve()
