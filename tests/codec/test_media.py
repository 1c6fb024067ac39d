"""Pictures and sounds of every type of number are coded and denoised in the units that training saw."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile

from gossamer.codec.media import Content, denoised, read_content, require_writable, write_content
from gossamer.sources.frames import Frames
from gossamer.sources.patches import Patches
from gossamer.sources.signals import Signals


class Mirror:
    """Give back what it is given, and remember it."""

    device = torch.device("cpu")

    def __call__(self, x: torch.Tensor) -> types.SimpleNamespace:
        self.seen = x
        return types.SimpleNamespace(reconstruction=x)


SOUND = np.round(80 * np.sin(np.arange(400) / 9))


@pytest.mark.parametrize(
    ("samples", "name"),
    [
        ((SOUND + 128).astype(np.uint8), "x.wav"),
        ((SOUND * 300).astype(np.int16), "x.wav"),
        ((SOUND * 300).astype(np.int16), "x.npy"),
        (SOUND.astype(np.float32), "x.npy"),
    ],
    ids=["8 bits", "16 bits", "numbers", "floats"],
)
def test_a_sound_is_seen_as_in_training_and_keeps_its_numbers(tmp_path: Path, samples: np.ndarray, name: str):
    frames, mirror, path = Frames(length=32, hop=8), Mirror(), tmp_path / name
    if name == "x.wav":
        wavfile.write(path, 8000, samples)
    else:
        np.save(path, samples)
    clean = denoised(read_content(path), mirror, frames)
    assert clean.array.dtype == samples.dtype
    np.testing.assert_allclose(clean.array.astype(float), samples.astype(float), atol=1e-3)
    trained_on = Signals([str(path)], frames=frames, validation=0.0)
    assert torch.allclose(mirror.seen.sum(), trained_on.read(np.arange(trained_on.units)).rows[""].sum(), atol=1e-2)


@pytest.mark.parametrize("white", [True, 255, 65535], ids=["two colors", "8 bits", "16 bits"])
def test_a_picture_keeps_its_numbers(tmp_path: Path, white: int):
    dtype = {True: bool, 255: np.uint8, 65535: np.uint16}[white]
    picture = (np.random.default_rng(0).integers(0, 2, (12, 16)) * white).astype(dtype)
    write_content(Content(picture), tmp_path / "x.png")
    content, mirror = read_content(tmp_path / "x.png"), Mirror()
    np.testing.assert_array_equal(denoised(content, mirror, Patches(size=4)).array, picture)
    assert mirror.seen.max() == 1
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture)


def test_whole_numbers_of_arrays_are_not_scaled_where_training_does_not(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.arange(64, dtype=np.int32).reshape(8, 8))
    assert read_content(tmp_path / "x.npy").unit == 1


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path):
    for name, array, message in (
        ("nan.npy", np.full((8, 8), np.nan, np.float32), "nan.npy: holds NaN"),
        ("nan1.npy", np.full(80, np.inf, np.float32), "nan1.npy: holds NaN, infinity"),
        ("text.npy", np.array([["a"]]), "text.npy: expected real numbers"),
    ):
        np.save(tmp_path / name, array)
        with pytest.raises(ValueError, match=message):
            read_content(tmp_path / name)
    (tmp_path / "empty.npy").touch()
    with pytest.raises(ValueError, match=r"empty.npy is damaged or no .npy array"):
        read_content(tmp_path / "empty.npy")
    np.savez(tmp_path / "x.npz", SOUND)
    (tmp_path / "x.npz").rename(tmp_path / "zip.npy")
    with pytest.raises(ValueError, match=r"zip.npy holds several arrays"):
        read_content(tmp_path / "zip.npy")
    with pytest.raises(ValueError, match=r"x.flac: sounds are read from .wav and .npy"):
        read_content(tmp_path / "x.flac")
    for shape in ((8, 8), (8, 8, 3)):
        with pytest.raises(ValueError, match=r"x.png cannot hold float32 numbers .*write a .npy file"):
            require_writable(Content(np.zeros(shape, np.float32)), tmp_path / "x.png")
    with pytest.raises(ValueError, match="the sampling rate is not known"):
        require_writable(Content(SOUND), tmp_path / "x.wav")
