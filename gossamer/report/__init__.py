"""Figures and the self-contained HTML report of a run: plain data in, one file out.

Describe the run as a :class:`ReportData` and call :func:`write`. Needs ``pip install "gossamer[report]"``.
"""

from gossamer.report.data import (
    Context,
    Curve,
    FeatureCard,
    Histogram,
    Metric,
    ReportData,
    Setting,
    SettingGroup,
    TokenLogit,
)
from gossamer.report.render import render, write

__all__ = [
    "Context",
    "Curve",
    "FeatureCard",
    "Histogram",
    "Metric",
    "ReportData",
    "Setting",
    "SettingGroup",
    "TokenLogit",
    "render",
    "write",
]
