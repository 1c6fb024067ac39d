"""Run the programs of docs/learn/ and write what they print below them; with `--check`, compare instead of writing.

The blocks of a page marked `python` are one program, run from top to bottom. The `text` block that follows one is what
it printed. A page and its translation `NAME.zh.md` hold the same program, but for its comments, and it is run once.

`make docs` checks: every program must run, print the same words and whole numbers, and print numbers with a decimal
point within `TOLERANCE` of the page's, since another processor adds up in another order and training carries that on.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import linecache
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parents[1] / "docs" / "learn"
TRANSLATED = ".zh.md"
TOLERANCE = 0.1
"""Of a number with a decimal point, as a share of it; two units of its last digit are always allowed."""

DECIMAL = re.compile(r"-?\d+\.\d+")
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?P<gap>\n+)(?:^```text\n(?P<output>.*?)^```$\n+)?", flags=re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """Code of a page, the line that it begins on, and what the page says it prints."""

    code: str
    line: int
    output: str

    @property
    def program(self) -> str:
        """The code without its comments and layout: what a translation has to share."""
        return ast.dump(ast.parse(self.code))


def blocks_of(text: str) -> list[Block]:
    """Return the program of a page in its parts."""
    return [
        Block(found["code"], text.count("\n", 0, found.start()) + 2, found["output"] or "")
        for found in BLOCK.finditer(text)
    ]


def sources() -> list[Path]:
    """Return the English pages that hold a program."""
    pages = (path for path in sorted(PAGES.glob("*.md")) if not path.name.endswith(TRANSLATED))
    return [path for path in pages if blocks_of(path.read_text(encoding="utf-8"))]


def translation(page: Path) -> Path:
    """Return where the Chinese page belongs."""
    return page.with_suffix(TRANSLATED)


def differing(page: Path) -> list[str]:
    """Return a line for each way in which the program of a page's translation is another."""
    other = translation(page)
    if not other.is_file():
        return [f"{other.name} does not exist"]
    ours, theirs = (blocks_of(path.read_text(encoding="utf-8")) for path in (page, other))
    if len(ours) != len(theirs):
        return [f"{page.name} has {len(ours)} blocks of code, {other.name} has {len(theirs)}"]
    return [
        f"{other.name}:{b.line}: other code than {page.name}:{a.line}"
        for a, b in zip(ours, theirs, strict=True)
        if a.program != b.program
    ]


def printed(page: Path) -> Iterator[str]:
    """Run a page's program and give what each block prints; an exception of the program leads back to its line."""
    text = page.read_text(encoding="utf-8")
    linecache.cache[str(page)] = (len(text), None, text.splitlines(keepends=True), str(page))
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(text):
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, names)
        yield "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


def filled(text: str, outputs: list[str]) -> str:
    """Return a page with what its blocks print below them."""
    remaining = iter(outputs)

    def write(found: re.Match[str]) -> str:
        output = next(remaining)
        return f"```python\n{found['code']}```\n\n" + (f"```text\n{output}\n```\n\n" if output else "")

    return BLOCK.sub(write, text.rstrip("\n") + "\n\n").rstrip("\n") + "\n"


def agrees(written: str, found: str) -> bool:
    """Say whether two outputs have the same words and whole numbers, and decimal numbers within the tolerance."""
    if DECIMAL.sub("#", written).split() != DECIMAL.sub("#", found).split():
        return False
    return all(map(_near, DECIMAL.findall(written), DECIMAL.findall(found)))


def _near(written: str, found: str) -> bool:
    unit = 10.0 ** -len(written.partition(".")[2])
    allowed = max(TOLERANCE * abs(float(written)), 2 * unit)
    return abs(float(written) - float(found)) <= allowed + unit / 1000


def check(page: Path, outputs: list[str]) -> list[str]:
    """Return a line for each block of a page and of its translation that prints something else than is written."""
    wrong = []
    for path in (page, translation(page)):
        for block, output in zip(blocks_of(path.read_text(encoding="utf-8")), outputs, strict=True):
            if not agrees(block.output, output):
                wrong.append(
                    f"{path.name}:{block.line}: the page says\n{block.output}\nand the code prints\n{output}\n"
                )
    return wrong


def write(page: Path, outputs: list[str]) -> list[str]:
    """Write what was printed into a page and its translation; nothing can be wrong with that."""
    for path in (page, translation(page)):
        text = path.read_text(encoding="utf-8")
        path.write_text(filled(text, outputs), encoding="utf-8")
    return []


def main() -> int:
    """Run the pages that are named, or all of them; return 1 if one of them is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="pages without .md; all of them by default")
    parser.add_argument("--check", action="store_true", help="compare what is printed with the pages, change nothing")
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}  # no page may depend on a network
    import torch

    torch.set_num_threads(1)  # models are small; beside other work, several threads mostly wait for each other
    wrong = []
    for page in [PAGES / f"{name}.md" for name in given.names] or sources():
        wrong += differing(page)
        if wrong:
            break
        begin = time.perf_counter()
        outputs = list(printed(page))
        wrong += (check if given.check else write)(page, outputs)
        print(f"{page.name}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    print(*wrong, sep="\n", end="")
    if wrong:
        print("look at the differences, then run: python scripts/learn_pages.py", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
