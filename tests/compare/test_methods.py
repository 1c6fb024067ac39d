"""Methods are sized alike, a row is described by as many numbers, and mistakes are told before any training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gossamer as gs
from gossamer.compare.data import Beats, r_peaks
from gossamer.compare.methods import Attentive, Sizes, nearest_size
from gossamer.compare.recipe import SLACK, Comparison
from gossamer.sources.assets import MissingAsset
from gossamer.sources.datasets import dataset


class TestSizes:
    @pytest.mark.parametrize("width", [64, 128])
    def test_every_method_that_is_sized_has_as_many_parameters(self, comparison: Comparison, width: int):
        sizes = comparison.sizes(width)
        sized = [method for method in comparison.method if method.sized]
        assert len(sized) == 7
        for method in sized:
            assert method.parameters(sizes) == pytest.approx(sizes.parameters, rel=SLACK), method.title

    @pytest.mark.parametrize("wanted", [1, 3, 49, 50, 51, 1000])
    def test_the_nearest_size_is_found(self, wanted: int):
        found = nearest_size(lambda size: 10 * size, wanted)
        assert abs(10 * found - wanted) == min(abs(10 * size - wanted) for size in range(1, 200))

    def test_a_method_that_cannot_be_so_small_says_so(self, settings: dict[str, Any]):
        small = settings | {"out": "", "latents": 8, "method": [{"kind": "transformer", "layers": 6}]}
        with pytest.raises(ValueError, match=r"transformer cannot be made as large .* nearest to 1,096"):
            Comparison.from_dict(small).sizes(64)

    def test_positions_cost_no_parameters_but_where_they_are_learned(self):
        sizes = Sizes(64, 64, 8)
        spec = Attentive(positions={"kind": "learned"}).autoencoder(sizes)  # pyright: ignore[reportArgumentType]
        patches = 64 // spec.encoder.to_dict()["patch"]
        table = spec.build().encoder.get_parameter("attending.order.table")
        assert table.shape == (patches, spec.encoder.to_dict()["width"])


class TestMistakes:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"method": [{"kind": "tpok"}]}, r"method\[0\]: kind is unknown: 'tpok'; did you mean 'topk'"),
            ({"method": [{"kind": "transformer", "patchs": 4}]}, r"unknown field 'patchs'; did you mean 'patches'"),
            ({"method": []}, "nothing to compare"),
            ({"method": [{"kind": "pca"}, {"kind": "pca"}]}, "two methods are both called 'PCA'"),
            ({"labels": {"kind": "beat"}}, "did you mean 'beats'"),
            ({"rows": 100}, "less than one batch of 128"),
            ({"seconds": 0.0}, "seconds are above 0"),
            ({"quality": 1.5}, "between 0 and 1"),
        ],
    )
    def test_in_a_recipe_are_named(self, settings: dict[str, Any], change: dict[str, Any], message: str):
        with pytest.raises(ValueError, match=message):
            Comparison.from_dict(settings | {"out": "x"} | change)

    def test_a_recipe_that_is_not_there(self, tmp_path: Path):
        (tmp_path / "compare-digits.toml").touch()
        with pytest.raises(ValueError, match=r"no recipe .*; there are .*compare-digits\.toml"):
            Comparison.read(tmp_path / "compare-digit.toml")

    def test_more_numbers_than_a_row_has(self, comparison: Comparison):
        with pytest.raises(ValueError, match="cannot be described by l0 = 65"):
            comparison.replace(latents=256, l0=65).sizes(64)


@pytest.fixture
def signal() -> np.ndarray:
    """A minute of the electrocardiogram, 360 samples a second."""
    try:
        return np.load(dataset("ecg") / "ecg.npy", allow_pickle=False)[: 60 * 360].astype(float)
    except MissingAsset as missing:
        pytest.skip(str(missing))


class TestBeats:
    def test_a_heart_beats_about_a_hundred_times_a_minute(self, signal: np.ndarray):
        peaks = r_peaks(signal, 360)
        assert 90 <= len(peaks) <= 110
        assert np.diff(peaks).min() >= 0.25 * 360
        assert np.median(signal[peaks]) > np.quantile(signal, 0.95)

    def test_a_frame_is_labelled_by_the_peaks_that_lie_in_it(self, signal: np.ndarray):
        source = gs.Signals(
            [signal, signal[:5000]], frames=gs.Frames(length=100, hop=30), file_rate=360, validation=0.0
        )
        rows = source.read(np.arange(source.units))
        first = (len(signal) - 100) // 30 + 1 + ((len(signal) - 100) % 30 > 0)
        found = Beats().of(source, rows)
        peaks = r_peaks(source.rebuilt(0), 360)
        for frame in (0, 17, 400, first - 2):
            expected = ((peaks >= frame * 30) & (peaks < frame * 30 + 100)).any()
            assert found[frame] == expected
        assert found.shape == (source.rows,)
        assert 0.2 < found.mean() < 0.8

    def test_rows_that_are_no_signal_are_refused(self):
        source = gs.Arrays(np.ones((10, 4)))
        with pytest.raises(ValueError, match="need a source 'signals'"):
            Beats().of(source, source.read(np.arange(3)))
