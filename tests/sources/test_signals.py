"""Signals become rows and rows become signals again; what cannot be read is named."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gossamer.sources.assets import MissingAsset
from gossamer.sources.datasets import dataset
from gossamer.sources.frames import Frames
from gossamer.sources.layouts import Layout
from gossamer.sources.signals import Signals, SignalsSpec, resampled
from gossamer.sources.source import Feed, SourceSpec

wavfile = pytest.importorskip("scipy.io.wavfile", reason="reads WAV files: pip install 'gossamer[sklearn]'")


@pytest.fixture(scope="module")
def heart() -> np.ndarray:
    """Return an electrocardiogram, `(108000,)` float32 millivolts at 360 Hz."""
    try:
        return np.load(dataset("ecg") / "ecg.npy", allow_pickle=False)
    except MissingAsset as error:
        pytest.skip(str(error))


def tone(samples: int = 900, rate: int = 8000, hertz: float = 440.0) -> np.ndarray:
    return np.rint(20_000 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.int16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Provide a folder of three recordings at 8 kHz, one in stereo, and a text."""
    wavfile.write(tmp_path / "a.wav", 8000, tone())
    wavfile.write(tmp_path / "b.wav", 8000, np.stack([tone(), np.zeros(900, dtype=np.int16)], axis=1))
    wavfile.write(tmp_path / "c.wav", 8000, tone(300))
    (tmp_path / "notes.md").write_text("no sound")
    return tmp_path


signals = st.integers(1, 90).flatmap(
    lambda samples: st.one_of(
        arrays.arrays(np.int16, samples),
        arrays.arrays(np.float32, samples, elements=st.floats(-1e6, 1e6, width=32)),
    )
)


class TestFrames:
    @given(signals, st.integers(1, 24), st.integers(1, 24), st.sampled_from(["none", "hann"]))
    @settings(max_examples=120)
    def test_what_was_split_is_joined_exactly_for_every_hop(self, signal, length, hop, window):
        frames = Frames(length=length, hop=min(hop, length), window=window)
        rows = frames.split(signal)
        assert rows.dtype == signal.dtype
        assert rows.shape == (frames.count(len(signal)), length)
        assert np.array_equal(frames.join(rows, len(signal)), signal)

    def test_frames_start_at_every_hop_and_the_last_one_ends_with_the_signal(self):
        rows = Frames(length=4, hop=3).split(np.arange(9))
        assert rows.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]]

    def test_a_short_signal_is_continued_with_zeros(self):
        assert Frames(length=4).split(np.array([1, 2])).tolist() == [[1, 2, 0, 0]]

    def test_hann_fades_frames_that_disagree_into_each_other(self):
        rows = np.repeat([[0.0], [1.0]], 64, axis=1)
        steps = {
            window: np.diff(Frames(length=64, hop=32, window=window).join(rows, 96)) for window in ("none", "hann")
        }
        assert steps["none"].max() == 0.5
        assert steps["hann"].max() < 0.06
        assert (steps["hann"] >= 0).all() and steps["hann"].sum() == pytest.approx(1)

    @pytest.mark.parametrize("hop", [1, 17, 32, 63, 64])
    def test_an_error_in_the_rows_is_never_magnified(self, heart, hop):
        signal = heart[:1000]
        frames = Frames(length=64, hop=hop, window="hann")
        rows = frames.split(signal)
        error = np.random.default_rng(0).uniform(-1, 1, rows.shape).astype(np.float32)
        assert np.abs(frames.join(rows + error, 1000) - signal).max() <= np.abs(error).max() + 1e-6

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"length": 0}, "at least 1 sample"),
            ({"length": 4, "hop": 5}, "hop is from 1"),
            ({"length": 4, "hop": 0}, "hop"),
        ],
    )
    def test_fields_that_make_no_sense_are_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Frames(**fields)

    @pytest.mark.parametrize("signal", [np.zeros(0), np.zeros((3, 2)), np.zeros(())])
    def test_what_is_no_signal_is_refused(self, signal):
        with pytest.raises(ValueError, match="expected a signal"):
            Frames(length=4).split(signal)

    @pytest.mark.parametrize(("rows", "samples"), [((2, 4), 9), ((3, 5), 9), ((3, 4), 8), ((0, 4), 0)])
    def test_rows_that_do_not_make_the_signal_are_refused(self, rows, samples):
        with pytest.raises(ValueError, match="do not make a signal"):
            Frames(length=4).join(np.zeros(rows), samples)


