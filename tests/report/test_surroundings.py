"""A moment of sound in a report: its picture shows what is heard, its strip the activations, and it plays."""

from __future__ import annotations

import base64
import io
import wave
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gossamer.report import Context, FeatureCard, ReportData, render
from gossamer.report.surroundings import BANDS, HALF, SOUND_RATE, Place, Sounds, spectrogram

transformers = pytest.importorskip("transformers", reason="pip install gossamer[hf]")

RATE, FRAME = 16_000, 320


@pytest.fixture(scope="module")
def features():
    return transformers.WhisperFeatureExtractor()


@pytest.fixture
def sounds(features) -> Sounds:
    """Two windows of three seconds, of which one is a tone."""
    time = np.arange(3 * RATE) / RATE
    tones = [np.sin(2 * np.pi * 440 * time), 0.5 * np.sin(2 * np.pi * 2000 * time)]
    ear = SimpleNamespace(rate=RATE, frame=FRAME, loaded=SimpleNamespace(features=features))
    place = lambda document, position, side: f"{position / 50:.2f} s of {document}.wav"  # noqa: E731
    speech = SimpleNamespace(ear=ear, sound=lambda window: tones[window].astype(np.float32), place=place)
    return Sounds(SimpleNamespace(side="encoder"), speech)  # pyright: ignore[reportArgumentType]


def pixels(picture: str) -> np.ndarray:
    """Return the gray levels `(rows, columns)` of a PNG that has no filters."""
    data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
    width, height = (int.from_bytes(data[place : place + 4]) for place in (16, 20))
    start = data.index(b"IDAT") + 4
    lines = zlib.decompress(data[start : start + int.from_bytes(data[start - 8 : start - 4])])
    return np.frombuffer(lines, np.uint8).reshape(height, width + 1)[:, 1:]


@pytest.mark.parametrize(("hertz", "row"), [(300, 36), (1000, 26), (4000, 8)])
def test_a_tone_is_a_dark_line_at_its_pitch(features, hertz: int, row: int):
    """Whisper's mel scale is linear up to 1 kHz, 15 mel, and 45.2 mel long."""
    picture = pixels(spectrogram(np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE), features))
    assert picture.shape == (BANDS, 100)  # a column per 10 ms
    darkest = picture[:, 10:90].argmin(axis=0)
    assert abs(int(np.median(darkest)) - row) <= 1
    assert picture[:, 10:90].min() == 0 and np.median(picture) > 200


def test_a_moment_is_the_second_around_a_frame(sounds: Sounds):
    activations = np.zeros(90, np.float32)
    activations[[50, 60, 70, 89]] = 1.0, 4.0, 2.0, 1.0
    context = sounds.context(Place(window=0, offset=60, document=7, position=60), 4.0, activations)
    clip = context.clip
    assert clip is not None and context.tokens == () and context.activation == 4.0
    assert context.origin == "1.20 s of 7.wav"
    assert len(clip.activations) == 2 * HALF + 1 and clip.activations[clip.focus] == 4.0
    assert np.flatnonzero(clip.activations).tolist() == [15, 25, 35]
    assert (round(clip.start, 2), round(clip.stop, 2)) == (0.7, 1.72)
    edge = sounds.context(Place(window=0, offset=3, document=7, position=3), 1.0, activations[:4]).clip
    assert edge is not None and (edge.focus, edge.start) == (3, 0.0)


def test_each_window_is_heard_once_however_many_moments_are_in_it(sounds: Sounds):
    nothing = np.zeros(1, np.float32)
    contexts = [
        sounds.context(Place(window, offset, 0, 0), 1.0, nothing) for window, offset in ((1, 5), (0, 5), (1, 90))
    ]
    assert [context.clip.sound for context in contexts if context.clip] == [0, 1, 0]
    assert len(sounds.sounds) == 2
    with wave.open(io.BytesIO(base64.b64decode(sounds.sounds[0].removeprefix("data:audio/wav;base64,")))) as file:
        assert (file.getframerate(), file.getnframes()) == (SOUND_RATE, 3 * SOUND_RATE)
        heard = np.frombuffer(file.readframes(-1), np.uint8).astype(float) - 128
    assert heard.max() >= 125  # as loud as it may be, though the tone is half as loud
    spectrum = np.abs(np.fft.rfft(heard))
    assert abs(spectrum.argmax() * SOUND_RATE / len(heard) - 2000) < 2


def test_the_page_shows_moments_and_allows_their_sound(sounds: Sounds):
    activations = np.zeros(70, np.float32)
    activations[60:64] = 4.0, 2.0, 1.0, 0.1
    context = sounds.context(Place(window=0, offset=60, document=7, position=60), 4.0, activations)
    card = FeatureCard(latent=3, density=0.1, mean_activation=1.0, max_activation=4.0, top_contexts=(context,))
    page = render(ReportData(title="Sound", features=(card,), sounds=sounds.sounds))
    assert "media-src data:" in page and "Top activating moments" in page
    assert page.count("<audio ") == 1 and 'data-sound="0" data-start="0.70" data-stop="1.72"' in page
    strip = page[page.index('aria-label="Activation of each frame"') :].split("</svg>")[0]
    assert [f'class="h{level}"' in strip for level in (8, 4, 2, 1)] == [True] * 4
    assert strip.count("<rect") == 4
    silent = replace(card, top_contexts=(Context(tokens=(), activations=(4.0,), origin="row 5"),))
    assert "<audio" not in render(ReportData(title="Rows", features=(silent,)))
