"""Pictures become rows and rows become pictures again; what cannot be read is named."""

from __future__ import annotations

import builtins
import gzip
import importlib.util
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gossamer.sources.images import Images, ImagesSpec, read_idx, read_images
from gossamer.sources.layouts import Layout
from gossamer.sources.patches import Patches
from gossamer.sources.source import Feed, SourceSpec

PIL = pytest.importorskip("PIL.Image", reason="reads image files: pip install 'gossamer[data]'")


def photograph() -> Path:
    matplotlib = importlib.util.find_spec("matplotlib")
    assert matplotlib is not None and matplotlib.submodule_search_locations
    return Path(matplotlib.submodule_search_locations[0], "mpl-data", "sample_data", "grace_hopper.jpg")


def digits() -> np.ndarray:
    """Return scikit-learn's handwritten digits, `(1797, 8, 8)` whole numbers up to 16."""
    datasets = pytest.importorskip("sklearn.datasets", reason="real digits: pip install 'gossamer[sklearn]'")
    return datasets.load_digits().images.astype(np.uint8)


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Provide a folder of four small pictures cut from the photograph, one of them below, and a text."""
    with PIL.open(photograph()) as image:
        for number in range(4):
            place = tmp_path / "below" if number == 3 else tmp_path
            place.mkdir(exist_ok=True)
            image.crop((50 * number, 60, 50 * number + 37, 60 + 29)).save(place / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


pictures = st.tuples(st.integers(1, 23), st.integers(1, 23)).flatmap(
    lambda size: st.sampled_from([size, (*size, 1), (*size, 3)]).flatmap(
        lambda shape: st.one_of(
            arrays.arrays(np.uint8, shape),
            arrays.arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32)),
        )
    )
)


class TestPatches:
    @given(pictures, st.integers(1, 9), st.integers(1, 9))
    @settings(max_examples=80)
    def test_what_was_split_is_joined_exactly_for_every_size_and_stride(self, image, size, stride):
        patches = Patches(size=size, stride=min(size, stride))
        rows = patches.split(image)
        assert rows.dtype == image.dtype
        assert len(rows) == patches.count(image.shape)
        assert np.array_equal(patches.join(rows, image.shape), image)

    def test_rows_are_in_the_order_of_the_picture_and_reach_its_border(self):
        image = np.arange(5 * 7 * 3).reshape(5, 7, 3)
        rows = Patches(size=3).split(image)
        assert len(rows) == 2 * 3
        assert np.array_equal(rows[0].reshape(3, 3, 3), image[:3, :3])
        assert np.array_equal(rows[1].reshape(3, 3, 3), image[:3, 3:6])
        assert np.array_equal(rows[2].reshape(3, 3, 3), image[:3, 4:])
        assert np.array_equal(rows[5].reshape(3, 3, 3), image[2:, 4:])

    def test_where_patches_overlap_the_mean_counts(self):
        patches = Patches(size=2, stride=1)
        joined = patches.join(np.array([[0.0] * 4, [1.0] * 4]), (2, 3))
        assert np.array_equal(joined, [[0, 0.5, 1]] * 2)
        assert np.array_equal(patches.join(np.array([[0] * 4, [3] * 4]), (2, 3)), [[0, 2, 3]] * 2)

    def test_a_picture_smaller_than_a_patch_is_continued_with_its_border(self):
        rows = Patches(size=4).split(np.array([[1, 2], [3, 4]]))
        assert rows.reshape(4, 4).tolist() == [[1, 2, 2, 2], [3, 4, 4, 4], [3, 4, 4, 4], [3, 4, 4, 4]]

    def test_without_a_size_a_picture_is_one_row(self):
        image = digits()[0]
        assert np.array_equal(Patches().split(image), image.reshape(1, 64))
        assert np.array_equal(Patches().join(image.reshape(1, 64), (8, 8)), image)

    def test_random_patches_lie_in_the_picture_everywhere_and_follow_the_seed(self):
        image = np.arange(20 * 30).reshape(20, 30)
        patches = Patches(size=4)
        drawn, again, other = (patches.random(image, 500, np.random.default_rng(seed)) for seed in (0, 0, 1))
        assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)
        y, x = np.divmod(drawn[:, 0], 30)
        for row, top, left in zip(drawn, y, x, strict=True):
            assert np.array_equal(row.reshape(4, 4), image[top : top + 4, left : left + 4])
        assert (y.min(), y.max(), x.min(), x.max()) == (0, 16, 0, 26)

    def test_colors_become_gray_as_pillow_makes_them(self):
        with PIL.open(photograph()) as image:
            color, gray = np.asarray(image), np.asarray(image.convert("L"))
        rows = Patches(channels="gray").split(color)
        assert rows.dtype == np.uint8
        assert np.abs(rows.reshape(gray.shape).astype(int) - gray).max() <= 1
        assert np.array_equal(Patches(channels="rgb").split(gray).reshape(*gray.shape, 3), np.dstack([gray] * 3))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"size": 0}, "at least 1 pixel"),
            ({"size": 4, "stride": 5}, "larger than size"),
            ({"stride": 2}, "needs a size"),
            ({"channels": "hsv"}, "hsv"),
            ({"epsilon": 0.0}, "epsilon"),
            ({"normalization": "means"}, "did you mean"),
        ],
    )
    def test_fields_that_make_no_sense_are_refused(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Patches(**fields)

    @pytest.mark.parametrize(("shape", "message"), [((4,), "pixels"), ((0, 4), "pixels"), ((4, 4, 2), "2 channels")])
    def test_what_is_no_picture_is_refused(self, shape, message):
        with pytest.raises(ValueError, match=message):
            Patches(size=2, channels="gray").split(np.zeros(shape))

    @pytest.mark.parametrize(
        ("rows", "shape"), [((3, 4), (4, 4)), ((4, 5), (4, 4)), ((4, 12), (4, 4)), ((4, 4), (4, 4, 3))]
    )
    def test_rows_that_do_not_make_the_picture_are_refused(self, rows, shape):
        with pytest.raises(ValueError, match="do not make a picture"):
            Patches(size=2).join(np.zeros(rows), shape)


class TestNormalization:
    @pytest.mark.parametrize("normalization", ["none", "mean", "contrast", "peak", "rms"])
    def test_it_is_undone_with_its_side_information(self, normalization):
        rows = np.concatenate([digits().reshape(-1, 64)[:200], np.zeros((1, 64)), np.full((1, 64), 7)])
        layout = Patches(normalization=normalization)
        normalized, side = layout.normalize(rows)
        assert side.shape == (202, len(layout.side_columns))
        assert np.isfinite(normalized).all()
        assert np.abs(layout.restore(normalized, side) - rows).max() < 1e-12

    def test_each_does_what_its_name_says(self):
        rows = digits().reshape(-1, 64)[:50].astype(np.float64)
        contrast = Patches(normalization="contrast", epsilon=2.0).normalize(rows).rows
        variance = rows.var(axis=1)
        assert np.allclose(contrast.mean(axis=1), 0)
        assert np.allclose(contrast.var(axis=1), variance / (variance + 2))
        assert np.allclose(Patches(normalization="mean").normalize(rows).rows, rows - rows.mean(axis=1, keepdims=True))
        assert np.array_equal(np.abs(Patches(normalization="peak").normalize(rows).rows).max(axis=1), np.ones(50))
        assert np.allclose(np.square(Patches(normalization="rms").normalize(rows).rows).mean(axis=1), 1)

    def test_the_rows_given_stay_as_they_are(self):
        rows = np.ones((2, 3), dtype=np.float32)
        Patches(normalization="contrast").normalize(rows)
        assert np.array_equal(rows, np.ones((2, 3)))

    def test_side_information_of_another_normalization_is_refused(self):
        with pytest.raises(ValueError, match="shift, scale"):
            Patches(normalization="contrast").restore(np.ones((2, 3)), np.ones((2, 1)))

    def test_a_layout_survives_a_file(self):
        layout = Patches(size=8, stride=3, channels="gray", normalization="contrast")
        assert Layout.from_json(layout.to_json()) == layout


class TestFiles:
    @pytest.mark.parametrize("name", ["digits-images-idx3-ubyte", "digits-images.idx3-ubyte.gz", "digits.idx"])
    def test_idx_files_hold_what_was_written(self, tmp_path, name):
        data = idx(digits())
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        assert np.array_equal(read_idx(tmp_path / name), digits())
        source = Images(tmp_path / name, validation=0.1)
        assert (source.rows, source.validation_rows, source.widths) == (1617, 180, {"": 64})
        assert np.array_equal(source.rows_of(5), digits()[5].reshape(1, 64) / np.float32(255))
        assert source.row_shape == (8, 8, 1)

    @pytest.mark.parametrize(("code", "kind"), [(0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")])
    def test_idx_files_of_every_type(self, tmp_path, code, kind):
        array = np.arange(-12, 12).reshape(2, 3, 4).astype(kind)
        (tmp_path / "x.idx").write_bytes(idx(array, code))
        read = read_idx(tmp_path / "x.idx")
        assert np.array_equal(read, array) and read.dtype == array.dtype

    @pytest.mark.parametrize("cut", [0, 3, 10, 16, 17, 500])
    @pytest.mark.parametrize("packed", [False, True])
    def test_an_idx_file_that_is_cut_off_is_refused(self, tmp_path, cut, packed):
        data = idx(digits()[:40])
        data = gzip.compress(data)[:cut] if packed else data[:cut]
        (tmp_path / "x-idx3-ubyte").write_bytes(data)
        with pytest.raises(ValueError, match=r"x-idx3-ubyte: (states|no IDX|cut off|damaged gzip)"):
            Images(tmp_path / "x-idx3-ubyte")

    def test_an_idx_header_that_states_too_much_takes_no_memory(self, tmp_path):
        (tmp_path / "x.idx").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", *[2**32 - 1] * 3) + b"\0" * 64)
        with pytest.raises(ValueError, match="holds 64"):
            read_idx(tmp_path / "x.idx")

    def test_labels_beside_pictures_are_passed_over(self, tmp_path):
        (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(digits()[:9]))
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(9, dtype=np.uint8)))
        assert len(Images(tmp_path).shapes) == 9
        with pytest.raises(ValueError, match=r"labels-idx1-ubyte: no pictures"):
            Images(tmp_path / "train-labels-idx1-ubyte")

    def test_a_folder_gives_the_pixels_that_pillow_sees(self, folder):
        source = Images(folder, patches=Patches(size=8))
        assert [Path(name).name for name in source.names] == ["0.png", "1.png", "2.png", "3.png"]
        for number, name in enumerate(source.names):
            with PIL.open(name) as image:
                assert np.allclose(source.rebuilt(number), np.asarray(image) / 255, atol=1e-7)
        said = source.describe()
        assert "4 pictures, patches of 8×8×3, every 8 pixels" in said["images"]
        assert "1 file of other kinds" in said["passed"]
        assert said["from"].endswith("0.png … and 3 more")

    def test_pictures_are_held_out_whole(self, folder):
        source = Images(folder, patches=Patches(size=8, stride=4), validation=0.25)
        held = {int(d) for batch in source.validation(batch=50) for d in batch.origins[:, 0]}
        feed = Feed(source, batch=10, seed=0)
        trained = {int(d) for _ in range(source.rows // 10) for d in feed.next().origins[:, 0]}
        assert len(held) == 1 and trained == {0, 1, 2, 3} - held

    def test_of_a_lone_picture_a_stretch_is_held_out(self):
        source = Images(photograph(), patches=Patches(size=16))
        assert source.validation_rows == pytest.approx(0.05 * (source.rows + source.validation_rows), abs=1)
        assert "1 stretch of the only picture" in source.describe()["rows"]

    def test_normalized_patches_make_the_photograph_again(self):
        source = Images(photograph(), patches=Patches(size=10, stride=7, normalization="contrast"))
        with PIL.open(photograph()) as image:
            assert np.abs(source.rebuilt(0) - np.asarray(image) / 255).max() < 1e-6
        assert np.allclose(source.rows_of(0).mean(axis=1), 0, atol=1e-5)

    def test_reconstructions_take_the_place_of_the_rows(self):
        source = Images(photograph(), patches=Patches(size=10, normalization="mean"))
        flat = source.rebuilt(0, np.zeros_like(source.rows_of(0)))
        assert np.allclose(flat[:10, :10], source.rebuilt(0)[:10, :10].mean(), atol=1e-6)

    def test_random_patches_are_as_many_as_asked_and_cannot_be_put_together(self, folder):
        source, again, other = (
            Images(folder, patches=Patches(size=8, channels="gray"), random=50, seed=seed) for seed in (0, 0, 1)
        )
        assert source.rows + source.validation_rows == 200
        assert np.array_equal(source.rows_of(2), again.rows_of(2))
        assert not np.array_equal(source.rows_of(2), other.rows_of(2))
        with pytest.raises(ValueError, match="do not cover"):
            source.rebuilt(0)

    @pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGBA", 3), ("CMYK", 3)])
    def test_pictures_of_every_mode_are_read(self, tmp_path, mode, channels):
        with PIL.open(photograph()) as image:
            image.crop((0, 0, 20, 10)).convert(mode).save(tmp_path / "x.tif")
        assert read_images(tmp_path / "x.tif").shape == (1, 10, 20, channels)
        rows = Images(tmp_path / "x.tif", validation=0).rows_of(0)
        assert 0 <= rows.min() < rows.max() <= 1

    def test_sixteen_bits_are_kept(self, tmp_path):
        x = np.arange(0, 60_000, 1000, dtype=np.uint16).reshape(6, 10)
        PIL.fromarray(x).save(tmp_path / "x.png")
        assert np.array_equal(read_images(tmp_path / "x.png")[0, ..., 0], x)
        assert np.allclose(Images(tmp_path / "x.png", validation=0).rebuilt(0)[..., 0], x / 65535)

    def test_a_turned_camera_is_turned_back(self, tmp_path):
        image = PIL.fromarray(np.arange(50, dtype=np.uint8).reshape(5, 10))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "x.png", exif=exif)
        assert np.array_equal(read_images(tmp_path / "x.png")[0, ..., 0], np.rot90(np.asarray(image), -1))


class TestArrays:
    @pytest.mark.parametrize(
        ("shape", "pictures", "row"),
        [
            ((5, 8, 9), 5, (8, 9, 1)),
            ((5, 8, 9, 3), 5, (8, 9, 3)),
            ((8, 9), 1, (8, 9, 1)),
            ((8, 9, 3), 1, (8, 9, 3)),
        ],
    )
    def test_one_array_is_one_picture_or_many(self, shape, pictures, row):
        source = Images(np.zeros(shape), validation=0)
        assert (len(source.shapes), source.row_shape) == (pictures, row)

    def test_a_list_holds_pictures_of_any_size_if_they_are_cut(self):
        x = [np.full((9, 9), 1.0), np.full((5, 20), 2.0), np.full((4, 4), 3.0)]
        source = Images(x, patches=Patches(size=4))
        assert [np.unique(source.rebuilt(i)).tolist() for i in range(3)] == [[1], [2], [3]]

    def test_whole_pictures_have_one_size_even_if_their_pixels_are_as_many(self):
        with pytest.raises(ValueError, match=r"picture 0 are 4×6×1, and those of picture 1 are 6×4×1: give patches"):
            Images([np.zeros((4, 6)), np.zeros((6, 4))])

    def test_floats_and_other_whole_numbers_keep_their_units(self):
        assert Images(np.full((2, 3, 3), 9.5), validation=0).rows_of(0).max() == 9.5
        assert Images(np.full((2, 3, 3), 9, dtype=np.int64), validation=0).rows_of(0).max() == 9

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (np.zeros((0, 8, 8)), "shape"),
            (np.zeros(8), "shape"),
            (np.full((2, 8, 8), np.nan), "NaN"),
            (np.full((2, 8, 8), 1e300), "too large for float32"),
            (np.zeros((2, 8, 8), dtype=complex), "real numbers"),
            ([], "empty"),
            ([np.zeros(4)], "picture 0"),
        ],
    )
    def test_what_holds_no_pictures_is_refused(self, x, message):
        with pytest.raises(ValueError, match=message):
            Images(x)


class TestMistakes:
    def test_a_damaged_picture_is_named_or_skipped_by_choice(self, folder):
        data = (folder / "1.png").read_bytes()
        (folder / "1.png").write_bytes(data[: len(data) // 2])
        (folder / "2.png").write_bytes(b"this is text")
        spec = ImagesSpec(paths=(str(folder),), patches=Patches(size=8))
        with pytest.raises(ValueError, match=r"1\.png: cannot be read as a picture"):
            spec.build()
        source = spec.replace(on_error="skip").build()
        assert [Path(skipped.name).name for skipped in source.skipped] == ["1.png", "2.png"]
        assert [Path(name).name for name in source.names] == ["0.png", "3.png"]
        said = source.describe()["skipped"]
        assert "2 files" in said and "1.png" in said and "2.png" in said

    @pytest.mark.parametrize("place", range(0, 3000, 250))
    def test_a_byte_that_is_flipped_is_an_error_or_a_picture_of_the_same_size(self, tmp_path, place):
        written = io.BytesIO()
        with PIL.open(photograph()) as image:
            image.crop((0, 0, 40, 30)).save(written, "PNG")
        data = bytearray(written.getvalue())
        data[place % len(data)] ^= 0x55
        (tmp_path / "x.png").write_bytes(data)
        source = Images([tmp_path / "x.png", photograph()], patches=Patches(size=8), on_error="skip")
        if source.skipped:
            assert "x.png" in source.skipped[0].reason
        else:
            assert source.shapes[0] == (30, 40, 3)

    def test_a_truncated_npy_file_is_named(self, tmp_path):
        np.save(tmp_path / "x.npy", digits())
        data = (tmp_path / "x.npy").read_bytes()
        for cut in (0, 20, 200, len(data) - 1):
            (tmp_path / "x.npy").write_bytes(data[:cut])
            with pytest.raises(ValueError, match=r"x\.npy is damaged"):
                Images(tmp_path / "x.npy")

    def test_if_nothing_is_left_the_reason_is_given(self, tmp_path):
        (tmp_path / "x.png").write_bytes(b"text")
        with pytest.raises(ValueError, match=r"nothing is left to read: .*x\.png"):
            Images(tmp_path, on_error="skip")

    def test_a_folder_without_pictures_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("text")
        with pytest.raises(ValueError, match=r"holds no file of a kind that is read here \(1 other\)"):
            Images(tmp_path)

    def test_what_does_not_exist_is_named(self, tmp_path):
        with pytest.raises(ValueError, match="nowhere does not exist"):
            Images(tmp_path / "nowhere")
        with pytest.raises(ValueError, match=r"no file matches .*\*\.png"):
            Images(str(tmp_path / "*.png"))

    def test_the_wrong_number_of_channels_is_named(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((3, 8, 8, 2)))
        with pytest.raises(ValueError, match=r"x\.npy: a picture with 2 channels cannot be made rgb"):
            Images(tmp_path / "x.npy", patches=Patches(channels="rgb"))

    def test_gray_among_colors_is_an_error_unless_it_is_said_what_to_do(self, folder):
        PIL.new("L", (37, 29)).save(folder / "gray.png")
        with pytest.raises(ValueError, match=r"gray\.png .*channels = 'gray' or 'rgb'"):
            Images(folder)
        assert Images(folder, patches=Patches(channels="rgb")).row_shape == (29, 37, 3)

    def test_a_picture_smaller_than_a_patch_is_named(self, folder):
        with pytest.raises(ValueError, match=r"0\.png: 29×37 pixels, smaller than a patch of 30×30"):
            Images(folder, patches=Patches(size=30))

    def test_without_pillow_one_sentence_says_what_to_install(self, folder, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"needs pillow: pip install 'gossamer\[data\]'"):
            Images(folder, on_error="skip")

    def test_arrays_need_no_pillow(self, tmp_path, monkeypatch):
        np.save(tmp_path / "x.npy", digits())
        imported = builtins.__import__

        def without(name, *rest):
            assert not name.startswith("PIL")
            return imported(name, *rest)

        monkeypatch.setattr(builtins, "__import__", without)
        assert len(Images(tmp_path / "x.npy").shapes) == 1797

    @pytest.mark.parametrize(
        "options", [{"random": 0, "patches": Patches(size=2)}, {"random": 5}, {"on_error": "ignore"}]
    )
    def test_options_that_make_no_sense_are_refused(self, options):
        with pytest.raises(ValueError, match=r"random = |on_error is"):
            Images(np.zeros((4, 8, 8)), **options)


class TestSource:
    def test_a_spec_survives_a_file_and_is_known_by_its_kind(self, folder):
        spec = ImagesSpec(paths=(str(folder),), patches=Patches(size=8, normalization="contrast"), random=7)
        assert SourceSpec.from_toml(spec.to_toml()) == spec
        assert spec.build().widths == {"": 192}

    def test_fingerprints_follow_the_content_and_not_the_place(self, tmp_path):
        x = np.random.default_rng(0).integers(0, 255, (9000, 4, 4), dtype=np.uint8)
        np.save(tmp_path / "a.npy", x)
        np.save(tmp_path / "b.npy", x)
        x[4321, 1, 2] ^= 1
        np.save(tmp_path / "c.npy", x)
        a, b, c = (Images(tmp_path / f"{name}.npy").fingerprint() for name in "abc")
        assert a == b != c
        assert a["kind"] == "images"
        assert a != Images(tmp_path / "a.npy", patches=Patches(normalization="mean")).fingerprint()
