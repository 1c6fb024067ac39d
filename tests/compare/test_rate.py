"""Bits are those of the codec, and are read off where the error is what was asked for."""

import math

import numpy as np
import pytest
from torch import from_numpy

from gossamer.codec.quantizer import IntegerPrediction
from gossamer.codes import SparseCodes
from gossamer.compare.rate import RatePoint, bits_at, coded, rate_curve


def test_bits_are_interpolated_where_the_error_is_reached():
    points = [RatePoint(10.0, 0.4), RatePoint(20.0, 0.1), RatePoint(30.0, 0.05)]
    assert bits_at(points, 0.2) == pytest.approx(15.0)
    assert bits_at(points, 0.1) == pytest.approx(20.0)
    assert math.isnan(bits_at(points, 0.01)), "the codes do not reach it"
    assert math.isnan(bits_at(points, 0.5)), "already better with the coarsest step"


def test_finer_steps_cost_more_bits_and_come_nearer_until_the_codes_themselves_are_the_limit():
    random = np.random.default_rng(0)
    directions, _ = np.linalg.qr(random.standard_normal((16, 16)))
    x = (random.standard_normal((500, 16)) * np.geomspace(3, 0.1, 16)) @ directions
    codes = SparseCodes.from_dense(from_numpy(x @ directions[:6].T))
    floor = float(np.square(x - x @ directions[:6].T @ directions[:6]).sum() / np.square(x - x.mean(0)).sum())
    curve = rate_curve(x, codes, lambda step: IntegerPrediction(directions[:6], np.zeros(16), step=step), floor=floor)
    bits, errors = np.array(curve).T
    assert (np.diff(bits) >= 0).all()
    assert (np.diff(errors[errors < 0.9]) < 0).all()
    assert errors[-1] == pytest.approx(floor, rel=0.03)


def test_a_latent_that_is_rarely_active_takes_few_bits():
    random = np.random.default_rng(0)
    dense = random.standard_normal((2000, 8))
    rare = dense * (random.random(dense.shape) < 0.02)
    eye = IntegerPrediction(np.eye(8), np.zeros(8), step=0.1)
    many, few = (coded(SparseCodes.from_dense(from_numpy(codes)), eye)[1] for codes in (dense, rare))
    assert few < 0.1 * many
