"""What a report shows, as plain data: frozen dataclasses of Python and numpy values.

Everything here is already computed. Nothing here measures, chooses features, formats HTML or knows of
torch; a report can therefore be built from a training run, from an index on disk, or by hand, and tested
without a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

__all__ = [
    "Clip",
    "Context",
    "Curve",
    "FeatureCard",
    "Histogram",
    "Metric",
    "Picture",
    "ReportData",
    "Setting",
    "SettingGroup",
    "TokenLogit",
]


class Setting(NamedTuple):
    """Name one value that the run was made with, and say in a sentence what it means.

    Examples
    --------
    >>> Setting("latents", "4,096", "width of the code").value
    '4,096'
    """

    name: str
    value: str
    explanation: str = ""


class SettingGroup(NamedTuple):
    """Gather the settings that belong together, such as those of the model, the data or the training."""

    name: str
    settings: tuple[Setting, ...]


class Picture(NamedTuple):
    """Show one picture: its name, a data URI, and a sentence that says what is seen."""

    name: str
    data: str
    caption: str


class TokenLogit(NamedTuple):
    """Give one token of the vocabulary and what the decoder direction adds to its logit."""

    token: str
    logit: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """State one measured number together with what it means and how many rows it rests on.

    Parameters
    ----------
    name : str
        Short name, for example ``"FVU"``.
    value : float or None
        The number; None where it could not be measured (the report then says so).
    explanation : str
        One line for a reader who has never met the metric, with the direction in which it is better.
    format : str
        A format specification of Python, for example ``".3f"``, ``".1%"`` or ``",.0f"``.
    unit : str
        Printed after the number.
    group : str
        Heading under which the table of metrics shows it.
    rows : int or None
        Number of rows that the number rests on.
    headline : bool
        Whether it stands at the top of the page as well (about five of them read well).

    Examples
    --------
    >>> Metric(name="dead", value=0.0312, explanation="share of latents that never fire", format=".1%").text
    '3.1%'
    """

    name: str
    value: float | None
    explanation: str
    format: str = ".3g"
    unit: str = ""
    group: str = ""
    rows: int | None = None
    headline: bool = False

    @property
    def text(self) -> str:
        """Return the number as it is printed, without its unit; ``"–"`` where there is none."""
        if self.value is None or not math.isfinite(self.value):
            return "–"
        return format(self.value, self.format)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Hold one line of a chart. Curves of the same ``name`` share a chart and are told apart by ``series``.

    Parameters
    ----------
    name : str
        Title of the chart, for example ``"FVU"``.
    steps, values : sequence of float
        Equally long; a NaN in ``values`` leaves a gap.
    unit : str
        Unit of ``values``.
    axis : str
        What ``steps`` counts.
    scale : {"linear", "log"}
        Scale of the vertical axis.
    series : str
        Name of this line within its chart, for example ``"training"``.
    explanation : str
        One line under the title of the chart.
    target : float or None
        Drawn as a dashed level, for example the L0 that a run was asked to reach.

    Raises
    ------
    ValueError
        Where ``steps`` and ``values`` differ in length, or ``scale`` is unknown.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    unit: str = ""
    axis: str = "rows seen"
    scale: Literal["linear", "log"] = "linear"
    series: str = ""
    explanation: str = ""
    target: float | None = None

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ValueError(
                f"curve {self.name!r} has {len(self.steps)} steps and {len(self.values)} values; "
                "give one value per step"
            )
        if self.scale not in ("linear", "log"):
            raise ValueError(f"curve {self.name!r} has scale {self.scale!r}; it is 'linear' or 'log'")


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Count the activations of one latent, over the rows on which it is active, in adjacent bins.

    Raises
    ------
    ValueError
        Unless there is one more edge than there are counts and the edges ascend.
    """

    counts: Sequence[int]
    edges: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1:
            raise ValueError(
                f"a histogram of {len(self.counts)} counts has {len(self.counts) + 1} edges, not {len(self.edges)}"
            )
        if any(right <= left for left, right in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges of a histogram ascend; remove repeated or unsorted edges")

    @property
    def total(self) -> int:
        """Return the number of activations counted."""
        return int(sum(self.counts))


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Show a moment of sound.

    Parameters
    ----------
    picture : str
        A data URI: a spectrogram that is as wide as the moment is long.
    activations : tuple of float
        The latent's activation on each frame of the moment; 0 where it is not active.
    focus : int
        Index of the frame that the moment was chosen for.
    sound : int
        Which of the report's sounds is heard.
    start, stop : float
        The part of that sound, in seconds.
    """

    picture: str
    activations: tuple[float, ...]
    focus: int
    sound: int
    start: float
    stop: float


@dataclass(frozen=True, kw_only=True)
class Context:
    """Show one place where a latent is active: the tokens around it and the activation on each.

    Parameters
    ----------
    tokens : tuple of str
        The text of each token as it is read, with its leading space (not the vocabulary's ``Ġ`` or ``▁``).
        Empty for rows that are not tokens; ``activations`` then holds the row's one value.
    activations : tuple of float
        The latent's activation on each token; 0 where it is not active.
    focus : int
        Index of the token that the context was chosen for.
    origin : str
        Where it comes from, for example ``"document 812, position 41"`` or ``"row 5120"``.
    clip : Clip or None
        For rows that are moments of sound: the moment.

    Raises
    ------
    ValueError
        Where the lengths disagree or ``focus`` lies outside.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    focus: int = 0
    origin: str = ""
    clip: Clip | None = None

    def __post_init__(self) -> None:
        expected = len(self.tokens) or 1
        if len(self.activations) != expected:
            given = len(self.activations)
            raise ValueError(f"a context of {len(self.tokens)} tokens has {expected} activations, not {given}")
        if not 0 <= self.focus < expected:
            raise ValueError(f"focus is {self.focus}; it is an index from 0 to {expected - 1}")

    @property
    def activation(self) -> float:
        """Return the activation on the token in focus."""
        return float(self.activations[self.focus])


@dataclass(frozen=True, kw_only=True)
class FeatureCard:
    """Hold what is known of one latent.

    Parameters
    ----------
    latent : int
        Its index in the dictionary.
    density : float
        Share of rows on which it is active, in [0, 1].
    mean_activation, max_activation : float
        Over the rows on which it is active; 0 where there are none.
    histogram : Histogram or None
        Its activations; None where it never fires.
    top_contexts, random_contexts : tuple of Context
        The strongest ones, and ones drawn at random from all rows on which it is active.
    promoted, suppressed : tuple of TokenLogit or None
        Tokens whose logits its decoder direction raises and lowers most; None where the source is no language
        model.
    label : str
        What the latent has been found to mean, where somebody or something has said so.

    Raises
    ------
    ValueError
        Where ``density`` is not a share.
    """

    latent: int
    density: float
    mean_activation: float
    max_activation: float
    histogram: Histogram | None = None
    top_contexts: tuple[Context, ...] = ()
    random_contexts: tuple[Context, ...] = ()
    promoted: tuple[TokenLogit, ...] | None = None
    suppressed: tuple[TokenLogit, ...] | None = None
    label: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.density <= 1:
            raise ValueError(f"latent {self.latent} has density {self.density}; it is a share between 0 and 1")

    @property
    def fires(self) -> bool:
        """Return whether the latent was active on any row."""
        return self.density > 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """Hold everything that one report shows.

    Parameters
    ----------
    title, subtitle : str
        What was run, in a few words and in a sentence.
    created : str
        Date and time as it is printed; given rather than taken from the clock, so that equal data give equal
        bytes.
    settings : tuple of SettingGroup
        What was run, in groups of ``(name, ((name, value, explanation), ...))``.
    metrics : tuple of Metric
        The table; those with ``headline`` stand at the top as well.
    curves : tuple of Curve
        The course of the training.
    densities : array of shape (latents,) or None
        Share of rows on which each latent is active.
    density_rows : int
        Number of rows that ``densities`` (and those of the cards) rest on.
    features : tuple of FeatureCard
        In the order of the sampling.
    sampling : str
        How the features were chosen, in words.
    pictures : tuple of Picture
        What was learned, where that can be looked at.
    sounds : tuple of str
        Data URIs of the sounds that clips are parts of.
    notes : tuple of str
        What a reader has to know before believing the numbers, such as a target that was missed.

    Raises
    ------
    ValueError
        Where ``densities`` is not a vector of shares.
    """

    title: str
    subtitle: str = ""
    created: str = ""
    settings: tuple[SettingGroup, ...] = ()
    metrics: tuple[Metric, ...] = ()
    curves: tuple[Curve, ...] = ()
    densities: np.ndarray | None = None
    density_rows: int = 0
    features: tuple[FeatureCard, ...] = ()
    sampling: str = ""
    pictures: tuple[Picture, ...] = ()
    sounds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.densities is None:
            return
        densities = np.asarray(self.densities, dtype=np.float64)
        if densities.ndim != 1 or not bool(np.all((densities >= 0) & (densities <= 1))):
            raise ValueError(
                f"densities has shape {densities.shape}; expected (latents,), each a share between 0 and 1"
            )
        object.__setattr__(self, "densities", densities)
