"""The page as text: what it escapes, what it leaves out, what it weighs, and that it is always the same."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer.report import (
    Context,
    Curve,
    FeatureCard,
    Histogram,
    Metric,
    ReportData,
    TokenLogit,
    render,
    write,
)
from gossamer.report.figures import curve_svg, density_svg
from gossamer.report.tokens import LEVELS, level, pieces, segments

VOID = {"meta", "link", "img", "input", "br", "hr"}
SCRIPTS = 1


class Page(HTMLParser):
    """Reads a page and keeps its tags, attributes and texts; complains where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"closed but not open: {tag}"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def text(report_file: Path) -> str:
    return report_file.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def one_card(**changes: object) -> ReportData:
    card = FeatureCard(latent=1, density=0.5, mean_activation=1.0, max_activation=2.0)
    return ReportData(title="one", features=(replace(card, **changes),))


def test_hostile_tokens_stay_text(page: Page) -> None:
    assert page.tags.count("script") == SCRIPTS
    assert "alert(1)" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<b>document</b>" in page.text
    assert "<i>quotes</i> & “marks”" in page.text


def test_what_cannot_be_seen_is_shown_by_a_symbol(page: Page) -> None:
    for symbol in ("↵", "⇥", "␍", "··", "␀", "␛", "⟨DCE2⟩", "⟨202E⟩", "⟨empty⟩"):
        assert symbol in page.text
    assert "\u202e" not in page.text


def test_no_attribute_and_no_style_leads_outside(text: str, page: Page) -> None:
    for tag, name, value in page.attributes:
        if name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert value.startswith(("#", "data:")), (tag, name, value)
        assert "//" not in value.replace("data:image/svg+xml;base64,", ""), (tag, name, value[:80])
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "http:" not in text
    assert "https:" not in text


def test_the_policy_forbids_the_network(page: Page) -> None:
    policy = next(value for _, name, value in page.attributes if name == "content" and "-src" in value)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0]


