"""A decoder's step for one more position of each row, as compiled loops: none of a layer's work asks the interpreter.

Matrices, what they multiply, and what is remembered are in float32 or bfloat16 (here as uint16: numba knows no
bfloat16); products come out in float32, and everything between them is in float32.

Legend: B rows, D width, F hidden width, V target ids, H heads, W width of a head, T positions there is room for, S
sources, L positions of a source, 2W the cosines and sines of a head.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from gossamer.kernels.compilation import compiled

__all__ = [
    "ACTIVATIONS",
    "AttentionWeights",
    "LayerWeights",
    "LinearWeights",
    "NormWeights",
    "decode_layer",
    "decode_output",
    "embed",
    "likeliest",
]

ACTIVATIONS = ("relu", "gelu", "swish")

LOG2E, HALF, ONE = np.float32(1 / math.log(2)), np.float32(0.5), np.float32(1)
EXP2 = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(7))
ERF = tuple(np.float32(c) for c in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))
ERF_SLOPE, ROOT_HALF, SMALLEST = np.float32(0.3275911), np.float32(0.5**0.5), np.float32(-126)

INT, FLOAT, PLACE = ir.IntType(32), ir.FloatType(), ir.IntType(8).as_pointer()
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


class LinearWeights(NamedTuple):
    """x weightᵀ + bias."""

    weight: np.ndarray
    bias: np.ndarray


class NormWeights(NamedTuple):
    """(x − mean) / √(variance + eps) · weight + bias."""

    weight: np.ndarray
    bias: np.ndarray
    eps: np.float32


class AttentionWeights(NamedTuple):
    """into the heads, back to the residual stream, and the norm beside it."""

    into: LinearWeights
    back: LinearWeights
    norm: NormWeights


class LayerWeights(NamedTuple):
    """What a layer does. memory: of cross-attention; of no account in a decoder without an encoder.

    activation: its place in `ACTIVATIONS`.
    """

    own: AttentionWeights
    memory: AttentionWeights
    wide: LinearWeights
    narrow: LinearWeights
    norm: NormWeights
    activation: int


def _read(number):
    """Return a number as float32."""
    raise NotImplementedError


@overload(_read)
def _(number):
    if number == types.uint16:
        return lambda number: np.uint32(np.uint32(number) << np.uint32(16)).view(np.float32)
    return lambda number: number


def _write(number, like):
    """Return a float32 as a number of the kind of `like`; to bfloat16 it is rounded to the nearest, ties to even."""
    raise NotImplementedError


@overload(_write)
def _(number, like):
    if like == types.uint16:

        def rounded(number, like):
            bits = np.float32(number).view(np.uint32)
            return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

        return rounded
    return lambda number, like: number


@compiled
def embed(ids_B, embedding_VD, position_D, x_BD):
    """x ← √D · embedding + position; without positions that are added, position is `(0,)`."""
    scale = np.sqrt(np.float32(x_BD.shape[1]))
    for row in range(x_BD.shape[0]):
        for d in range(x_BD.shape[1]):
            x_BD[row, d] = scale * _read(embedding_VD[ids_B[row], d])
        for d in range(position_D.shape[0]):
            x_BD[row, d] += position_D[d]


@compiled
def decode_layer(address, x_BD, layer, pre, room, turn_2W, origins_BT, length, memory, seen_SL, sources_B):
    """Take the residual stream x of one more position through a layer, in place.

    address: of the product. room: keys and values, each `(B, H, T, W)`; those of the new position are added at
    `length`, each row's in its own place. origins: where a row finds those of its earlier positions; so hypotheses of
    a beam change places and rows leave without moving anything. turn: cosines and signed sines of rotary positions at
    `length`, or `(2, 0)`. memory: keys and values of sources, each `(S, H, L, W)`, seen: where there is no padding,
    sources: each row's. With no source there is no cross-attention.
    """
    rows, width = x_BD.shape
    y_BD = np.empty((rows, width), layer.wide.weight.dtype)
    sum_BD = np.empty((rows, width), np.float32)

    _read_stream(x_BD, layer.own.norm, pre, y_BD)
    parts_B3D = np.empty((rows, 3 * width), np.float32)
    _product(address, y_BD, layer.own.into.weight, parts_B3D)
    _attend_to_earlier(parts_B3D, layer.own.into.bias, turn_2W, *room, origins_BT, length, y_BD)
    _product(address, y_BD, layer.own.back.weight, sum_BD)
    _add_to_stream(x_BD, sum_BD, layer.own.back.bias, layer.own.norm, pre)

    if seen_SL.shape[0]:
        _read_stream(x_BD, layer.memory.norm, pre, y_BD)
        _product(address, y_BD, layer.memory.into.weight, sum_BD)
        _attend_to_memory(sum_BD, layer.memory.into.bias, *memory, seen_SL, sources_B, y_BD)
        _product(address, y_BD, layer.memory.back.weight, sum_BD)
        _add_to_stream(x_BD, sum_BD, layer.memory.back.bias, layer.memory.norm, pre)

    _read_stream(x_BD, layer.norm, pre, y_BD)
    hidden = layer.wide.weight.shape[0]
    hidden_BF, active_BF = np.empty((rows, hidden), np.float32), np.empty((rows, hidden), y_BD.dtype)
    _product(address, y_BD, layer.wide.weight, hidden_BF)
    _activate(hidden_BF, layer.wide.bias, layer.activation, active_BF)
    _product(address, active_BF, layer.narrow.weight, sum_BD)
    _add_to_stream(x_BD, sum_BD, layer.narrow.bias, layer.norm, pre)


@compiled
def decode_output(address, x_BD, norm, pre, weight_VD):
    """Return the logits `(B, V)` of a residual stream that is through all layers."""
    y_BD = np.empty(x_BD.shape, weight_VD.dtype)
    _read_stream(x_BD, norm, pre, y_BD)
    logits_BV = np.empty((x_BD.shape[0], weight_VD.shape[0]), np.float32)
    _product(address, y_BD, weight_VD, logits_BV)
    return logits_BV


@compiled
def likeliest(logits_BV, never, chosen_B, gain_B):
    """Write the likeliest id of each row that is not among `never`, the first if there are several, and its log p.

    Logits of ids that are never said count for the probabilities; here they become −∞.
    """
    for row in range(logits_BV.shape[0]):
        most, total = _largest(logits_BV, row), np.float32(0)
        for v in range(logits_BV.shape[1]):
            total += _exp(logits_BV[row, v] - most)
        for v in never:
            logits_BV[row, v] = -np.inf
        best, chosen = _largest(logits_BV, row), 0
        while logits_BV[row, chosen] < best:
            chosen += 1
        chosen_B[row], gain_B[row] = chosen, np.float64(best - most) - np.log(np.float64(total))


@compiled
def _largest(logits_BV, row):
    """Return the largest of a row: 16 maxima side by side, which is a vector instruction each, and their maximum."""
    count, lanes = logits_BV.shape[1], np.full(16, -np.inf, np.float32)
    for first in range(0, count - 15, 16):
        for lane in range(16):
            lanes[lane] = max(lanes[lane], logits_BV[row, first + lane])
    best = lanes[0]
    for lane in range(16):
        best = max(best, lanes[lane])
    for v in range(count - count % 16, count):
        best = max(best, logits_BV[row, v])
    return best


# --------------------------------------------------------------------------------------- the residual stream


@compiled
def _read_stream(x_BD, norm, pre, y_BD):
    """y ← norm(x) in pre-norm, x in post-norm."""
    for row in range(x_BD.shape[0]):
        mean, scale = _moments(x_BD[row], norm.eps) if pre else (np.float32(0), ONE)
        x_D, y_D = x_BD[row], y_BD[row]
        for d in range(x_D.shape[0]):
            value = (x_D[d] - mean) * scale * _read(norm.weight[d]) + _read(norm.bias[d]) if pre else x_D[d]
            y_D[d] = _write(value, y_D[d])


@compiled
def _add_to_stream(x_BD, sum_BD, bias_D, norm, pre):
    """x ← x + sum + bias, and in post-norm its norm."""
    for row in range(x_BD.shape[0]):
        x_D, sum_D = x_BD[row], sum_BD[row]
        for d in range(x_D.shape[0]):
            x_D[d] += sum_D[d] + _read(bias_D[d])
        if not pre:
            mean, scale = _moments(x_D, norm.eps)
            for d in range(x_D.shape[0]):
                x_D[d] = (x_D[d] - mean) * scale * _read(norm.weight[d]) + _read(norm.bias[d])


@compiled
def _moments(x_D, eps):
    """Return the mean, and what makes the variance 1."""
    total, square = np.float32(0), np.float32(0)
    for d in range(x_D.shape[0]):
        total += x_D[d]
    mean = total / np.float32(x_D.shape[0])
    for d in range(x_D.shape[0]):
        square += (x_D[d] - mean) * (x_D[d] - mean)
    return mean, ONE / np.sqrt(square / np.float32(x_D.shape[0]) + eps)


@compiled
def _activate(hidden_BF, bias_F, activation, out_BF):
    for row in range(hidden_BF.shape[0]):
        hidden_F, out_F = hidden_BF[row], out_BF[row]
        for f in range(hidden_F.shape[0]):
            hidden_F[f] += _read(bias_F[f])
        if activation == 0:
            for f in range(hidden_F.shape[0]):
                out_F[f] = _write(max(hidden_F[f], np.float32(0)), out_F[f])
        elif activation == 1:
            for f in range(hidden_F.shape[0]):
                value = hidden_F[f] * (HALF + HALF * _erf(hidden_F[f] * ROOT_HALF))
                out_F[f] = _write(value, out_F[f])
        else:
            for f in range(hidden_F.shape[0]):
                small = _exp(-abs(hidden_F[f]))
                share = (ONE if hidden_F[f] >= 0 else small) / (ONE + small)
                out_F[f] = _write(hidden_F[f] * share, out_F[f])


# ------------------------------------------------------------------------------------------------- attention


@compiled
def _attend_to_earlier(parts_B3D, bias_3D, turn_2W, keys_BHTW, values_BHTW, origins_BT, length, out_BD):
    """Remember keys and values of a new position, and let its queries attend to all positions so far.

    parts: queries, keys and values side by side.
    """
    heads, width, half = keys_BHTW.shape[1], keys_BHTW.shape[3], turn_2W.shape[1] // 2
    cosine_W, sine_W = turn_2W[0], turn_2W[1, half:]
    scores_T = np.empty(length + 1, np.float32)
    for row in range(parts_B3D.shape[0]):
        for d in range(parts_B3D.shape[1]):
            parts_B3D[row, d] += _read(bias_3D[d])
        parts_3HW = parts_B3D[row].reshape(3 * heads, width)
        for head in range(2 * heads):  # queries and keys
            a_W, b_W = parts_3HW[head, :half], parts_3HW[head, half:]
            for w in range(half):
                a, b = a_W[w], b_W[w]
                a_W[w] = a * cosine_W[w] - b * sine_W[w]
                b_W[w] = b * cosine_W[w] + a * sine_W[w]
        for head in range(heads):
            for w in range(width):
                key, value = parts_3HW[heads + head, w], parts_3HW[2 * heads + head, w]
                keys_BHTW[row, head, length, w] = _write(key, keys_BHTW[row, head, length, w])
                values_BHTW[row, head, length, w] = _write(value, values_BHTW[row, head, length, w])
        origins_BT[row, length] = row
        for head in range(heads):
            _ask(parts_B3D, row, head, keys_BHTW, origins_BT[row], scores_T)
            _mix(scores_T, values_BHTW, origins_BT[row], head, out_BD, row)


@compiled
def _attend_to_memory(queries_BD, bias_D, keys_SHLW, values_SHLW, seen_SL, sources_B, out_BD):
    """Let queries attend to the memory of their source."""
    heads, positions = keys_SHLW.shape[1:3]
    scores_L, places_L = np.empty(positions, np.float32), np.empty(positions, np.int64)
    for row in range(queries_BD.shape[0]):
        source = sources_B[row]
        places_L[:] = source
        for d in range(queries_BD.shape[1]):
            queries_BD[row, d] += _read(bias_D[d])
        for head in range(heads):
            _ask(queries_BD, row, head, keys_SHLW, places_L, scores_L)
            for t in range(positions):
                if not seen_SL[source, t]:
                    scores_L[t] = -np.inf
            _mix(scores_L, values_SHLW, places_L, head, out_BD, row)


@compiled
def _ask(queries_BD, row, head, keys_BHTW, places_T, scores_T):
    """scores ← keys @ query / √W, four keys at a time; the key of position t is in row `places[t]`.

    Indices instead of views of rows, as numba counts references to views.
    """
    width, count, t = keys_BHTW.shape[3], scores_T.shape[0], 0
    query_W, scale = queries_BD[row, head * width : (head + 1) * width], ONE / np.sqrt(np.float32(width))
    while t + 4 <= count:
        i, j, k, m = places_T[t], places_T[t + 1], places_T[t + 2], places_T[t + 3]
        a = b = c = d = np.float32(0)
        for w in range(width):
            query = query_W[w]
            a += query * _read(keys_BHTW[i, head, t, w])
            b += query * _read(keys_BHTW[j, head, t + 1, w])
            c += query * _read(keys_BHTW[k, head, t + 2, w])
            d += query * _read(keys_BHTW[m, head, t + 3, w])
        scores_T[t], scores_T[t + 1], scores_T[t + 2], scores_T[t + 3] = a * scale, b * scale, c * scale, d * scale
        t += 4
    while t < count:
        i, a = places_T[t], np.float32(0)
        for w in range(width):
            a += query_W[w] * _read(keys_BHTW[i, head, t, w])
        scores_T[t] = a * scale
        t += 1


@compiled
def _mix(scores_T, values_BHTW, places_T, head, out_BD, row):
    """out ← softmax(scores) @ values, four values at a time; scores become weights that are not divided yet."""
    most, total = scores_T[0], np.float32(0)
    for t in range(scores_T.shape[0]):
        most = max(most, scores_T[t])
    for t in range(scores_T.shape[0]):
        scores_T[t] = _exp(scores_T[t] - most)
        total += scores_T[t]
    width, count, t = values_BHTW.shape[3], scores_T.shape[0], 0
    sum_W = np.zeros(width, np.float32)
    while t + 4 <= count:
        i, j, k, m = places_T[t], places_T[t + 1], places_T[t + 2], places_T[t + 3]
        a, b, c, d = scores_T[t], scores_T[t + 1], scores_T[t + 2], scores_T[t + 3]
        for w in range(width):
            sum_W[w] += (
                a * _read(values_BHTW[i, head, t, w])
                + b * _read(values_BHTW[j, head, t + 1, w])
                + c * _read(values_BHTW[k, head, t + 2, w])
                + d * _read(values_BHTW[m, head, t + 3, w])
            )
        t += 4
    while t < count:
        i, a = places_T[t], scores_T[t]
        for w in range(width):
            sum_W[w] += a * _read(values_BHTW[i, head, t, w])
        t += 1
    out_W = out_BD[row, head * width : (head + 1) * width]
    for w in range(width):
        out_W[w] = _write(sum_W[w] / total, out_W[w])


@compiled
def _exp(x):
    """e^x for x ≤ 0, to about |x| · 10⁻⁷ of its value, without a call, so that loops of it are vectorized.

    2^whole · 2^rest, the latter by the first terms of its series for |rest| ≤ ½.
    """
    power = max(x * LOG2E, SMALLEST)
    whole = np.floor(power + HALF)
    rest = power - whole
    value = EXP2[6]
    value = value * rest + EXP2[5]
    value = value * rest + EXP2[4]
    value = value * rest + EXP2[3]
    value = value * rest + EXP2[2]
    value = value * rest + EXP2[1]
    value = value * rest + EXP2[0]
    return value * np.uint32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def _erf(x):
    """The error function to 2e-7 (Abramowitz & Stegun 1964, 7.1.26)."""
    t = ONE / (ONE + ERF_SLOPE * abs(x))
    value = ONE - t * (ERF[0] + t * (ERF[1] + t * (ERF[2] + t * (ERF[3] + t * ERF[4])))) * _exp(-x * x)
    return value if x >= 0 else -value


# -------------------------------------------------------------------------------------------------- products


def _product(address, x_BK, weight_NK, out_BN):
    """Write x weightᵀ to out, which is float32, by MKL: see `mkl.product_address`.

    torch would take 30 µs for the smallest bfloat16 product, where MKL takes 4, and the interpreter's turn for each.
    """
    raise NotImplementedError


@overload(_product)
def _(address, x_BK, weight_NK, out_BN):
    call: Any = _sgemm if x_BK.dtype == types.float32 else _bfloat16_gemm

    def multiply(address, x_BK, weight_NK, out_BN):
        (rows, inner), columns = x_BK.shape, weight_NK.shape[0]
        places = x_BK.ctypes.data, weight_NK.ctypes.data, out_BN.ctypes.data
        call(address, *places, np.int32(rows), np.int32(columns), np.int32(inner))

    return multiply


@intrinsic
def _sgemm(typing, address, x, weight, out, rows, columns, inner):
    """Call SGEMM of Fortran, for which our matrices are the transposed ones: outᵀ = (weightᵀ)ᵀ xᵀ."""

    def generate(context, builder, signature, arguments):
        address, x, weight, out, rows, columns, inner = arguments

        def kept(value):
            return builder.bitcast(cgutils.alloca_once_value(builder, value), PLACE)

        one, zero = kept(ir.Constant(FLOAT, 1)), kept(ir.Constant(FLOAT, 0))
        transposed, plain = kept(ir.Constant(ir.IntType(8), ord("T"))), kept(ir.Constant(ir.IntType(8), ord("N")))
        x, weight, out = (builder.inttoptr(place, PLACE) for place in (x, weight, out))
        rows, columns, inner = kept(rows), kept(columns), kept(inner)
        given = (transposed, plain, columns, rows, inner, one, weight, inner, x, inner, zero, out, columns)
        kind = ir.FunctionType(ir.VoidType(), [PLACE] * len(given))
        builder.call(builder.inttoptr(address, kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 4, *(types.int32,) * 3), generate


@intrinsic
def _bfloat16_gemm(typing, address, x, weight, out, rows, columns, inner):
    """Call the product of bfloat16 matrices with a float32 result."""

    def generate(context, builder, signature, arguments):
        address, x, weight, out, rows, columns, inner = arguments
        layout, plain, transposed = (ir.Constant(INT, value) for value in (ROW_MAJOR, PLAIN, TRANSPOSED))
        one, zero = ir.Constant(FLOAT, 1), ir.Constant(FLOAT, 0)
        x, weight, out = (builder.inttoptr(place, PLACE) for place in (x, weight, out))
        sizes = (layout, plain, transposed, rows, columns, inner)
        given = (*sizes, one, x, inner, weight, inner, zero, out, columns)
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in given])
        builder.call(builder.inttoptr(address, kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(*(types.intp,) * 4, *(types.int32,) * 3), generate
