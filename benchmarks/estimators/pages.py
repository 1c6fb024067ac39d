"""Pages whose tables are filled in by the program that measured them; the text around is written by people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["DOCS", "fill"]

DOCS = Path(__file__).parents[2] / "docs" / "results"


def fill(path: Path, blocks: Mapping[str, str]) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->`; ValueError if there is no such place."""
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{path.name} has no place <!-- {name} -->")
        text = pattern.sub(lambda match, block=block: match[1] + block.rstrip("\n") + "\n" + match[2], text)
    path.write_text(text, encoding="utf-8")
