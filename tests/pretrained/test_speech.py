"""Whisper hears what is said, at whatever rate and in however many channels it is recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from gossamer.cli.main import main
from gossamer.pretrained import generate
from gossamer.pretrained.speech import SpeechWriter
from gossamer.sources.models import LoadedModel
from gossamer.sources.signal_files import Recording, read_signal
from gossamer.sources.signals import resampled
from gossamer.sources.speech import read_speech


@pytest.fixture(scope="module")
def writer(whisper: LoadedModel) -> SpeechWriter:
    return SpeechWriter(whisper)


def test_prompts_are_written_down_whatever_their_rate_and_channels(
    writer: SpeechWriter, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Three forms of one prompt and another one, in one batch."""
    rate, samples = wavfile.read(prompts / "all-circuits-busy-now.wav")
    wide = resampled(samples.astype(np.float64), rate, 44_100)
    stereo = np.stack([wide, 0 * wide], axis=1)
    wavfile.write(tmp_path / "stereo.wav", 44_100, stereo.astype(np.int16))
    given = [
        prompts / "all-circuits-busy-now.wav",
        tmp_path / "stereo.wav",
        Recording(samples.astype(np.int16), rate=rate),
        prompts / "auth-thankyou.wav",
    ]
    texts = [written.text for written in generate(writer, given)]
    assert texts == ["All circuits are busy now."] * 3 + ["Thank you."]


def test_samples_are_resampled_and_their_channels_averaged(prompts: Path, tmp_path: Path):
    rate, samples = wavfile.read(prompts / "digits/7.wav")
    assert rate == 8000
    once = read_speech(prompts / "digits/7.wav", rate=16_000)
    assert once.dtype == np.float32 and once.shape == (2 * len(samples),)
    assert np.allclose(once[::2], samples / 2**15, atol=0.02)
    wavfile.write(tmp_path / "two.wav", rate, np.stack([samples, 0 * samples], axis=1))
    assert np.allclose(read_speech(tmp_path / "two.wav", rate=16_000), once / 2, atol=1e-4)


def test_what_is_no_sound_is_refused_by_name(
    writer: SpeechWriter, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "words.txt").write_text("not a sound")
    (tmp_path / "noise.wav").write_bytes(b"RIFF and nothing else")
    wavfile.write(tmp_path / "short.wav", 8000, np.zeros(3, np.int16))
    cut = (prompts / "digits/7.wav").read_bytes()[:-100]
    (tmp_path / "cut.wav").write_bytes(cut)
    for name, said in (
        ("words.txt", "is no sound: expected a file that ends in .wav"),
        ("noise.wav", "cannot be read as WAV"),
        ("short.wav", "less than a millisecond"),
        ("cut.wav", "cut off"),
        ("absent.wav", "there is no file"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            generate(writer, tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="states no sampling rate"):
        generate(writer, Recording(np.zeros((800, 1), np.int16)))
    with pytest.raises(TypeError, match="Recording"):
        generate(writer, [np.zeros(800)])  # pyright: ignore[reportArgumentType]
    assert main(["generate", "whisper-tiny.en", "The house"]) == 2
    assert "there is no file The house" in capsys.readouterr().err


def test_longer_recordings_are_cut_into_windows_and_their_texts_joined(writer: SpeechWriter, prompts: Path):
    recording = read_signal(prompts / "all-circuits-busy-now.wav")
    assert recording.rate == 8000
    silence = np.zeros((30 * 8000 - len(recording.samples), 1), np.int16)
    long = Recording(np.concatenate([recording.samples, silence, recording.samples]), rate=8000)
    (written,) = generate(writer, long, longest=20)
    assert written.text == "All circuits are busy now. All circuits are busy now."
    with pytest.raises(ValueError, match="longer than a window of 30 s"):
        writer.places(long, "model.encoder.layers.2")
