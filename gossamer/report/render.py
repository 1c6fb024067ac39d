"""From the data of a report to one HTML file that needs nothing else: no network, no fonts, no second file.

The page is a jinja2 template with autoescaping on; this module prepares what the template prints (texts,
highlights, bar heights) and inlines the style sheet, the script and the charts. A content security policy
in the page forbids every request and every script but its own, whatever the tokens of a report may contain.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from gossamer.report.data import Clip, Context, Curve, FeatureCard, Histogram, Metric, ReportData, TokenLogit
from gossamer.report.figures import INSTALL, curve_svg, density_svg, share
from gossamer.report.tokens import Piece, Segment, level, number, pieces, segments, snippet
from gossamer.storage import replace_file

__all__ = ["render", "write"]


@dataclass(frozen=True, kw_only=True)
class _Line:
    series: str
    last: str


@dataclass(frozen=True, kw_only=True)
class _Chart:
    name: str
    unit: str
    explanation: str
    target: str
    lines: tuple[_Line, ...]
    svg: str


@dataclass(frozen=True, kw_only=True)
class _Bar:
    height: float
    level: int
    title: str


@dataclass(frozen=True, kw_only=True)
class _Bars:
    bars: tuple[_Bar, ...]
    outline: str
    low: str
    high: str
    fullest: str


@dataclass(frozen=True, kw_only=True)
class _Frame:
    place: int
    level: int


@dataclass(frozen=True, kw_only=True)
class _Clip:
    clip: Clip
    frames: tuple[_Frame, ...]


@dataclass(frozen=True, kw_only=True)
class _Context:
    value: str
    style: str
    origin: str
    segments: tuple[Segment, ...]
    clip: _Clip | None


@dataclass(frozen=True, kw_only=True)
class _Preview:
    """The strongest context in one line, split where the token in focus begins."""

    before: tuple[Segment, ...]
    after: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class _Entry:
    pieces: tuple[Piece, ...]
    logit: str
    share: int


@dataclass(frozen=True, kw_only=True)
class _Lens:
    promoted: tuple[_Entry, ...]
    suppressed: tuple[_Entry, ...]


@dataclass(frozen=True, kw_only=True)
class _Feature:
    card: FeatureCard
    density: str
    one_in: str
    mean: str
    largest: str
    preview: _Preview | None
    histogram: _Bars | None
    lens: _Lens | None
    noun: str
    top: tuple[_Context, ...]
    random: tuple[_Context, ...]


def render(data: ReportData) -> str:
    """Return the report as one HTML page that loads nothing.

    Equal data give equal text, byte for byte.

    Raises
    ------
    ValueError
        Where jinja2 or matplotlib is missing.

    Examples
    --------
    >>> page = render(ReportData(title="A run on <b>arrays</b>"))
    >>> "A run on &lt;b&gt;arrays&lt;/b&gt;" in page
    True
    """
    try:
        from jinja2 import Environment
        from markupsafe import Markup
    except ImportError as error:
        raise ValueError(INSTALL) from error
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    script = _file("script.js")
    features = tuple(_feature(card) for card in data.features)
    charts = tuple(_charts(data.curves, Markup))
    density = _density(data, Markup)
    metric_groups = _grouped(data.metrics)
    page = environment.from_string(_file("template.html")).render(
        data=data,
        policy=_policy(script),
        icon="data:image/svg+xml;base64," + base64.b64encode(_file("icon.svg").encode()).decode(),
        css=Markup(_file("style.css")),
        script=Markup(script),
        headline=[metric for metric in data.metrics if metric.headline],
        charts=charts,
        density=density,
        metric_groups=metric_groups,
        features=features,
        any_tokens=any(context.segments for feature in features for context in feature.top + feature.random),
        sections=_sections(data, charts=charts, density=density),
    )
    # Half a surrogate pair in a title or a note cannot be written; tokens have been dealt with already.
    return page.encode("utf-8", "replace").decode("utf-8")


def write(data: ReportData, path: str | os.PathLike[str]) -> Path:
    """Render the report into ``path`` and return it; a reader never sees half a file.

    Raises
    ------
    ValueError
        Where jinja2 or matplotlib is missing.
    StorageError
        Where the disk is full or the folder cannot be written; a report that was there before stays.
    """
    path = Path(path)
    page = render(data).encode("utf-8")
    replace_file(path, lambda temporary: temporary.write_bytes(page))
    return path


def _file(name: str) -> str:
    return resources.files("gossamer.report").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Return the policy that allows this page's own script and styles and nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _sections(data: ReportData, *, charts: tuple[_Chart, ...], density: dict | None) -> list[tuple[str, str]]:
    """Return anchor and name of the sections that the page will have."""
    present = (
        ("overview", "Overview", True),
        ("run", "Run", data.settings),
        ("curves", "Curves", charts),
        ("density", "Density", density),
        ("metrics", "Metrics", data.metrics),
        ("pictures", "Pictures", data.pictures),
        ("features", "Features", data.features),
    )
    return [(anchor, name) for anchor, name, content in present if content]


def _grouped(metrics: tuple[Metric, ...]) -> list[tuple[str, list[Metric]]]:
    """Return the metrics by group, groups in the order of their first metric."""
    groups: dict[str, list[Metric]] = {}
    for metric in metrics:
        groups.setdefault(metric.group, []).append(metric)
    return list(groups.items())


def _charts(curves: tuple[Curve, ...], safe: type[str]) -> list[_Chart]:
    """Return one chart per name of a curve."""
    names: dict[str, list[Curve]] = {}
    for curve in curves:
        names.setdefault(curve.name, []).append(curve)
    return [
        _Chart(
            name=name,
            unit=group[0].unit,
            explanation=next((curve.explanation for curve in group if curve.explanation), ""),
            target=next((number(curve.target) for curve in group if curve.target is not None), ""),
            lines=tuple(_Line(series=curve.series or "at the end", last=_last(curve)) for curve in group),
            svg=safe(curve_svg(group, key=f"curve-{index}")),
        )
        for index, (name, group) in enumerate(names.items())
    ]


def _last(curve: Curve) -> str:
    finite = [value for value in curve.values if math.isfinite(value)]
    return number(float(finite[-1])) if finite else "no value"


def _density(data: ReportData, safe: type[str]) -> dict | None:
    """Return chart and figures of the densities of all latents."""
    if data.densities is None or not len(data.densities):
        return None
    densities = data.densities
    active = densities[densities > 0]
    never = len(densities) - len(active)
    facts = [
        ("latents", f"{len(densities):,}"),
        ("never active", f"{never:,} ({share(never / len(densities))})"),
        ("active on more than one row in ten", f"{int((densities > 0.1).sum()):,}"),
    ]
    if len(active):
        low, middle, high = np.quantile(active, (0.1, 0.5, 0.9))
        facts.append(("median density of the active", share(float(middle))))
        facts.append(("middle four fifths of the active", f"{share(float(low))} to {share(float(high))}"))
    svg = density_svg(densities, rows=data.density_rows, shown=[card.density for card in data.features])
    return {"svg": safe(svg), "facts": facts}


def _feature(card: FeatureCard) -> _Feature:
    """Return what the template prints of one latent."""
    contexts = card.top_contexts + card.random_contexts
    shown = [abs(value) for context in contexts for value in context.activations]
    scale = max([abs(card.max_activation), *filter(math.isfinite, shown)])
    first = next((context for context in contexts if context.tokens), None)
    return _Feature(
        card=card,
        density=share(card.density),
        one_in=f"{round(1 / card.density):,}" if 0 < card.density <= 0.5 else "",
        mean=number(card.mean_activation) if card.fires else "–",
        largest=number(card.max_activation) if card.fires else "–",
        preview=_preview(first, scale=scale) if first else None,
        histogram=_bars(card.histogram, scale=scale) if card.histogram and card.histogram.total else None,
        lens=_lens(card),
        noun="contexts" if first else "moments" if any(context.clip for context in contexts) else "rows",
        top=tuple(_context(context, scale=scale) for context in card.top_contexts),
        random=tuple(_context(context, scale=scale) for context in card.random_contexts),
    )


def _preview(context: Context, *, scale: float) -> _Preview:
    stretches = segments(snippet(context), scale=scale)
    split = next(index for index, stretch in enumerate(stretches) if stretch.focus)
    return _Preview(before=stretches[:split], after=stretches[split:])


def _context(context: Context, *, scale: float) -> _Context:
    step = level(context.activation, scale)
    return _Context(
        value=number(context.activation),
        style=f"h{step}" if step > 0 else f"n{-step}" if step < 0 else "",
        origin=context.origin,
        segments=segments(context, scale=scale) if context.tokens else (),
        clip=_clip(context.clip, scale=scale) if context.clip else None,
    )


def _clip(clip: Clip, *, scale: float) -> _Clip:
    """Return a moment of sound with the step of the color scale for each frame on which the latent is active."""
    steps = (level(value, scale) for value in clip.activations)
    return _Clip(clip=clip, frames=tuple(_Frame(place=place, level=step) for place, step in enumerate(steps) if step))


def _bars(histogram: Histogram, *, scale: float) -> _Bars:
    """Return the bars, heights in percent and logarithmic: a single activation shows beside thousands."""
    most = math.log1p(max(histogram.counts))
    bars = []
    for count, left, right in zip(histogram.counts, histogram.edges, histogram.edges[1:], strict=False):
        height = round(100 * math.log1p(count) / most, 1)
        title = f"{number(left)} to {number(right)}: {count:,}"
        bars.append(_Bar(height=height, level=level((left + right) / 2, scale), title=title))
    outline = "".join(f"M{index} 100v-{bar.height}h.88V100z" for index, bar in enumerate(bars) if bar.height)
    return _Bars(
        bars=tuple(bars),
        outline=outline,
        low=number(histogram.edges[0]),
        high=number(histogram.edges[-1]),
        fullest=f"{max(histogram.counts):,}",
    )


def _lens(card: FeatureCard) -> _Lens | None:
    """Return the promoted and suppressed tokens with a bar each; None where there is no vocabulary."""
    if card.promoted is None and card.suppressed is None:
        return None
    promoted, suppressed = card.promoted or (), card.suppressed or ()
    largest = max((abs(logit) for _, logit in (*promoted, *suppressed)), default=0.0) or 1.0

    def entries(tokens: tuple[TokenLogit, ...]) -> tuple[_Entry, ...]:
        return tuple(
            _Entry(
                pieces=pieces(token, spaces=True) or (Piece("⟨empty⟩", True),),
                logit=f"{logit:+.2f}".replace("-", "−"),
                share=round(100 * abs(logit) / largest) if math.isfinite(logit) else 0,
            )
            for token, logit in tokens
        )

    return _Lens(promoted=entries(promoted), suppressed=entries(suppressed))
