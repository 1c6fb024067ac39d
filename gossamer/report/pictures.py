"""Pictures of what a run learned, for rows that can be looked at: images, signals, words, columns of a table."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codes import SparseCodes
from gossamer.report.data import Picture
from gossamer.sources.images import Images
from gossamer.sources.signals import Signals
from gossamer.sources.source import Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["pictures"]

ROWS = 4096
"""Held-out rows that say which latents are used most."""
SHOWN = 5


@torch.no_grad()
def pictures(sae: SparseAutoencoder, source: Source) -> tuple[Picture, ...]:
    """Draw directions and reconstructions, if the rows are pictures, signals, or have names; else nothing.

    Only for autoencoders with a linear decoder that give back the row itself: others have no directions in its units.
    """
    names = getattr(source, "names", None) if not isinstance(source, Images | Signals) else None
    if not (sae.spec.decoder.linear and sae.spec.task.same_rows):
        return ()
    if names is None and not isinstance(source, Images | Signals):
        return ()
    held_out = next(iter(source.validation(batch=ROWS)), None)
    if held_out is None:
        return ()
    x = next(iter(held_out.rows.values())).float().to(sae.device)
    codes = sae.encode(x)
    back = sae.decode(codes, x).cpu().numpy()
    if names is not None:
        return (_words(sae, codes, names),)
    return _shapes(sae, source, codes, x.cpu().numpy(), back)


def _words(sae: SparseAutoencoder, codes: SparseCodes, names: tuple[str, ...]) -> Picture:
    from gossamer.figures import words

    drawn = words(sae, names, order=codes)
    caption = "The directions that are used most: the entries where each has its largest weights."
    return Picture(name="Directions", data=_png(drawn[0]), caption=caption)


def _shapes(
    sae: SparseAutoencoder, source: Source, codes: SparseCodes, x: np.ndarray, back: np.ndarray
) -> tuple[Picture, ...]:
    from gossamer.figures import atoms, reconstructions, waveforms

    shape, rate = None, None
    if isinstance(source, Images):
        shape = source.row_shape[:2] if source.row_shape[-1] == 1 else source.row_shape
        directions = atoms(sae, shape, order=codes)
    else:
        assert isinstance(source, Signals)
        rate = float(source.rate or 1)
        directions = waveforms(sae, rate, order=codes)[0, 0]
    dense, few = sae.decoder.directions().detach().cpu().numpy(), codes.to_dense()[:SHOWN].cpu()
    shown = reconstructions(x[:SHOWN], back[:SHOWN], few, dense, limit=SHOWN, shape=shape, rate=rate)
    caption = "The directions that are used most, by usage."
    if isinstance(source, Signals) and source.rate is None:
        caption += " The sampling rate is not known: a sample counts as a second (gossamer fit has --rate)."
    return (
        Picture(name="Directions", data=_png(directions), caption=caption),
        Picture(
            name="Reconstructions",
            data=_png(shown[0, 0]),
            caption="Held-out rows, what their codes give back, and the directions that each code is made of.",
        ),
    )


def _png(axes: Axes) -> str:
    """Return the figure that axes belong to, as the text of a data URI."""
    file = io.BytesIO()
    axes.get_figure(root=True).savefig(file, dpi=120, format="png", metadata={"Software": None})  # pyright: ignore
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
