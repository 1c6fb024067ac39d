"""The log of a run: one JSON object per line in metrics.jsonl, and what a person sees while it grows."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["MetricsLog", "Progress", "read_metrics"]


class MetricsLog:
    """Append lines to a file; `truncate` brings it back to where a checkpoint was taken."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else open(path, "ab")  # noqa: SIM115 - closed in close()

    @property
    def bytes(self) -> int:
        """Length of the file."""
        return 0 if self._file is None else self._file.tell()

    def truncate(self, length: int) -> None:
        """Forget what was written after a checkpoint."""
        if self._file is not None:
            self._file.truncate(length)
            self._file.seek(0, os.SEEK_END)

    def write(self, record: dict[str, Any]) -> None:
        """Add a line."""
        if self._file is not None:
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def sync(self) -> None:
        """Make sure that what was written is on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl.

    Raises ValueError, naming file and line, if it is damaged.
    """
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; is {folder} the folder of a run?")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return records


class Progress:
    """Show how far a run is: a bar on a terminal, a line every few seconds elsewhere, nothing if it is quiet."""

    LINE_SECONDS = 10.0

    def __init__(self, total: int, *, done: int = 0, quiet: bool, unit: str = "step") -> None:
        self._total, self._start, self._quiet, self._unit = total, done, quiet, unit
        self._began = self._said = time.monotonic()
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, done: int, figures: dict[str, float] | None = None) -> None:
        """Say how much is done; figures are shown beside it. Without a terminal, lines come only with figures."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in (figures or {}).items())
        if self._bar:
            self._bar.update(self._task, completed=done, **({"description": text} if text else {}))
            return
        now = time.monotonic()
        if self._quiet or figures is None or (now - self._said < self.LINE_SECONDS and done < self._total):
            return
        self._said = now
        left = (now - self._began) * (self._total - done) / max(done - self._start, 1)
        print(f"{self._unit} {done:,} of {self._total:,}, {left:.0f} s left  {text}", file=sys.stderr, flush=True)
