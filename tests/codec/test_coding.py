"""What is entropy-coded comes back, in the size that its probabilities promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.codec.numbers import Decoder, Encoder, Numbers, Signs, bit_length
from gossamer.codec.quantizer import IntegerPrediction, QuantizedCodes
from gossamer.codec.supports import Supports


@given(st.lists(st.tuples(st.integers(0, 2**40 - 1), st.integers(0, 5)), max_size=60))
@settings(max_examples=60)
def test_whole_numbers_come_back(pairs):
    numbers = np.array([n for n, _ in pairs], np.int64)
    contexts = np.array([c for _, c in pairs], np.int64)
    coder, writer, reader = Encoder(), Numbers(), Numbers()
    for _ in range(2):
        writer.write(coder, numbers, contexts)
        writer.advance()
    decoder = Decoder(coder.bytes())
    for _ in range(2):
        np.testing.assert_array_equal(reader.read(decoder, contexts), numbers)
        reader.advance()
    assert decoder.finished


def test_numbers_above_2_to_the_40_are_refused():
    with pytest.raises(ValueError, match="coarser step"):
        Numbers().write(Encoder(), np.array([1 << 40]), np.zeros(1, np.int64))


def test_signs_that_are_all_alike_cost_nearly_nothing_once_learned():
    signs = Signs()
    signs.write(Encoder(), np.zeros(4000), np.zeros(4000, np.int64))
    signs.advance()
    coder = Encoder()
    signs.write(coder, np.zeros(4000), np.zeros(4000, np.int64))
    assert len(coder.bytes()) <= 8


@given(st.integers(0, 2**52))
def test_bit_length_is_python_s(number):
    assert bit_length(np.array([number]))[0] == number.bit_length()


def block(rng, density, rows):
    dense = rng.random((rows, len(density))) < density
    row, latent = np.nonzero(dense)
    return dense, dense.sum(axis=1), row, latent


def test_supports_come_back_and_cost_their_entropy():
    rng = np.random.default_rng(0)
    density = np.concatenate([rng.beta(0.3, 3, 90), [1.0, 0.0, 0.97]])
    writer, reader = Supports(93), Supports(93)
    for number, rows in enumerate((32, 2000, 2000, 2000)):
        dense, counts, row, latent = block(rng, density, rows)
        coder = Encoder()
        order = rng.permutation(len(row))
        given_rows = np.sort(row)
        writer.write(coder, counts, row[order], latent[order])
        found = reader.read(Decoder(coder.bytes()), rows)
        back = np.zeros_like(dense)
        back[found.rows, found.latents] = True
        np.testing.assert_array_equal(back, dense)
        np.testing.assert_array_equal(found.rows, given_rows)
        writer.advance(), reader.advance()
        if number == 3:
            inside = density[(density > 0) & (density < 1)]
            entropy = -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside)).sum() * rows
            assert 8 * len(coder.bytes()) == pytest.approx(entropy, rel=0.02)


@pytest.mark.parametrize("k", [1, 5, 30, 31])
def test_a_fixed_number_of_active_latents_saves_what_it_should(k):
    """Uniform subsets of known size cost log2 of their number, which flags of independent latents would exceed."""
    from math import comb, log2

    rng = np.random.default_rng(0)
    supports = Supports(31)
    for rows in (32, 3000, 3000):
        dense = np.argsort(rng.random((rows, 31)), axis=1) < k
        row, latent = np.nonzero(dense)
        coder = Encoder()
        supports.write(coder, dense.sum(axis=1), row, latent)
        supports.advance()
    assert 8 * len(coder.bytes()) == pytest.approx(3000 * log2(comb(31, k)), rel=0.01, abs=200)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_supports_of_rows_without_active_latents(rows):
    coder = Encoder()
    Supports(7).write(coder, np.zeros(rows, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert len(Supports(7).read(Decoder(coder.bytes()), rows).rows) == 0


def test_the_prediction_is_the_sum_of_directions():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((20, 9)).astype(np.float32) * 10 ** rng.uniform(-2, 2, (20, 1)).astype(np.float32)
    directions[4] = 0
    bias = rng.standard_normal(9).astype(np.float32)
    prediction = IntegerPrediction(directions, bias, step=0.01)
    counts = rng.integers(0, 6, 50)
    latents = np.concatenate([rng.permutation(20)[:count] for count in counts])
    values = rng.integers(-400, 400, len(latents))
    codes = QuantizedCodes(np.concatenate(([0], np.cumsum(counts))), latents, values)
    norms = np.linalg.norm(directions.astype(float), axis=1)
    norms[4] = 1
    dense = np.zeros((50, 20))
    dense[codes.rows, latents] = values * 0.01 / norms[latents]
    np.testing.assert_allclose(prediction.rows(codes), dense @ directions + bias, atol=2e-3)


def test_the_prediction_is_the_same_in_any_order_of_its_terms():
    rng = np.random.default_rng(0)
    prediction = IntegerPrediction(rng.standard_normal((50, 33)).astype(np.float32), np.zeros(33, np.float32), step=0.1)
    latents, values = rng.permutation(50), rng.integers(-(10**6), 10**6, 50)
    offsets = np.array([0, 50])
    order = rng.permutation(50)
    first = prediction.rows(QuantizedCodes(offsets, latents, values))
    np.testing.assert_array_equal(first, prediction.rows(QuantizedCodes(offsets, latents[order], values[order])))


def test_codes_that_would_overflow_are_refused():
    prediction = IntegerPrediction(np.ones((2, 3), np.float32), np.zeros(3, np.float32), step=1.0)
    codes = QuantizedCodes(np.array([0, 2]), np.array([0, 1]), np.array([1 << 32, 1 << 32]))
    with pytest.raises(ValueError, match="too fine"):
        prediction.rows(codes)