def test_ids_are_unique_and_every_link_within_the_page_arrives(page: Page) -> None:
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = {value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")}
    named = [value.split() for _, name, value in page.attributes if name == "aria-labelledby"]
    labels = {word for words in named for word in words}
    assert links | labels <= set(ids)


def test_equal_data_give_equal_bytes_in_another_process(report_data: ReportData, text: str) -> None:
    assert render(report_data) == text
    program = (
        "import numpy as np; from gossamer.report import *;"
        "data = ReportData(title='t', densities=np.linspace(0, 0.5, 64), density_rows=100,"
        " curves=(Curve(name='c', steps=(0, 1), values=(2, 1), target=1.5),));"
        "import hashlib; print(hashlib.sha256(render(data).encode()).hexdigest())"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(results) == 1


def test_fifty_features_fit_in_two_megabytes(report_data: ReportData, text: str) -> None:
    assert len(report_data.features) == 50
    assert len(text.encode()) < 2_000_000


def test_a_run_on_arrays_has_a_report_without_contexts_or_logit_lens(array_data: ReportData) -> None:
    page = Page(render(array_data))
    assert "row 0" in page.text
    assert "3.00" in page.text
    assert "Top activating rows" in page.text
    for absent in ("Promotes", "Training curves", "Density of the latents", "What was run", "Highlight"):
        assert absent not in page.text


def test_an_empty_report_is_a_page() -> None:
    assert "nothing yet" in Page(render(ReportData(title="nothing yet"))).text


def test_a_latent_that_never_fires_says_so(page: Page) -> None:
    assert "never active" in page.text
    assert "Not active on any of 48,000 rows." in page.text


def test_what_could_not_be_measured_is_a_dash() -> None:
    for value in (None, float("nan"), float("inf")):
        assert Metric(name="m", value=value, explanation="").text == "–"


def test_densities_without_a_single_active_latent_can_be_drawn() -> None:
    svg = density_svg(np.zeros(16), rows=0)
    assert "16 were never active" in svg


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("values", [(), (float("nan"),) * 3, (0.0, -1.0, 0.0), (1e-30, 1e30, 1.0)])
def test_any_values_can_be_drawn(values: tuple[float, ...], scale: str) -> None:
    curve = Curve(name="損失 $x$", steps=range(len(values)), values=values, scale=scale, axis="行 $_$")
    assert curve_svg([curve], key="c").startswith("<svg")


def test_a_spike_of_one_step_survives_the_thinning() -> None:
    values = np.ones(20_000)
    values[12_345] = 1000.0
    svg = curve_svg([Curve(name="c", steps=np.arange(20_000), values=values)], key="c")
    assert len(svg) < 30_000
    assert ">1000<" in svg


def test_colors_of_charts_come_from_the_page(text: str) -> None:
    charts = re.findall(r'<svg viewBox.*? role="img" aria-labelledby.*?</svg>', text, flags=re.S)
    assert len(charts) == 5
    for chart in charts:
        assert not re.search(r"(?:fill|stroke): #", chart)


def luminance(color: str) -> float:
    parts = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_contrast_on_every_highlight_in_both_themes(text: str) -> None:
    colors = dict(re.findall(r"--([\w-]+): light-dark\((#\w{6}, #\w{6})\)", text))
    themes = [{name: pair.split(", ")[at] for name, pair in colors.items()} for at in (0, 1)]
    for theme in themes:
        grounds = [f"{hue}{step}" for hue in "hn" for step in range(1, LEVELS + 1)]
        pairs = [("mark-ink", ground) for ground in grounds]
        pairs += [("ink", ground) for ground in ("paper", "panel", "wash")]
        pairs += [(name, ground) for name in ("muted", "accent", "mark") for ground in ("paper", "panel")]
        for front, back in pairs:
            light, dark = sorted((luminance(theme[front]), luminance(theme[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(), max_size=30), st.booleans())
def test_pieces_keep_what_can_be_read_and_can_always_be_written(token: str, spaces: bool) -> None:
    found = pieces(token, spaces=spaces)
    "".join(piece.text for piece in found).encode("utf-8")
    kept = "".join(piece.text for piece in found if not piece.symbol)
    assert [letter for letter in kept if letter.isalnum()] == [letter for letter in token if letter.isalnum()]


@settings(max_examples=60, deadline=None)
@given(st.floats(allow_nan=True), st.floats(min_value=0, allow_infinity=False))
def test_levels_stay_on_the_scale_and_keep_the_sign(activation: float, scale: float) -> None:
    step = level(activation, scale)
    assert -LEVELS <= step <= LEVELS
    assert step == 0 or (step > 0) == (activation > 0)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_segments_say_every_token_once_and_mark_one_focus(data: st.DataObject) -> None:
    words = st.lists(st.sampled_from([" the", "cat", "s", ",", " sat", "."]), min_size=1, max_size=12)
    tokens = data.draw(words)
    values = data.draw(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=len(tokens), max_size=len(tokens)))
    focus = data.draw(st.integers(0, len(tokens) - 1))
    found = segments(Context(tokens=tuple(tokens), activations=tuple(values), focus=focus), scale=2.0)
    said = "".join(piece.text for segment in found for piece in segment.pieces)
    assert said == "".join(tokens).removeprefix(" ")
    assert sum(segment.focus for segment in found) == 1
    assert sum(segment.active for segment in found) == sum(value != 0 or at == focus for at, value in enumerate(values))


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(), max_size=20))
def test_any_token_anywhere_gives_a_well_formed_page(token: str) -> None:
    context = Context(tokens=(token, token), activations=(1.0, 0.0), origin=token)
    data = one_card(
        top_contexts=(context,),
        random_contexts=(context,),
        promoted=(TokenLogit(token, 1.0),),
        suppressed=(TokenLogit(token, float("-inf")),),
        label=token,
    )
    text = render(replace(data, title=token, notes=(token,), sampling=token))
    text.encode("utf-8")
    assert Page(text).tags.count("script") == SCRIPTS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Context(tokens=("a", "b"), activations=(1.0,)), "2 tokens"),
        (lambda: Context(tokens=("a",), activations=(1.0,), focus=1), "focus"),
        (lambda: Histogram(counts=(1,), edges=(0.0,)), "2 edges"),
        (lambda: Histogram(counts=(1, 1), edges=(0.0, 0.0, 1.0)), "ascend"),
        (lambda: Curve(name="c", steps=(1,), values=()), "one value per step"),
        (lambda: Curve(name="c", steps=(), values=(), scale="square"), "'log'"),
        (lambda: one_card(density=2.0), "between 0 and 1"),
        (lambda: ReportData(title="t", densities=np.ones((2, 2))), "(latents,)"),
        (lambda: ReportData(title="t", densities=np.array([np.nan])), "between 0 and 1"),
    ],
)
def test_data_that_contradict_themselves_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    missing: str, report_data: ReportData, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def refuse(name: str, *arguments, **named):
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return imported(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=re.escape('pip install "gossamer[report]"')):
        render(report_data)


def test_writing_replaces_the_old_report_and_leaves_nothing_else(array_data: ReportData, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write(array_data, path) == path
    path.write_text("old")
    write(array_data, str(path))
    assert path.read_text(encoding="utf-8") == render(array_data)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_made_leaves_the_old_one(
    array_data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(array_data, tmp_path / "report.html")
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match=r"report\.html"):
        write(replace(array_data, title="other"), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_the_data_need_neither_torch_nor_a_drawing_library() -> None:
    program = (
        "import sys, gossamer.report;print([name for name in ('torch', 'jinja2', 'matplotlib') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
