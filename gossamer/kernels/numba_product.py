"""A product of matrices for compiled loops: they call MKL without leaving for the interpreter.

torch takes 30 µs for the smallest bfloat16 product, MKL 4; and where several threads have one interpreter between them,
each product that goes through it is a queue.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

__all__ = ["product"]

INT, FLOAT, PLACE = ir.IntType(32), ir.FloatType(), ir.IntType(8).as_pointer()
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def product(address, x_BK, weight_NK, out_BN):
    """Write x weightᵀ to out, in float32; factors in float32 or bfloat16 (as uint16). address: see `mkl.product_address`."""
    raise NotImplementedError


@overload(product)
def _(address, x_BK, weight_NK, out_BN):
    call = _sgemm if x_BK.dtype == types.float32 else _bfloat16_gemm

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
