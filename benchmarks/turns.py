"""A worker process that computes only when it is given the turn; what it does then is in `peers/NAME/speed.py`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.environments import PEERS
from benchmarks.processes import end, environment, last_words


class DiedError(RuntimeError):
    """A worker ended when it should have answered; carries what it said last."""


class Worker:
    """A library's process, built and waiting once this is made."""

    def __init__(self, library: str, setup: dict[str, Any], *, python: Path, log: Path, threads: int | None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._folder = tempfile.TemporaryDirectory()
        given = Path(self._folder.name) / "setup.json"
        given.write_text(json.dumps(setup))
        with log.open("w") as sink:
            self._process = subprocess.Popen(
                [str(python), str(PEERS / library / "speed.py"), str(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment(library) | thread_variables(threads),
                text=True,
                start_new_session=os.name != "nt",
            )
        try:
            self.about = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, times: int = 1) -> dict[str, Any]:
        """Give the turn and wait for the answer; raises DiedError."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command} {times}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # then there is no answer either
        return self._answer()

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            end(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._folder.cleanup()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            status = self._process.wait()
            raise DiedError(f"ended with {status}: {last_words(self._log)}")
        return json.loads(line)


def thread_variables(threads: int | None) -> dict[str, str]:
    """Give the environment variables that set how many threads a process computes with; None sets nothing."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {} if threads is None else dict.fromkeys(names, str(threads))
