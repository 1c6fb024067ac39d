"""Gabor fits: how many directions of a dictionary of image patches are oriented edge filters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["GaborFits", "fit_gabor"]

HIGHEST = 0.6
"""Cycles per pixel; half is the highest along rows and columns, √½ along diagonals."""

NARROWEST = 1.0
"""Pixels, of an envelope's standard deviation: a lone pixel shall not count as a filter, and at 0.8 it does."""

SPECTRUM = 64
"""Side of the padded spectrum in which a fit begins."""

PEAKS = 2
WIDTHS = ((1 / 8, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 8), (1 / 4, 1 / 4))
"""Standard deviations to begin with, across and along the stripes, in sides of the patch."""

TRIED, REFINED = 60, 200
"""Steps from every beginning, and from the best of each direction."""


@dataclass(frozen=True, eq=False)
class GaborFits:
    """The best Gabor function of each direction, all arrays `(directions,)` but the last.

    r2: share of the direction's variance over pixels that it explains; 0 for a constant direction. frequency: cycles
    per pixel. orientation: of the wave, radians from 0 to π; 0 changes along a row. across, along: standard deviations
    of the envelope in pixels, across the stripes and along them. fitted: `(directions, height, width)`.
    """

    r2: np.ndarray
    frequency: np.ndarray
    orientation: np.ndarray
    across: np.ndarray
    along: np.ndarray
    fitted: np.ndarray

    def share(self, threshold: float = 0.7) -> float:
        """Return the share of directions with R² above the threshold; NaN for none."""
        return float(np.mean(self.r2 > threshold)) if len(self.r2) else float("nan")


def fit_gabor(directions: np.ndarray) -> GaborFits:
    """Fit a Gabor function to each direction, by gradient descent from several beginnings.

        g(p) = exp(−u² / 2σ_u² − v² / 2σ_v²) (a cos 2πfu + b sin 2πfu)
        u = (p − c) · (cos θ, sin θ),   v = (p − c) · (−sin θ, cos θ)

    a and b, that is amplitude and phase, are solved for exactly at every step. The fit may miss the best one, so that
    R² is a lower bound. The result is the same for every run on one machine.

    directions: `(directions, height, width)`, of one channel. Raises ValueError for another shape or less than 4 × 4
    pixels.

    Source of the use: Olshausen & Field 1996 (https://doi.org/10.1038/381607a0); of the fit to receptive fields, Jones
    & Palmer 1987 (https://doi.org/10.1152/jn.1987.58.6.1233).
    """
    if directions.ndim != 3 or min(directions.shape[1:]) < 4:
        raise ValueError(
            f"expected directions of shape (directions, height, width), 4 × 4 at least; got {directions.shape}"
        )
    atoms = torch.from_numpy(np.ascontiguousarray(directions, dtype=np.float64))
    power = (atoms - atoms.mean(dim=(1, 2), keepdim=True)).square().sum(dim=(1, 2))
    varied = power > 1e-12 * atoms.square().sum(dim=(1, 2))
    atoms = atoms / torch.where(varied, power, 1.0).sqrt()[:, None, None]
    count, starts = len(atoms), _beginnings(atoms)
    tried = starts.shape[1]
    found = _descend(starts.flatten(0, 1), atoms.repeat_interleave(tried, dim=0), steps=TRIED)
    errors = _errors(found, atoms.repeat_interleave(tried, dim=0)).reshape(count, tried)
    best = found.reshape(count, tried, -1)[torch.arange(count), errors.argmin(dim=1)]
    best = _descend(best, atoms, steps=REFINED)
    fitted, error = _projected(best, atoms)
    scale = torch.where(varied, power, 0.0).sqrt()[:, None, None]
    frequency, angle, across, along = _measures(best, atoms.shape[1:])
    return GaborFits(
        r2=torch.where(varied, 1 - error, 0.0).numpy(),
        frequency=frequency.numpy(),
        orientation=(angle % torch.pi).numpy(),
        across=across.numpy(),
        along=along.numpy(),
        fitted=(fitted * scale).numpy(),
    )


def _beginnings(atoms: Tensor) -> Tensor:
    """Return `(directions, beginnings, 6)` parameters: the peaks of the spectrum, with envelopes of several widths."""
    height, width = atoms.shape[1:]
    y, x = _grid(height, width)
    energy = atoms.square() + 1e-12
    center_y, center_x = ((energy * axis).sum(dim=(1, 2)) / energy.sum(dim=(1, 2)) for axis in (y, x))
    spectrum = torch.fft.fft2(atoms - atoms.mean(dim=(1, 2), keepdim=True), s=(SPECTRUM, SPECTRUM)).abs()
    fy, fx = torch.meshgrid(*[torch.fft.fftfreq(SPECTRUM, dtype=torch.float64)] * 2, indexing="ij")
    spectrum = spectrum * (fx >= 0)
    parameters = []
    for _ in range(PEAKS):
        peak = spectrum.flatten(1).argmax(dim=1)
        py, px = fy.flatten()[peak], fx.flatten()[peak]
        near = (fy - py[:, None, None]).square() + (fx - px[:, None, None]).square() < 0.08**2
        spectrum = spectrum.masked_fill(near, 0.0)
        frequency = torch.hypot(py, px).clamp(0.02, HIGHEST - 0.02)
        for across, along in WIDTHS:
            sizes = [
                torch.full_like(py, max(part * min(height, width) - NARROWEST, 0.3)).log() for part in (across, along)
            ]
            parameters.append(
                torch.stack(
                    [center_y, center_x, torch.atan2(py, px), torch.logit(frequency / HIGHEST), *sizes],
                    dim=1,
                )
            )
    return torch.stack(parameters, dim=1)


def _descend(start: Tensor, atoms: Tensor, *, steps: int) -> Tensor:
    """Return better parameters `(fits, 6)`; each fit is on its own, for Adam treats every parameter apart."""
    parameters = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        _errors(parameters, atoms).sum().backward()
        optimizer.step()
    return parameters.detach()


def _errors(parameters: Tensor, atoms: Tensor) -> Tensor:
    return _projected(parameters, atoms)[1]


def _projected(parameters: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best mixtures of cosine and sine, `(fits, height, width)`, and their squared errors `(fits,)`."""
    y, x = _grid(*atoms.shape[1:])
    center_y, center_x = parameters[:, 0, None, None], parameters[:, 1, None, None]
    frequency, angle, across, along = (part[:, None, None] for part in _measures(parameters, atoms.shape[1:]))
    u = (x - center_x) * angle.cos() + (y - center_y) * angle.sin()
    v = (y - center_y) * angle.cos() - (x - center_x) * angle.sin()
    envelope = torch.exp(-0.5 * ((u / across).square() + (v / along).square()))
    even, odd = envelope * (2 * torch.pi * frequency * u).cos(), envelope * (2 * torch.pi * frequency * u).sin()
    waves = torch.stack([even, odd], dim=1).flatten(2)
    gram = waves @ waves.transpose(1, 2) + 1e-9 * torch.eye(2, dtype=waves.dtype)
    weights = torch.linalg.solve(gram, waves @ atoms.flatten(1)[:, :, None])
    fitted = (waves * weights).sum(dim=1).reshape(atoms.shape)
    return fitted, (atoms - fitted).square().sum(dim=(1, 2))


def _measures(parameters: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return frequency, angle and the envelope's two standard deviations, `(fits,)` each."""
    widths = (NARROWEST + parameters[:, 4:].exp()).clamp(max=float(max(shape)))
    return HIGHEST * parameters[:, 3].sigmoid(), parameters[:, 2], widths[:, 0], widths[:, 1]


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    return y, x
