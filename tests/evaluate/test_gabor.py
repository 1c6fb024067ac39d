"""Gabor fits: what is a Gabor function is found to be one, what is none is not."""

import numpy as np
import pytest

from gossamer.evaluate.gabor import fit_gabor

SIDE = 12


def gabor(*, angle, frequency, phase=0.0, center=(5.5, 5.5), across=2.0, along=3.0):
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    y, x = y - center[0], x - center[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    envelope = np.exp(-(u**2) / (2 * across**2) - v**2 / (2 * along**2))
    return envelope * np.cos(2 * np.pi * frequency * u + phase)


def test_gabor_functions_are_found_whatever_their_place_phase_and_size():
    rng = np.random.default_rng(0)
    made = [
        {
            "angle": rng.uniform(0, np.pi),
            "frequency": rng.uniform(0.12, 0.4),
            "phase": rng.uniform(0, 2 * np.pi),
            "center": rng.uniform(3, 8, 2),
            "across": rng.uniform(1.5, 3),
            "along": rng.uniform(1.5, 3.5),
        }
        for _ in range(40)
    ]
    fits = fit_gabor(np.stack([gabor(**one) for one in made]))
    assert np.min(fits.r2) > 0.9 and np.median(fits.r2) > 0.999 and fits.share() == 1
    exact = fits.r2 > 0.999
    np.testing.assert_allclose(np.cos(2 * (fits.orientation - [one["angle"] for one in made]))[exact], 1, atol=0.02)
    np.testing.assert_allclose(fits.frequency[exact], np.array([one["frequency"] for one in made])[exact], atol=0.02)


def test_orientation_frequency_and_widths_are_in_the_units_stated():
    fits = fit_gabor(gabor(angle=0.0, frequency=0.25, across=1.6, along=3.0)[None])
    assert np.cos(2 * fits.orientation[0]) == pytest.approx(1, abs=1e-3)
    assert fits.frequency[0] == pytest.approx(0.25, abs=0.005)
    assert (fits.across[0], fits.along[0]) == (pytest.approx(1.6, abs=0.05), pytest.approx(3.0, abs=0.1))


def test_noise_lone_pixels_corners_and_constants_are_no_filters():
    pixel, corner = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    pixel[6, 6] = 1
    corner[:6, :6] = corner[6:, 6:] = 1
    noise = np.random.default_rng(0).standard_normal((20, SIDE, SIDE))
    fits = fit_gabor(np.concatenate([noise, [pixel, np.full((SIDE, SIDE), 0.3), np.zeros((SIDE, SIDE))]]))
    assert fits.r2.max() < 0.7 and fits.share() == 0
    assert (fits.r2[-2:] == 0).all()
    crossing = gabor(angle=0.0, frequency=0.2) + gabor(angle=np.pi / 2, frequency=0.2)
    assert fit_gabor(np.stack([crossing])).r2[0] < 0.7


def test_r2_is_that_of_what_was_fitted_and_knows_no_units():
    atoms = np.random.default_rng(1).standard_normal((6, SIDE, SIDE)) + 3 * gabor(angle=0.7, frequency=0.2)
    fits, scaled = fit_gabor(atoms), fit_gabor(-1e-3 * atoms)
    variance = ((atoms - atoms.mean((1, 2), keepdims=True)) ** 2).sum((1, 2))
    np.testing.assert_allclose(fits.r2, 1 - ((atoms - fits.fitted) ** 2).sum((1, 2)) / variance, rtol=1e-9)
    np.testing.assert_allclose(scaled.r2, fits.r2, rtol=1e-6)
    assert 0.05 < fits.share(float(np.median(fits.r2))) < 0.95


@pytest.mark.parametrize("shape", [(4, 144), (2, 3, 12), (2, 12, 12, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="directions, height, width"):
        fit_gabor(np.zeros(shape))
