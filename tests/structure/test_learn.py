"""The walk-throughs hold the same programs in both languages, and the script that runs them notices a change."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "learn"
NAMES = sorted(path.name.removesuffix(".zh.md") for path in PAGES.glob("*.zh.md"))
PAGE = """# A page

```python
x = 2  # two
print(f"{x} and {x / 3:.2f}")
```

```text
2 and 0.67
```

Between them.

```python
y = x + 1
```

```text
an equation, not an output
```
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    where = importlib.util.spec_from_file_location("learn_pages", ROOT / "scripts" / "learn_pages.py")
    assert where and where.loader
    module = sys.modules[where.name] = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    return module


def test_every_page_is_there_in_both_languages():
    assert len(NAMES) == 5
    assert {path.name for path in PAGES.glob("*.md")} == {f"{name}{end}" for name in NAMES for end in (".md", ".zh.md")}


def test_both_languages_hold_the_same_programs(script: ModuleType):
    assert len(script.sources()) == 4
    assert not [line for page in script.sources() for line in script.differing(page)]


@pytest.mark.parametrize("name", NAMES)
class TestEveryPage:
    def test_the_navigation_leads_to_it_and_it_to_the_other_language(self, name: str):
        navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
        for own, other in ((f"{name}.md", f"{name}.zh.md"), (f"{name}.zh.md", f"{name}.md")):
            assert f"learn/{own}" in navigation
            assert f"]({other})" in (PAGES / own).read_text(encoding="utf-8")

    def test_it_shows_the_same_outputs_in_both_languages(self, name: str, script: ModuleType):
        shown = [
            [block.output for block in script.blocks_of((PAGES / f"{name}{end}").read_text(encoding="utf-8"))]
            for end in (".md", ".zh.md")
        ]
        assert shown[0] == shown[1]

    def test_the_languages_link_to_pages_of_their_own(self, name: str):
        english, chinese = ((PAGES / f"{name}{end}").read_text(encoding="utf-8") for end in (".md", ".zh.md"))
        links = re.compile(r"\]\(([\w-]+(?:\.zh)?\.md)")
        assert {link for link in links.findall(english) if link.endswith(".zh.md")} <= {f"{name}.zh.md"}
        assert {link for link in links.findall(chinese) if not link.endswith(".zh.md")} <= {f"{name}.md"}


class TestTheScript:
    @pytest.fixture
    def page(self, tmp_path: Path) -> Path:
        for end in (".md", ".zh.md"):
            (tmp_path / f"page{end}").write_text(PAGE, encoding="utf-8")
        return tmp_path / "page.md"

    def test_a_page_is_one_program_and_its_outputs_are_written_below_its_blocks(self, script: ModuleType, page: Path):
        outputs = list(script.printed(page))
        assert outputs == ["2 and 0.67", ""]
        written = script.filled(PAGE, outputs)
        assert written == PAGE.removesuffix("\n```text\nan equation, not an output\n```\n")
        assert script.filled(written, outputs) == written

    def test_what_is_printed_is_compared_in_both_languages(self, script: ModuleType, page: Path):
        outputs = list(script.printed(page))
        script.write(page, outputs)
        assert not script.check(page, outputs)
        other = script.translation(page)
        other.write_text(other.read_text(encoding="utf-8").replace("0.67", "0.87"), encoding="utf-8")
        (line,) = script.check(page, outputs)
        assert line.startswith("page.zh.md:4:")

    def test_an_error_leads_to_its_line(self, script: ModuleType, page: Path):
        page.write_text(PAGE.replace("y = x + 1", "y = x + 1\nraise KeyError(y)"), encoding="utf-8")
        with pytest.raises(KeyError) as raised:
            list(script.printed(page))
        assert (
            raised.traceback[-1].lineno + 1
            == page.read_text(encoding="utf-8").splitlines().index("raise KeyError(y)") + 1
        )

    def test_comments_may_be_translated_and_nothing_else(self, script: ModuleType, page: Path):
        other = script.translation(page)
        other.write_text(PAGE.replace("# two", "# 二"), encoding="utf-8")
        assert not script.differing(page)
        other.write_text(PAGE.replace("x = 2", "x = 3"), encoding="utf-8")
        assert len(script.differing(page)) == 1
        other.unlink()
        assert len(script.differing(page)) == 1

    @pytest.mark.parametrize(
        ("written", "found", "same"),
        [
            ("FVU 0.385 of 100", "FVU  0.352 of 100", True),
            ("FVU 0.385", "FVU 0.345", False),
            ("0.01", "0.03", True),
            ("0.01", "0.04", False),
            ("100 rows", "101 rows", False),
            ("a 0.50", "b 0.50", False),
            ("-1.00", "1.00", False),
            ("0.50 0.50", "0.50", False),
        ],
    )
    def test_words_and_whole_numbers_agree_and_decimals_nearly(
        self, script: ModuleType, written: str, found: str, same: bool
    ):
        assert script.agrees(written, found) is same
