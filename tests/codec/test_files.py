"""Compression as a user meets it: rows come back as promised, and a damaged file never gives wrong ones."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch

import gossamer as gs
from gossamer import codec
from gossamer.codec.container import Header, Reader, Writer
from gossamer.evaluate.codec import prd, psnr, snr
from gossamer.sources.patches import Patches


@pytest.fixture
def out(tmp_path):
    return tmp_path / "x.gsm"


def test_rows_come_back_as_the_report_says(digits, digits_sae, out):
    report = codec.compress(digits, digits_sae, out, step=3)
    back = codec.decompress(out, digits_sae)
    assert back.shape == digits.shape and back.dtype == digits.dtype
    assert report.bytes == out.stat().st_size
    assert report.bits == pytest.approx(8 * out.stat().st_size / digits.size)
    assert report.ratio == pytest.approx(digits.nbytes / out.stat().st_size)
    assert report.psnr == pytest.approx(psnr(digits, back), rel=1e-9)
    assert report.prd == pytest.approx(prd(digits, back), rel=1e-9)
    assert report.snr == pytest.approx(snr(digits, back), rel=1e-9)
    assert report.max_error == np.abs(digits.astype(int) - back.astype(int)).max()
    assert report.snr > 12


def test_a_fine_step_gives_what_the_autoencoder_gives(digits, digits_sae, out):
    rows = digits[:300].astype(np.float32)
    codec.compress(rows, digits_sae, out, step=1e-3, values="encoded")
    with torch.no_grad():
        expected = digits_sae(torch.from_numpy(rows)).reconstruction.numpy()
    assert np.abs(codec.decompress(out, digits_sae) - expected).max() < 0.01


def test_refitted_values_reconstruct_better_at_equal_bits(digits, digits_sae, out):
    encoded = codec.compress(digits, digits_sae, out, ratio=10, values="encoded")
    refitted = codec.compress(digits, digits_sae, out, ratio=10)
    assert refitted.snr > encoded.snr + 0.3


def test_codes_take_less_than_their_naive_count(digits, digits_sae, out):
    report = codec.compress(digits, digits_sae, out, step=2)
    naive = math.log2(math.comb(256, 8)) + 8 * 5
    assert 8 * report.bytes / len(digits) < 0.9 * naive


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32"])
def test_whole_numbers_come_back_exactly_with_a_residual(digits, digits_sae, out, dtype):
    limits = np.iinfo(dtype)
    rows = digits[:400].astype(dtype)
    rows[7, :2] = limits.min, limits.max
    report = codec.compress(rows, digits_sae, out, residual=True)
    back = codec.decompress(out, digits_sae)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, rows)
    assert report.lossless and report.psnr == math.inf


def test_lossless_digits_take_less_than_a_general_compressor(digits, digits_sae, out):
    import lzma

    report = codec.compress(digits, digits_sae, out, residual=True)
    assert report.bytes < len(lzma.compress(digits.tobytes(), preset=9))


def test_lossless_decoding_does_not_depend_on_threads(digits, digits_sae, out, tmp_path):
    gs.save(digits_sae, tmp_path / "sae")
    codec.compress(digits[:500], digits_sae, out, residual=True)
    np.save(tmp_path / "x.npy", digits[:500])
    program = (
        "import sys, numpy, gossamer as gs; from gossamer import codec; folder = sys.argv[1];"
        "back = codec.decompress(folder + '/x.gsm', gs.load(folder + '/sae'));"
        "assert (back == numpy.load(folder + '/x.npy')).all()"
    )
    threads = "1" if torch.get_num_threads() > 1 else "2"
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_CBWR": "COMPATIBLE"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)


@pytest.mark.parametrize("error", [1, 2, 3])
def test_max_error_bounds_whole_numbers(digits, digits_sae, out, error):
    report = codec.compress(digits[:500], digits_sae, out, max_error=error)
    back = codec.decompress(out, digits_sae).astype(int)
    assert np.abs(back - digits[:500]).max() == report.max_error == error


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("error", [2.0, 0.05, 1e-3])
def test_max_error_bounds_floats(digits, digits_sae, out, dtype, error):
    rows = digits[:300].astype(dtype) + np.linspace(0, 0.9, 64, dtype=dtype)
    report = codec.compress(rows, digits_sae, out, max_error=error)
    back = codec.decompress(out, digits_sae)
    assert back.dtype == dtype
    assert error / 2 < np.abs(back.astype(float) - rows.astype(float)).max() == report.max_error <= error


def test_an_error_below_the_spacing_of_the_type_is_refused(digits, digits_sae, out):
    rows = digits[:50].astype(np.float16) + np.float16(0.3)
    with pytest.raises(ValueError, match="cannot be kept"):
        codec.compress(rows, digits_sae, out, max_error=0.01)
    assert not out.exists()


@pytest.mark.parametrize("ratio", [6, 12, 25, 50])
def test_a_ratio_is_met(digits, digits_sae, out, ratio):
    codec.compress(digits, digits_sae, out, ratio=ratio)
    assert digits.nbytes / out.stat().st_size == pytest.approx(ratio, rel=0.05)


def test_a_ratio_is_met_on_more_rows_than_the_sample_holds(digits, digits_sae, out):
    rng = np.random.default_rng(0)
    rows = np.concatenate([digits, digits[rng.permutation(len(digits))], digits[::-1], digits // 2])
    codec.compress(rows, digits_sae, out, ratio=12)
    assert rows.nbytes / out.stat().st_size == pytest.approx(12, rel=0.05)


@pytest.mark.parametrize(("name", "value", "near"), [("psnr", 42, 0.2), ("snr", 12, 0.2), ("prd", 30, 0.6)])
def test_a_quality_is_met(digits, digits_sae, out, name, value, near):
    codec.compress(digits, digits_sae, out, **{name: value})
    measure = {"psnr": psnr, "snr": snr, "prd": prd}[name]
    assert measure(digits, codec.decompress(out, digits_sae)) == pytest.approx(value, abs=near)


def test_bits_per_entry_are_met(digits, digits_sae, out):
    codec.compress(digits, digits_sae, out, bits=0.5)
    assert 8 * out.stat().st_size / digits.size == pytest.approx(0.5, rel=0.05)


def test_a_quality_beyond_the_codes_says_by_how_much_and_a_residual_reaches_it(digits, digits_sae, out):
    rows = digits[:600].astype(np.float32)
    with pytest.raises(ValueError, match=r"cannot be reached.* dB short\. residual=True"):
        codec.compress(rows, digits_sae, out, snr=40)
    report = codec.compress(rows, digits_sae, out, snr=40, residual=True)
    assert report.snr == pytest.approx(40, abs=0.2)
    assert snr(rows, codec.decompress(out, digits_sae)) == pytest.approx(40, abs=0.2)


def test_a_size_that_is_too_small_is_refused(digits, digits_sae, out):
    with pytest.raises(ValueError, match="ratio = 9000 cannot be reached"):
        codec.compress(digits[:100], digits_sae, out, ratio=9000)


def test_a_wrong_model_is_refused(digits, digits_sae, out):
    codec.compress(digits[:50], digits_sae, out, step=2)
    other = gs.preset("topk", input_width=64, latents=256, l0=8).build(seed=1)
    with pytest.raises(codec.CodecError, match="another autoencoder"):
        codec.decompress(out, other)
    with torch.no_grad():
        other.load_state_dict(digits_sae.state_dict())
        other.decoder.bias[3] += 1e-4
    with pytest.raises(codec.CodecError, match="another autoencoder"):
        codec.decompress(out, other)


def test_a_saved_and_loaded_model_is_the_same_model(digits, digits_sae, out, tmp_path):
    codec.compress(digits[:50], digits_sae, out, residual=True)
    gs.save(digits_sae, tmp_path / "sae")
    np.testing.assert_array_equal(codec.decompress(out, gs.load(tmp_path / "sae")), digits[:50])


@pytest.mark.parametrize("rows", [0, 1, 2, 31, 33])
@pytest.mark.parametrize("residual", [False, True])
def test_few_rows(digits, digits_sae, out, rows, residual):
    report = codec.compress(digits[:rows], digits_sae, out, step=2, residual=residual)
    back = codec.decompress(out, digits_sae)
    assert back.shape == (rows, 64) and back.dtype == np.uint8
    assert report.rows == codec.inspect(out).rows == rows
    if residual:
        np.testing.assert_array_equal(back, digits[:rows])


def test_rows_that_are_all_alike_or_zero(digits_sae, out):
    for value in (0, 16, 255):
        rows = np.full((70, 64), value, np.uint8)
        codec.compress(rows, digits_sae, out, residual=True)
        np.testing.assert_array_equal(codec.decompress(out, digits_sae), rows)


def test_every_flipped_byte_is_noticed(digits, digits_sae, out):
    codec.compress(digits[:40], digits_sae, out, step=6, residual=False)
    good = out.read_bytes()
    expected = codec.decompress(out, digits_sae)
    for place in range(len(good)):
        for flip in (0x01, 0xFF):
            bad = bytearray(good)
            bad[place] ^= flip
            out.write_bytes(bad)
            with pytest.raises(codec.CodecError):
                codec.inspect(out)
    for place in range(0, len(good), 11):
        out.write_bytes(good[:place] + bytes([good[place] ^ 0x10]) + good[place + 1 :])
        with pytest.raises(codec.CodecError):
            codec.decompress(out, digits_sae)
    out.write_bytes(good)
    np.testing.assert_array_equal(codec.decompress(out, digits_sae), expected)


def test_every_truncation_is_noticed(digits, digits_sae, out):
    codec.compress(digits[:40], digits_sae, out, step=6)
    good = out.read_bytes()
    for length in range(len(good)):
        out.write_bytes(good[:length])
        with pytest.raises(codec.CodecError, match=r"cut short|no \.gsm"):
            codec.inspect(out)
    out.write_bytes(good + b"\0")
    with pytest.raises(codec.CodecError, match="follow"):
        codec.inspect(out)


def test_blocks_that_were_left_out_or_swapped_are_noticed(digits, digits_sae, out):
    codec.compress(digits[:96], digits_sae, out, step=6, block=32)
    good = out.read_bytes()
    start = 14 + int.from_bytes(good[10:14], "little") + 4
    ends = [start]
    for _ in range(3):
        ends.append(ends[-1] + 13 + int.from_bytes(good[ends[-1] + 5 : ends[-1] + 9], "little"))
    first, second, third = (good[a:b] for a, b in zip(ends, ends[1:], strict=False))
    for blocks in ([second, first, third], [first, third], [first, first, second, third], [first, second]):
        out.write_bytes(good[:start] + b"".join(blocks) + good[ends[3] :])
        with pytest.raises(codec.CodecError):
            codec.decompress(out, digits_sae)


def test_a_damaged_length_allocates_nothing(digits, digits_sae, out):
    codec.compress(digits[:40], digits_sae, out, step=6)
    good = bytearray(out.read_bytes())
    start = 14 + int.from_bytes(good[10:14], "little") + 4
    for place in (13, start + 4, start + 8):
        bad = bytearray(good)
        bad[place] = 0xFF
        out.write_bytes(bad)
        tracemalloc.start()
        with pytest.raises(codec.CodecError):
            codec.inspect(out)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_a_well_formed_file_of_nonsense_is_noticed(digits, digits_sae, out):
    """Right checksums, wrong contents: what only a broken or hostile writer makes."""
    codec.compress(digits[:40], digits_sae, out, step=6)
    header = codec.inspect(out).header
    rng = np.random.default_rng(0)
    noticed = 0
    for length in (0, 1, 4, 7, 40, 400):
        with open(out, "wb") as file:
            writer = Writer(file, header)
            writer.block(rng.bytes(length), rows=40)
            writer.end()
        try:
            assert codec.decompress(out, digits_sae).shape == (40, 64)
        except codec.CodecError:
            noticed += 1
    assert noticed >= 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("width", 0), ("width", True), ("dtype", "object"), ("step", -1.0), ("step", 10**400), ("block", 1 << 40)),
        ("layout", None),
    ],
)
def test_a_header_with_impossible_fields_is_refused(field, value):
    good = {"rows": 1, "width": 2, "dtype": "uint8", "model": "", "latents": 3, "step": 1.0, "residual": 0.0}
    good |= {"block": 10, "layout": {"kind": "rows"}}
    Header.from_json(Header(**good).to_json())
    with pytest.raises(codec.CodecError, match=field):
        Header.from_json(Header(**(good | {field: value})).to_json())


def test_a_layout_this_version_does_not_know_is_refused(digits, digits_sae, out):
    codec.compress(digits[:4], digits_sae, out, step=6)
    fields = dict(vars(codec.inspect(out).header)) | {"layout": {"kind": "holograms"}, "rows": None}
    with open(out, "wb") as file:
        Writer(file, Header(**fields)).end()
    with pytest.raises(codec.CodecError, match="holograms"):
        codec.decompress(out, digits_sae)


@pytest.mark.parametrize("changed", [{"width": 7}, {"latents": 7}], ids=["width", "latents"])
def test_a_header_of_another_size_than_its_model_is_refused(digits, digits_sae, out, changed):
    codec.compress(digits[:4], digits_sae, out, step=6)
    fields = dict(vars(codec.inspect(out).header)) | changed | {"rows": None}
    with open(out, "wb") as file:
        Writer(file, Header(**fields)).end()
    with pytest.raises(codec.CodecError, match="is not what its autoencoder has"):
        codec.decompress(out, digits_sae)


def test_a_shape_beyond_its_rows_allocates_nothing(digits, digits_sae, out):
    layout = Patches(size=8)
    codec.compress(digits[0].reshape(8, 8), digits_sae, out, step=6, layout=layout)
    header = codec.inspect(out).header
    with open(out, "wb") as file:
        Writer(file, Header(**{**vars(header), "rows": None, "layout": {**header.layout, "shape": [10**11] * 2}})).end()
    with pytest.raises(codec.CodecError, match="0 rows do not make"):
        codec.decompress(out, digits_sae)


def test_side_information_and_a_layout_without_unit_are_read(digits, digits_sae, out):
    codec.compress(digits[:40], digits_sae, out, step=6)
    before, header = codec.decompress(out, digits_sae), codec.inspect(out).header
    with open(out, "rb") as file:
        blocks = list(Reader(file).sections())
    with open(out, "wb") as file:
        writer = Writer(file, Header(**{**vars(header), "layout": {"kind": "rows"}}))
        writer.side(b"of another day")
        for block in blocks:
            writer.block(block.payload, rows=block.rows)
        writer.end()
    assert np.array_equal(codec.decompress(out, digits_sae), before)


def test_a_stream_gives_the_bytes_that_its_array_gives(digits, digits_sae, tmp_path):
    codec.compress(digits, digits_sae, tmp_path / "a", step=3)
    pieces = (digits[start : start + 100] for start in range(0, len(digits), 100))
    codec.compress(pieces, digits_sae, tmp_path / "b", step=3)
    np.testing.assert_array_equal(
        codec.decompress(tmp_path / "a", digits_sae), codec.decompress(tmp_path / "b", digits_sae)
    )
    assert codec.inspect(tmp_path / "b").header.rows is None
    assert abs((tmp_path / "a").stat().st_size - (tmp_path / "b").stat().st_size) < 10


def test_streaming_needs_memory_for_a_block_only(digits, digits_sae, out):
    def peaks(copies: int) -> tuple[int, int]:
        tracemalloc.start()
        report = codec.compress((digits for _ in range(copies)), digits_sae, out, step=9, block=512)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        rows = sum(len(block) for block in codec.decompress_blocks(out, digits_sae))
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == report.rows == copies * len(digits)
        return written, read

    few, many = peaks(3), peaks(10)
    assert many[0] < 1.1 * few[0]
    assert many[1] < 1.1 * few[1]


def test_blocks_of_a_file_come_one_by_one(digits, digits_sae, out):
    codec.compress(digits[:200], digits_sae, out, residual=True)
    blocks = list(codec.decompress_blocks(out, digits_sae))
    assert len(blocks) == codec.inspect(out).blocks > 1
    np.testing.assert_array_equal(np.concatenate(blocks), digits[:200])


def test_a_damaged_block_is_never_given(digits, digits_sae, out):
    codec.compress(digits[:96], digits_sae, out, step=6, block=32)
    data = bytearray(out.read_bytes())
    data[-60] ^= 1  # inside the payload of the last block
    out.write_bytes(data)
    given = []
    with pytest.raises(codec.CodecError, match="section 2 is damaged"):
        given.extend(codec.decompress_blocks(out, digits_sae))
    assert len(given) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of step, bits"),
        ({"step": 1, "ratio": 3}, "give one of"),
        ({"step": 0}, "above 0"),
        ({"ratio": math.nan}, "above 0"),
        ({"max_error": -1}, "0 or more"),
        ({"max_error": 1, "ratio": 3}, "leave out ratio"),
        ({"step": 1, "block": 0}, "block"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(digits, digits_sae, out, arguments, message):
    with pytest.raises(ValueError, match=message):
        codec.compress(digits[:10], digits_sae, out, **arguments)


def test_rows_that_cannot_be_compressed_are_refused(digits, digits_sae, out):
    floats = digits[:10].astype(np.float32)
    floats[4, 3] = np.nan
    for rows, message in [
        (floats, "row 4 "),
        (digits[:10, :60], "width 64"),
        (digits[0], "width 64"),
        (digits[:10].astype(np.int64), "int64"),
        (digits[:10] > 3, "bool"),
        (iter(()), "no rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            codec.compress(rows, digits_sae, out, step=1)
        assert not out.exists()
    with pytest.raises(ValueError, match="max_error or a target"):
        codec.compress(digits[:10].astype(np.float32), digits_sae, out, residual=True)


def test_what_was_there_stays_when_compression_fails(digits, digits_sae, out):
    out.write_bytes(b"before")

    def stream():
        yield digits[:100]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError):
        codec.compress(stream(), digits_sae, out, step=1)
    assert out.read_bytes() == b"before"


def test_a_deep_decoder_compresses_but_makes_no_exact_residual(digits, out):
    sae = _deep()
    report = codec.compress(digits[:200], sae, out, step=0.1)
    assert psnr(digits[:200], codec.decompress(out, sae)) == pytest.approx(report.psnr, abs=1e-6)
    with pytest.raises(ValueError, match="linear decoder"):
        codec.compress(digits[:200], sae, out, residual=True)


def _deep():
    from gossamer.autoencoder.decoders import Deep
    from gossamer.autoencoder.sparsity import TopK

    spec = gs.AutoencoderSpec(input_width=64, latents=32, sparsity=TopK(k=8), decoder=Deep(hidden=(40,)))
    return spec.build(seed=0)


@pytest.mark.parametrize("scaling", ["row-norm", "whitening", "unscaled"])
def test_every_scaling_gives_exact_rows(digits, out, scaling):
    from gossamer.autoencoder.scaling import RowNorm, Unscaled, Whitening

    chosen = {"row-norm": RowNorm(), "whitening": Whitening(), "unscaled": Unscaled()}[scaling]
    sae = gs.preset("topk", input_width=64, latents=96, l0=6).replace(scaling=chosen).build(seed=2)
    sae = gs.train(sae, gs.Arrays(digits.astype(np.float32)), gs.TrainSpec(rows=5_000, batch=256)).autoencoder
    report = codec.compress(digits[:300].astype(np.float32), sae, out, step=1e-2, values="encoded")
    with torch.no_grad():
        expected = sae(torch.from_numpy(digits[:300].astype(np.float32))).reconstruction.numpy()
    assert np.abs(codec.decompress(out, sae) - expected).max() < 0.1
    assert report.snr > 5
    codec.compress(digits[:300], sae, out, residual=True)
    np.testing.assert_array_equal(codec.decompress(out, sae), digits[:300])
