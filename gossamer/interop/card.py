"""The model card: what somebody who finds an autoencoder on a hub needs to know, from its spec and its provenance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.provenance import Provenance

__all__ = ["CARD", "MARK", "license_beside", "model_card"]

CARD = "README.md"

LARGEST_CARD = 2**20
"""Bytes beyond which a README is not looked into."""

MARK = "<!-- written by gossamer push -->"
"""In a card that may be written anew."""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(saes: Mapping[str, SparseAutoencoder], repository: str) -> str:
    """Return README.md: a YAML head that hubs read, a table of the autoencoders, and how to load one."""
    known = [sae.provenance for sae in saes.values()]
    lines = ["---", *_head(known), "---", "", MARK, f"# {repository.split('/')[-1]}", ""]
    lines += [_sentence(list(saes.values())), ""]
    lines += _table(saes)
    for folder, sae in saes.items():
        about = sae.provenance.lines()
        if about:
            lines += ["", f"## {folder or 'Provenance'}", "", *(f"- {line}" for line in about)]
    which = next(iter(saes))
    call = f'"{repository}"' + (f', "{which}"' if which else "")
    lines += ["", "## Use", "", "```python", "import gossamer as gs", "", f"sae = gs.from_pretrained({call})"]
    given = "codes, rows" if next(iter(saes.values())).spec.wants_rows else "codes"
    lines += ["codes = sae.encode(rows)  # rows: (rows, input width)", f"back = sae.decode({given})", "```", ""]
    return "\n".join(lines)


def license_beside(place: Path) -> str:
    """Return the licence that a README.md states in its YAML head: the one in this folder or, in a copy of a
    repository in the hub's cache, above it; "" if none does."""
    folder = place if place.is_dir() else place.parent
    snapshot = next((above for above in (folder, *folder.parents) if above.parent.name == "snapshots"), folder)
    above = [folder, *(parent for parent in folder.parents if parent.is_relative_to(snapshot))]
    return next(filter(None, (_stated(candidate / CARD) for candidate in above)), "")


def _stated(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > LARGEST_CARD:
        return ""
    _, start, rest = path.read_text(encoding="utf-8", errors="replace").partition("---\n")
    found = re.search(r"^license:[ \t]*[\"']?([\w.+-]+)", rest.partition("\n---")[0], flags=re.MULTILINE)
    return found.group(1) if start and found else ""


def _head(known: list[Provenance]) -> list[str]:
    lines = ["library_name: gossamer", "tags:", "- sparse-autoencoder", "- interpretability"]
    licenses = {about.license for about in known}
    if len(licenses) == 1 and licenses != {""}:
        lines.append(f"license: {json.dumps(licenses.pop())}")
    models = sorted({about.model for about in known if HUB_NAME.fullmatch(about.model)})
    if models:
        lines += ["base_model:", *(f"- {json.dumps(model)}" for model in models)]
    return lines


def _sentence(saes: list[SparseAutoencoder]) -> str:
    kind = "A sparse autoencoder" if len(saes) == 1 else f"{len(saes)} sparse autoencoders"
    models = sorted({sae.provenance.model for sae in saes} - {""})
    return kind + (f" of {', '.join(models)}." if models else ".")


def _table(saes: Mapping[str, SparseAutoencoder]) -> list[str]:
    rows = ["| folder | architecture | width | latents | L0 | FVU |", "|---|---|--:|--:|--:|--:|"]
    for folder, sae in saes.items():
        spec, metrics = sae.spec, sae.provenance.metrics
        l0, fvu = (f"{metrics[name]:.4g}" if name in metrics else "–" for name in ("l0", "fvu"))
        rows.append(f"| {folder or '.'} | {spec.name} | {spec.input_width} | {spec.latents} | {l0} | {fvu} |")
    return rows
