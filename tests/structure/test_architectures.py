"""Every preset has a page that says what it is made of, where it comes from and what was measured, and nothing else."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.presets import PRESETS, preset

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "architectures"


def text_of(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    where = importlib.util.spec_from_file_location("architecture_pages", ROOT / "scripts" / "architecture_pages.py")
    assert where and where.loader
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    return module


def test_the_pages_are_those_of_the_presets():
    others = {"index", "comparison"}
    assert {path.stem for path in PAGES.glob("*.md")} - others == set(PRESETS)


def test_parts_and_figures_are_up_to_date(script: ModuleType):
    stale = [path.name for path, text in script.pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run: python scripts/architecture_pages.py"


@pytest.mark.parametrize("name", sorted(PRESETS))
class TestEveryPage:
    def test_the_parts_that_it_names_are_those_of_the_preset(self, name: str):
        (block,) = re.findall(r"```toml\n(.*?)```", text_of(name), flags=re.DOTALL)
        read = AutoencoderSpec.from_toml(block)
        task = read.task.to_dict()
        given = {option: task[option] for option in ("site", "target", "sites", "widths") if task.get(option)}
        given |= {"targets": task["destinations"]} if "destinations" in task else {}
        options = {option: tuple(value) if isinstance(value, list) else value for option, value in given.items()}
        assert read == preset(name, input_width=read.input_width, latents=read.latents, l0=32, **options)

    def test_it_names_the_source_that_the_code_names(self, name: str):
        (link,) = re.findall(r"\((https://[^)]+)\)", str(PRESETS[name].__doc__))
        assert f"]({link})" in text_of(name).partition("## Source")[2]

    def test_it_says_when_and_when_not_to_use_it(self, name: str):
        advice = text_of(name).partition("## When, and when not")[2].partition("## Source")[0]
        assert "**When.**" in advice
        assert "**When not.**" in advice

    def test_it_fits_on_a_screen(self, name: str):
        assert len(text_of(name).splitlines()) <= 60

    def test_the_index_and_the_navigation_lead_to_it(self, name: str):
        assert f"]({name}.md)" in text_of("index")
        assert f"architectures/{name}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


class TestTheScript:
    def test_what_is_between_the_marks_is_replaced_and_nothing_else(self, script: ModuleType):
        page = "before\n<!-- x -->\nold\n<!-- /x -->\nafter\n"
        assert script.filled(page, {"x": "new"}) == "before\n<!-- x -->\nnew\n<!-- /x -->\nafter\n"

    def test_a_page_without_a_place_for_a_block_is_refused(self, script: ModuleType):
        with pytest.raises(ValueError, match="<!-- x -->"):
            script.filled("no marks", {"x": "new"})

    @pytest.mark.parametrize(("found", "shown"), [(33.0, "33.0"), (33.7, "33.7 (off)"), (30.3, "30.3 (off)")])
    def test_an_l0_that_was_missed_is_marked(self, script: ModuleType, found: float, shown: str):
        run = script.pareto.Entry(
            **MACHINE, preset="topk", data="layer 8", l0_wanted=32, seed=0, status="done", l0=found
        )
        assert script._l0([run]) == shown

    def test_a_run_that_failed_gives_no_figure_and_a_newer_one_takes_the_place_of_an_older(self, script: ModuleType):
        about = dict(**MACHINE, preset="topk", data="layer 8", l0_wanted=32, seed=0)
        old, new, failed = (
            script.pareto.Entry(**about, status=status, fvu=fvu)
            for status, fvu in [("done", 0.3), ("done", 0.2), ("ValueError: x", None)]
        )
        assert script.pareto.newest([old, new])[old.key].fvu == 0.2
        figures = script.Figures.__new__(script.Figures)
        figures.runs = [run for run in script.pareto.newest([failed]).values() if run.status == "done"]
        figures.times = {}
        assert "Not measured" in script.measured("topk", figures)


MACHINE = dict(
    date="", cpu="", cores=2, python="", threads=1, version="", code="", torch="", width=576, rows=1, batch=1, latents=1
)