class TestHeart:
    @pytest.mark.parametrize("normalization", ["none", "mean", "contrast", "peak", "rms"])
    def test_it_comes_back_whatever_the_normalization(self, heart, normalization):
        frames = Frames(length=128, hop=50, window="hann", normalization=normalization)
        source = Signals(heart, frames=frames, file_rate=360)
        assert np.abs(source.rebuilt(0) - heart).max() < 1e-6
        assert source.rebuilt(0).dtype == np.float32

    def test_the_file_gives_what_the_array_gives_and_says_how_long_it_is(self, heart):
        frames = Frames(length=128)
        source = Signals(dataset("ecg") / "ecg.npy", frames=frames, file_rate=360)
        assert np.array_equal(source.rows_of(0), Signals(heart, frames=frames).rows_of(0))
        assert "(300.0 s at 360 Hz), frames of 128 every 128" in source.describe()["signals"]
        assert "stretch of the only signal" in source.describe()["rows"]

    def test_at_half_the_rate_it_is_half_as_long_and_beats_as_it_did(self, heart):
        source = Signals(heart[:7201], frames=Frames(length=128), file_rate=360, rate=180)
        halved = source.rebuilt(0)
        assert source.rate == 180 and len(halved) == 3601
        assert np.corrcoef(halved, heart[:7201:2])[0, 1] > 0.99


class TestResampling:
    def test_a_tone_keeps_its_pitch_and_its_height(self):
        original = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
        wanted = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050)
        assert np.abs(resampled(original, 8000, 22_050) - wanted)[500:-500].max() < 0.01

    def test_what_the_new_rate_cannot_hold_is_filtered_out(self):
        high = np.sin(2 * np.pi * 3500 * np.arange(8000) / 8000)
        assert np.abs(resampled(high, 8000, 4000))[200:-200].max() < 0.02

    def test_a_level_stays_a_level_up_to_the_borders(self):
        assert np.abs(resampled(np.full(100, 3.0), 2, 3) - 3).max() < 0.01

    def test_the_same_rate_changes_nothing(self):
        assert resampled(original := np.arange(5.0), 7, 7) is original

    def test_without_a_known_rate_it_is_refused(self):
        with pytest.raises(ValueError, match="give file_rate"):
            Signals(np.ones(100), frames=Frames(length=10), rate=8000)

    def test_files_of_two_rates_are_an_error_unless_one_is_asked_for(self, folder):
        wavfile.write(folder / "d.wav", 4000, tone(450, 4000))
        with pytest.raises(ValueError, match=r"d\.wav has 4000 samples per second, .*a\.wav has 8000"):
            Signals(folder, frames=Frames(length=64))
        source = Signals(folder, frames=Frames(length=64), rate=8000)
        assert source.shapes[0] == source.shapes[3] == (900,)
        assert np.abs(source.rebuilt(0) - source.rebuilt(3))[50:-50].max() < 0.02


