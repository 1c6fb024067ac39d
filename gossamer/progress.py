"""Progress: what a person sees while something takes its time."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """Show how far a long computation is: a bar on a terminal, a line every few seconds elsewhere, nothing if quiet."""

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
        """Say how much is done; figures are shown beside it.

        Without a terminal, lines come only with figures, which may be empty; the end has a line if it has figures.
        """
        text = "  ".join(f"{name} {value:.4g}" for name, value in (figures or {}).items())
        if self._bar:
            self._bar.update(self._task, completed=done, **({"description": text} if text else {}))
            return
        now = time.monotonic()
        soon = now - self._said < self.LINE_SECONDS
        if self._quiet or figures is None or (soon and (done < self._total or not figures)):
            return
        self._said = now
        left = (now - self._began) * (self._total - done) / max(done - self._start, 1)
        print(
            f"{self._unit} {done:,} of {self._total:,}, {left:.0f} s left  {text}".rstrip(), file=sys.stderr, flush=True
        )
