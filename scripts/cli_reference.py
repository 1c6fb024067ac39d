"""Write docs/cli.md from the command line's own help; tests/structure checks that it is up to date."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def reference() -> str:
    """Return the page."""
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    from gossamer.cli.main import GROUPS, VERBS, main

    parts = ["# Command line\n", "Made from `gossamer VERB --help` by `python scripts/cli_reference.py`.\n"]
    grouped = (f"{group} {verb}" for group, (_, verbs) in GROUPS.items() for verb in verbs)
    for verb in ("", *VERBS, *grouped):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            main([*verb.split(), "--help"])
        text = "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())
        parts.append(f"## {f'gossamer {verb}'.strip()}\n\n```\n{text}\n```\n")
    parts.append(
        "Exit codes: 0 success; 2 a mistake in flags, files or values; 1 anything else that went wrong; 128 + n a "
        "stop by signal n. `GOSSAMER_TRACEBACK=1` shows tracebacks; `GOSSAMER_CACHE` is the folder of converted "
        "models.\n"
    )
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
