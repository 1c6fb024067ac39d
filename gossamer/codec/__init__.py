"""Compression as a codec: rows become `.gsm` files through the codes of an autoencoder, and rows again.

files: compress, decompress, inspect · container: the bytes of a file · blocks: one block of rows · quantizer: codes and
residuals as integers, prediction in integers · supports, numbers: what is entropy-coded and how · rate: the step that
meets a target. The file format is normative in docs/compression.md.
"""

from gossamer.codec.container import CodecError
from gossamer.codec.files import Report, compress, decompress, decompress_blocks, inspect

__all__ = ["CodecError", "Report", "compress", "decompress", "decompress_blocks", "inspect"]
