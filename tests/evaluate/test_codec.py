"""PSNR, SNR, PRD and bits by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gossamer.evaluate.codec import Distortion, bits_per_entry, prd, psnr, snr


def test_measures_by_hand():
    x = np.array([[3.0, 4.0], [0.0, 5.0]])
    x_hat = np.array([[3.0, 3.0], [1.0, 5.0]])
    assert prd(x, x_hat) == pytest.approx(100 * math.sqrt(2 / 50))
    assert snr(x, x_hat) == pytest.approx(10 * math.log10(50 / 2))
    assert psnr(x, x_hat) == pytest.approx(10 * math.log10(25 / 0.5))
    assert psnr(x, x_hat, peak=2) == pytest.approx(10 * math.log10(4 / 0.5))
    assert snr(x, x_hat) == pytest.approx(-20 * math.log10(prd(x, x_hat) / 100))


def test_whole_numbers_have_the_peak_of_their_type_and_do_not_wrap():
    x, x_hat = np.array([[0, 255]], np.uint8), np.array([[255, 255]], np.uint8)
    assert psnr(x, x_hat) == pytest.approx(10 * math.log10(2))
    score = Distortion()
    score.update(x, x_hat)
    assert score.score().max_error == 255
    assert psnr(x.astype(np.int16), x_hat.astype(np.int16)) == pytest.approx(20 * math.log10(65535 / 255 * 2**0.5))


def test_blocks_add_up():
    rng = np.random.default_rng(0)
    x, x_hat = rng.standard_normal((2, 30, 7))
    parts, whole = Distortion(), Distortion()
    whole.update(x, x_hat)
    for start in range(0, 30, 4):
        parts.update(x[start : start + 4], x_hat[start : start + 4])
    assert parts.score().rows == 30 and parts.score().entries == 210
    for name in ("psnr", "snr", "prd", "max_error"):
        assert getattr(parts.score(), name) == pytest.approx(getattr(whole.score(), name), rel=1e-12)


def test_equal_zero_and_absent_data():
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert psnr(ones, ones) == snr(ones, ones) == math.inf and prd(zeros, zeros) == 0
    assert prd(zeros, ones) == math.inf and snr(zeros, ones) == -math.inf
    assert math.isnan(psnr(zeros[:0], zeros[:0]))
    assert bits_per_entry(10, 40) == 2 and math.isnan(bits_per_entry(10, 0))
    with pytest.raises(ValueError, match="one shape"):
        psnr(zeros, ones[:1])
