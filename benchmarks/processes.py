"""How a library's own process is started and ended, and how it is said what it died of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.environments import HERE

OURS = "gossamer"
GRACE_SECONDS = 20.0


def environment(library: str) -> dict[str, str]:
    """Give the environment variables of a library's process: only ours may see this repository."""
    variables = os.environ | {"PYTHONWARNINGS": "ignore", "TQDM_MININTERVAL": "10"}
    variables.pop("PYTHONPATH", None)
    if library == OURS:
        variables["PYTHONPATH"] = str(HERE.parent)
    return variables


def our_interpreter() -> Path:
    """Return the interpreter that this program runs in."""
    return Path(sys.executable)


def end(process: subprocess.Popen) -> None:
    """End a process, by force if it takes too long."""
    process.terminate()
    try:
        process.wait(timeout=GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_words(log: Path) -> str:
    """Return the line that names the error, which a progress bar may follow, or else the last line."""
    said = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    errors = [line for line in said if re.match(r"[\w.]*(Error|Exception|Interrupted|Killed)\b", line)]
    return [*(said or ["it printed nothing"]), *errors][-1].strip()