class TestFiles:
    def test_sound_has_full_scale_one_and_channels_are_mixed(self, folder):
        source = Signals(folder, frames=Frames(length=64))
        assert np.array_equal(source.rebuilt(0), tone().astype(np.float32) / 2**15)
        assert np.allclose(source.rebuilt(1), source.rebuilt(0) / 2)
        assert source.rate == 8000 and source.shapes == [(900,), (900,), (300,)]
        assert "1 file of other kinds" in source.describe()["passed"]

    def test_channels_one_by_one_are_recordings_of_their_own(self, folder):
        source = Signals(folder, frames=Frames(length=64), channels="each")
        assert source.shapes == [(900,), (900,), (900,), (300,)]
        assert np.array_equal(source.rebuilt(1), source.rebuilt(0)) and not source.rebuilt(2).any()

    @pytest.mark.parametrize(
        ("samples", "expected"),
        [
            (np.array([0, 128, 255] * 9, dtype=np.uint8), [-1, 0, 127 / 128]),
            (np.array([-(2**31), 0, 2**30] * 9, dtype=np.int32), [-1, 0, 0.5]),
            (np.array([-1, 0, 0.25] * 9, dtype=np.float32), [-1, 0, 0.25]),
        ],
    )
    def test_every_type_of_wav(self, tmp_path, samples, expected):
        wavfile.write(tmp_path / "x.wav", 8000, samples)
        assert np.array_equal(Signals(tmp_path / "x.wav", frames=Frames(length=27)).rebuilt(0), expected * 9)

    def test_flac_is_read_where_soundfile_is(self, tmp_path):
        soundfile = pytest.importorskip("soundfile", reason="reads FLAC: pip install soundfile")
        soundfile.write(tmp_path / "x.flac", tone(), 8000, subtype="PCM_16")
        source = Signals(tmp_path / "x.flac", frames=Frames(length=64))
        assert np.array_equal(source.rebuilt(0), tone().astype(np.float32) / 2**15)

    @pytest.mark.parametrize(
        ("text", "column"),
        [
            ("1.5\n-2\n3e1\n", None),
            ("\ufeff1.5\n-2\n3e1\n", None),
            ("time,heart\n0,1.5\n1,-2\n\n2,3e1\n", "heart"),
            ("\ufefftime;heart\n0;1.5\n1;-2\n2;3e1\n", "heart"),
            ("time\theart\n0\t1.5\n1\t-2\n2\t3e1", "heart"),
            ("0 1.5\n1 -2\n2 3e1", "1"),
        ],
    )
    def test_a_column_of_a_table(self, tmp_path, text, column):
        (tmp_path / "x.csv").write_text(text, encoding="utf-8")
        source = Signals(tmp_path / "x.csv", frames=Frames(length=3), column=column)
        assert source.rebuilt(0).tolist() == [1.5, -2, 30]

    @pytest.mark.parametrize(
        ("text", "column", "message"),
        [
            ("time,heart\n0,1\n", None, "has the columns time, heart"),
            ("time,heart\n0,1\n", "hearts", "did you mean 'heart'"),
            ("heart\n1\nx\n", None, "line 3: 'x' in column 'heart' is no number"),
            ("time,heart\n0,1\n1,\n", "heart", "line 3: no value in column 'heart'"),
            ("time,heart\n0,1\n1\n", "heart", "line 3: no value"),
            ("heart\n1\nnan\n", None, "line 3: 'nan' in column 'heart' is not finite"),
            ("", None, "no samples"),
            ("heart\n", None, "no samples"),
        ],
    )
    def test_a_table_with_a_mistake_is_refused(self, tmp_path, text, column, message):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(ValueError, match=rf"x\.csv.*{message}"):
            Signals(tmp_path / "x.csv", frames=Frames(length=3), column=column)

    def test_a_table_that_is_not_utf8_is_refused(self, tmp_path):
        (tmp_path / "x.csv").write_bytes("größe\n1\n".encode("latin-1"))
        with pytest.raises(ValueError, match=r"x\.csv: not valid UTF-8"):
            Signals(tmp_path / "x.csv", frames=Frames(length=3))


