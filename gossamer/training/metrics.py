"""The log of a run: one JSON object per line in metrics.jsonl."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["MetricsLog", "read_metrics"]


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
