"""One environment per peer library, so that what it pins never meets what we pin.

`python -m benchmarks.environments [NAME ...]` makes them; one that is up to date is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
ENVIRONMENTS = HERE / ".environments"
TORCH = "torch==2.13.0"
"""The same for every peer, so that a difference in speed is not torch's."""


def peers(runner: str | None = None) -> list[str]:
    """Name the libraries that have an environment of their own, or those of them that have a runner, say `train`."""
    names = sorted(path.parent.name for path in PEERS.glob("*/requirements.txt"))
    return [name for name in names if runner is None or (PEERS / name / f"{runner}.py").exists()]


def ensure(name: str) -> Path:
    """Make the environment of a peer if it is missing or out of date, and return its interpreter.

    Raises ValueError for an unknown name, and RuntimeError with pip's own last words where the installation
    fails.
    """
    if name not in peers():
        raise ValueError(f"no peer is called {name!r}; there are {', '.join(peers())}")
    folder = ENVIRONMENTS / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "requirements.sha256"
    requirements = PEERS / name / "requirements.txt"
    wanted = _fingerprint(requirements)
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"{name}: installing {TORCH} and {requirements.relative_to(HERE.parent)}", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, TORCH])
    _run([*pip, "--no-deps", "--requirement", str(requirements)])
    stamp.write_text(wanted)
    return python


def _fingerprint(requirements: Path) -> str:
    text = "\n".join([TORCH, sys.version, requirements.read_text()])
    return hashlib.sha256(text.encode()).hexdigest()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command[1:5])} … ended with {done.returncode}:\n{last}")


def main() -> None:
    """Make the environments named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.environments", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(peers())}")
    for name in parser.parse_args().names or peers():
        print(f"{name}: {ensure(name).relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
