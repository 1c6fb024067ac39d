"""How an autoencoder reads what is stored: the seam between a file and the layouts of pictures and signals.

    x = unit · (shift + scale · x')        x̂ = unit · shift · 1 + unit · scale · b + Σ (unit · scale · z_j) d_j

x is a stored row, x' what the autoencoder saw in training: a patch or a frame, its numbers divided by `unit` (255 for
pictures) and normalized by the layout. shift and scale, the side information of a normalization, are coded as two
further latents whose directions are a row of ones and the decoder's bias b: they are quantized, counted and predicted
like all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.codes import SparseCodes
from gossamer.sources.frames import Frames
from gossamer.sources.patches import Patches

__all__ = ["LinearMap", "Reading"]

LAYOUTS = {layout.kind: layout for layout in (Patches, Frames)}


class LinearMap(NamedTuple):
    """x̂ = z W + b. directions: `(latents, width)`; bias: `(width,)`."""

    directions: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Reading:
    """How rows belong together.

    layout: that cuts one picture or signal of this shape into rows; None for plain rows. unit: see above. rate: of a
    signal, samples per second, if it is known.
    """

    layout: Patches | Frames | None = None
    shape: tuple[int, ...] = ()
    unit: float = 1.0
    rate: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the header says."""
        if self.layout is None:
            return {"kind": "rows", "unit": self.unit}
        rate = {} if self.rate is None else {"rate": self.rate}
        return {"unit": self.unit, "shape": list(self.shape), **rate, **self.layout.to_dict()}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Reading:
        """Read what the header says; raises ValueError for what is not known here."""
        found = dict(found)
        kind, unit = found.get("kind"), found.pop("unit", 1.0)
        if kind not in ("rows", *LAYOUTS):
            raise ValueError(f"its rows have a layout that is not known here: {kind!r}")
        if not isinstance(unit, float) or not 0 < unit < 1e300:
            raise ValueError(f"its unit is {unit!r}")
        if kind == "rows" and set(found) == {"kind"}:
            return cls(unit=unit)
        shape, rate = found.pop("shape", None), found.pop("rate", None)
        if rate is not None and not (isinstance(rate, int) and 0 < rate < 2**31):
            raise ValueError(f"its sampling rate is {rate!r}")
        if kind == "rows" or not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"its layout {kind!r} has the fields {', '.join(found)} and the shape {shape}")
        layout = LAYOUTS[kind].from_dict(found)
        expected = (1,) if isinstance(layout, Frames) else (2, 3)
        if len(shape) not in expected:
            raise ValueError(f"its layout {kind!r} cannot have the shape {shape}")
        return cls(layout, tuple(shape), unit, rate)

    @property
    def extra(self) -> int:
        """Latents that are coded beside those of the autoencoder."""
        return len(self._columns)

    @property
    def _columns(self) -> tuple[str, ...]:
        return () if self.layout is None else self.layout.side_columns

    def split(self, content: np.ndarray) -> np.ndarray:
        """Return the rows of a picture or signal; raises ValueError if the layout would lose something of it."""
        if self.layout is None:
            return content
        rows = self.layout.split(content)
        if not np.array_equal(self.join(rows), content):
            raise ValueError(f"{self.layout} does not give back what it cuts; leave its channels as they are")
        return rows

    def join(self, rows: np.ndarray) -> np.ndarray:
        """Return what the rows are parts of."""
        if isinstance(self.layout, Frames):
            return self.layout.join(rows, self.shape[0])
        return rows if self.layout is None else self.layout.join(rows, self.shape)

    def extend(self, linear: LinearMap) -> LinearMap:
        """Return the map from coded latents to stored rows."""
        directions, bias = linear.directions, linear.bias.astype(np.float64) * self.unit
        if "shift" in self._columns:
            directions = np.concatenate([directions, np.ones((1, directions.shape[1]), directions.dtype)])
        if "scale" in self._columns:
            directions, bias = np.concatenate([directions, linear.bias[None]]), np.zeros_like(bias)
        return LinearMap(directions, bias)

    @torch.no_grad()
    def encode(self, sae: SparseAutoencoder, x: np.ndarray) -> SparseCodes:
        """Return the codes of stored rows `(rows, width)`, in the units of these rows."""
        wide = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
        wide, side = wide / wide.dtype.type(self.unit), np.zeros((len(x), 0))
        if self.layout is not None:
            wide, side = self.layout.normalize(wide)
        codes = sae.encode(torch.from_numpy(np.ascontiguousarray(wide)).to(sae.device))
        if self.unit == 1 and not self.extra:
            return codes
        per_row = torch.full((len(x),), self.unit, dtype=torch.float64)
        if "scale" in self._columns:
            per_row = per_row * torch.from_numpy(side[:, -1].astype(np.float64))
        codes = codes.to("cpu", torch.float64)
        codes = codes.replace_values(codes.values * per_row[codes.row_of_entry()])
        return _appended(codes, torch.from_numpy(side.astype(np.float64) * self.unit))


def _appended(codes: SparseCodes, side: torch.Tensor) -> SparseCodes:
    """Return codes of more latents; side: `(rows, extra)`, their values."""
    rows, extra = side.shape
    row = torch.cat([codes.row_of_entry(), torch.arange(rows).repeat_interleave(extra)])
    order = torch.argsort(row, stable=True)
    latents = torch.cat([codes.indices, codes.latents + torch.arange(extra).repeat(rows)])
    return SparseCodes(
        offsets=codes.offsets + extra * torch.arange(rows + 1),
        indices=latents[order],
        values=torch.cat([codes.values, side.reshape(-1)])[order],
        latents=codes.latents + extra,
    )