class TestMistakes:
    @pytest.mark.parametrize("cut", [0, 4, 11, 20, 43, 44, 45, 1000, 1843])
    def test_a_wav_file_that_is_cut_off_is_named_or_skipped_by_choice(self, folder, cut):
        data = (folder / "a.wav").read_bytes()
        assert len(data) == 1844
        (folder / "a.wav").write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"a\.wav: (cut off|cannot be read as WAV)"):
            Signals(folder, frames=Frames(length=64))
        source = Signals(folder, frames=Frames(length=64), on_error="skip")
        assert [Path(skipped.name).name for skipped in source.skipped] == ["a.wav"]
        assert "1 file: " in source.describe()["skipped"] and len(source.shapes) == 2

    def test_sound_from_a_pipe_which_cannot_state_its_length_is_read(self, tmp_path):
        wavfile.write(tmp_path / "x.wav", 8000, tone())
        data = bytearray((tmp_path / "x.wav").read_bytes())
        struct.pack_into("<I", data, data.index(b"data") + 4, 0xFFFFFFFF)
        (tmp_path / "x.wav").write_bytes(data)
        assert Signals(tmp_path / "x.wav", frames=Frames(length=64)).shapes == [(900,)]

    @pytest.mark.parametrize("name", ["x.wav", "x.npy"])
    def test_empty_audio_is_an_error(self, tmp_path, name):
        if name == "x.wav":
            wavfile.write(tmp_path / name, 8000, np.zeros(0, dtype=np.int16))
        else:
            np.save(tmp_path / name, np.zeros(0))
        with pytest.raises(ValueError, match=rf"{name}: holds no samples"):
            Signals(tmp_path / name, frames=Frames(length=64))

    @pytest.mark.parametrize(
        ("signal", "message"),
        [
            (np.zeros(0), "with samples"),
            (np.array([1.0, np.inf]), "infinity"),
            (np.array([1.0, np.nan]), "NaN"),
            (np.array([1.0, -1e300]), "too large for float32"),
            (np.ones(4, dtype=complex), "real numbers"),
            (np.array(["a"]), "real numbers"),
            (np.zeros((2, 2, 2)), r"\(2, 2, 2\)"),
            ([], "empty"),
        ],
    )
    def test_what_is_no_signal_is_refused(self, signal, message):
        with pytest.raises(ValueError, match=message):
            Signals(signal, frames=Frames(length=2))

    def test_a_kind_of_file_that_is_not_known_is_refused(self, folder):
        with pytest.raises(ValueError, match=r"notes\.md: a signal is read from \.wav"):
            Signals(folder / "notes.md", frames=Frames(length=2))

    @pytest.mark.parametrize("options", [{"rate": 0}, {"file_rate": -1}, {"channels": "left"}])
    def test_options_that_make_no_sense_are_refused(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            Signals(np.ones(10), frames=Frames(length=2), **options)

    def test_short_recordings_are_said(self, folder):
        source = Signals(folder, frames=Frames(length=512))
        assert "c.wav is shorter than a frame" in source.describe()["note"]
        assert source.shapes[2] == source.rebuilt(2).shape == (300,)

    @pytest.mark.parametrize(
        ("name", "package", "message"),
        [
            ("a.wav", "scipy", r"needs scipy: pip install 'gossamer\[sklearn\]'"),
            ("a.flac", "soundfile", "needs soundfile"),
        ],
    )
    def test_without_its_reader_one_sentence_says_what_to_install(self, folder, monkeypatch, name, package, message):
        (folder / name).touch()
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == package else found(asked))
        with pytest.raises(ValueError, match=message):
            Signals(folder / name, frames=Frames(length=2), on_error="skip")

    def test_resampling_without_scipy_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "scipy.signal", None)
        with pytest.raises(ValueError, match="resampling needs scipy"):
            resampled(np.ones(5), 2, 3)


class TestSource:
    def test_recordings_are_held_out_whole(self, folder):
        source = Signals(folder, frames=Frames(length=16), validation=0.34)
        held = {int(d) for batch in source.validation(batch=50) for d in batch.origins[:, 0]}
        feed = Feed(source, batch=4, seed=0)
        trained = {int(d) for _ in range(source.rows // 4) for d in feed.next().origins[:, 0]}
        assert len(held) == 1 and trained == {0, 1, 2} - held

    def test_a_spec_survives_a_file_and_is_known_by_its_kind(self, folder):
        spec = SignalsSpec(paths=(str(folder),), frames=Frames(length=32, hop=8, window="hann"), rate=4000)
        assert SourceSpec.from_toml(spec.to_toml()) == spec
        assert Layout.from_json(spec.frames.to_json()) == spec.frames
        assert spec.build().widths == {"": 32}

    def test_fingerprints_follow_the_content(self, heart):
        frames, changed = Frames(length=16, hop=8), heart.copy()
        changed[50_000] += 1
        a, b, c = (Signals(x, frames=frames).fingerprint() for x in (heart, heart.copy(), changed))
        assert a == b and a["kind"] == "signals"
        assert a["read"] != c["read"]
        assert a != Signals(heart, frames=frames.replace(window="hann")).fingerprint()
