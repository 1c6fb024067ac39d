"""Pictures and signals through the codec: cut by a layout, coded, joined again."""

from __future__ import annotations

import numpy as np
import pytest

import gossamer as gs
from gossamer import codec
from gossamer.codec.reading import Reading
from gossamer.evaluate.codec import psnr
from gossamer.sources.frames import Frames
from gossamer.sources.patches import Patches


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """A real gray picture, 101 × 150 pixels, uint8, that no patch of 6 divides."""
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.camera()[100:302:2, 100:400:2])


def trained(rows: np.ndarray, *, l0: int = 4) -> gs.SparseAutoencoder:
    sae = gs.preset("topk", input_width=rows.shape[1], latents=64, l0=l0).build(seed=0)
    return gs.train(sae, gs.Arrays(rows.astype(np.float32)), gs.TrainSpec(rows=8_000, batch=256)).autoencoder


@pytest.mark.parametrize("normalization", ["none", "mean", "contrast", "peak", "rms"])
def test_a_picture_comes_back(photograph, tmp_path, normalization):
    layout = Patches(size=6, normalization=normalization)
    sae = trained(layout.normalize(layout.split(photograph).astype(np.float32) / 255).rows)
    out = tmp_path / "x.gsm"
    report = codec.compress(photograph, sae, out, psnr=24, layout=layout, unit=255)
    back = codec.decompress(out, sae)
    assert back.shape == photograph.shape and back.dtype == np.uint8
    assert psnr(photograph, back) == pytest.approx(24, abs=0.5)
    assert report.ratio == pytest.approx(photograph.nbytes / out.stat().st_size, rel=1e-3)
    codec.compress(photograph, sae, out, residual=True, layout=layout, unit=255)
    np.testing.assert_array_equal(codec.decompress(out, sae), photograph)
    assert out.stat().st_size < 0.95 * photograph.nbytes


def test_a_fine_step_gives_what_the_autoencoder_gives(photograph, tmp_path):
    import torch

    layout = Patches(size=6, normalization="contrast", epsilon=1e-3)
    picture = photograph.astype(np.float32)
    rows, side = layout.normalize(layout.split(picture) / np.float32(255))
    sae = trained(rows)
    codec.compress(picture, sae, tmp_path / "x", step=1e-3, layout=layout, unit=255, values="encoded")
    with torch.no_grad():
        expected = layout.restore(sae(torch.from_numpy(rows)).reconstruction.numpy(), side) * 255
    assert np.abs(codec.decompress(tmp_path / "x", sae) - layout.join(expected, picture.shape)).max() < 0.02


@pytest.mark.parametrize("hop", [32, 20])
def test_a_signal_comes_back(tmp_path, hop):
    time = np.arange(5_003)
    signal = (9000 * np.sin(time / 11) * np.sin(time / 400) + 500 * np.sin(time / 2.3)).astype(np.int16)
    layout = Frames(length=32, hop=hop, normalization="rms")
    sae = trained(layout.normalize(layout.split(signal).astype(np.float32)).rows)
    out = tmp_path / "x.gsm"
    report = codec.compress(signal, sae, out, prd=20, layout=layout)
    back = codec.decompress(out, sae)
    assert back.shape == signal.shape and back.dtype == np.int16
    assert report.prd == pytest.approx(20, rel=0.02)
    codec.compress(signal, sae, out, residual=True, layout=layout)
    np.testing.assert_array_equal(codec.decompress(out, sae), signal)


def test_a_ratio_counts_the_bytes_of_the_picture_not_of_its_overlapping_patches(photograph, tmp_path):
    layout = Patches(size=6, stride=4)
    sae = trained(layout.split(photograph).astype(np.float32) / 255)
    codec.compress(photograph, sae, tmp_path / "x", ratio=8, layout=layout, unit=255)
    assert photograph.nbytes / (tmp_path / "x").stat().st_size == pytest.approx(8, rel=0.05)


def test_a_layout_that_loses_something_is_refused(photograph, tmp_path):
    color = np.stack([photograph, photograph // 2, photograph // 3], axis=2)
    sae = gs.preset("topk", input_width=36, latents=64, l0=4).build()
    with pytest.raises(ValueError, match=r"make a picture|give back"):
        codec.compress(color, sae, tmp_path / "x", step=1, layout=Patches(size=6, channels="gray"), unit=255)


@pytest.mark.parametrize(
    "reading",
    [
        Reading(),
        Reading(unit=255.0),
        Reading(Patches(size=3, normalization="mean"), (4, 5, 3)),
        Reading(Frames(length=4), (9,)),
    ],
)
def test_a_reading_survives_the_header(reading):
    assert Reading.from_dict(reading.to_dict()) == reading


@pytest.mark.parametrize(
    "damage",
    [{"kind": "x"}, {"unit": 0.0}, {"unit": "1"}, {"shape": [-1]}, {"shape": [3, 4]}, {"length": 0}, {"more": 1}],
)
def test_a_layout_with_impossible_fields_is_refused(damage):
    good = Reading(Frames(length=4), (9,)).to_dict()
    with pytest.raises(ValueError, match=r"."):
        Reading.from_dict(good | damage)
