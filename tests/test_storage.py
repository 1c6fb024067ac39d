"""Whatever goes wrong while writing, what was there before can still be read, and nothing is left lying about."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.storage import StorageError, read_tensors, replace_file, replace_folder, write_tensors

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)


def write_folder(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "a").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "b").write_text(text)

    return write


def write_text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def content(path: Path) -> object:
    """Return everything below a path: text of a file, a dictionary of a folder."""
    if path.is_dir():
        return {entry.name: content(entry) for entry in path.iterdir()}
    return path.read_text() if path.exists() else None


KINDS = pytest.mark.parametrize(
    ("replace", "write"),
    [(replace_file, write_text), (replace_folder, write_folder)],
    ids=["file", "folder"],
)
Replace = Callable[[Path, Callable[[Path], object]], None]
Writer = Callable[[str], Callable[[Path], object]]


@KINDS
class TestReplacing:
    def test_makes_what_is_not_there_and_the_way_to_it(self, tmp_path: Path, replace: Replace, write: Writer):
        replace(tmp_path / "some" / "where" / "target", write("new"))
        assert "new" in str(content(tmp_path / "some" / "where" / "target"))
        assert os.listdir(tmp_path / "some" / "where") == ["target"]

    def test_replaces_all_of_what_is_there(self, tmp_path: Path, replace: Replace, write: Writer):
        target = tmp_path / "target"
        replace(target, write("old"))
        if target.is_dir():
            (target / "more").write_text("old")
        replace(target, write("new"))
        assert "old" not in str(content(target))
        assert os.listdir(tmp_path) == ["target"]

    def test_is_not_in_place_before_it_is_complete(self, tmp_path: Path, replace: Replace, write: Writer):
        target = tmp_path / "target"
        replace(target, write("old"))

        def look(path: Path) -> None:
            write("new")(path)
            assert "new" not in str(content(target))

        replace(target, look)
        assert "new" in str(content(target))

    def test_overwrites_what_a_killed_writer_left(self, tmp_path: Path, replace: Replace, write: Writer):
        replace(tmp_path / "target.writing", write("half"))
        replace(tmp_path / "target", write("new"))
        assert "half" not in str(content(tmp_path))
        assert os.listdir(tmp_path) == ["target"]

    @pytest.mark.parametrize("function", ["fsync", "replace"])
    @pytest.mark.parametrize("call", [1, 2, 3])
    def test_a_failure_at_any_point_leaves_the_old_or_the_new_and_nothing_else(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        replace: Replace,
        write: Writer,
        function: str,
        call: int,
    ):
        target = tmp_path / "target"
        replace(target, write("old"))
        old, calls, original = content(target), 0, getattr(os, function)

        def fail(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*arguments)

        monkeypatch.setattr(os, function, fail)
        if _fails(lambda: replace(target, write("new"))):
            assert content(target) == old
        else:
            assert "old" not in str(content(target))
        assert os.listdir(tmp_path) == ["target"]

    def test_a_writer_that_fails_leaves_the_old(self, tmp_path: Path, replace: Replace, write: Writer):
        target = tmp_path / "target"
        replace(target, write("old"))
        old = content(target)

        def fail(path: Path) -> None:
            write("new")(path)
            raise OSError(errno.EFBIG, "File too large")

        with pytest.raises(StorageError):
            replace(target, fail)
        assert content(target) == old
        assert os.listdir(tmp_path) == ["target"]

    @pytest.mark.parametrize("exception", [KeyboardInterrupt, RuntimeError])
    def test_what_is_no_matter_of_storage_passes_through(
        self, tmp_path: Path, replace: Replace, write: Writer, exception: type[BaseException]
    ):
        target = tmp_path / "target"
        replace(target, write("old"))

        def fail(path: Path) -> None:
            write("new")(path)
            raise exception

        with pytest.raises(exception):
            replace(target, fail)
        assert "new" not in str(content(target))
        replace(target, write("newer"))
        assert os.listdir(tmp_path) == ["target"]

    def test_an_error_names_place_reason_room_and_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: Replace, write: Writer
    ):
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            replace(tmp_path / "target", write("new"))
        said = str(caught.value)
        assert str(tmp_path / "target") in said
        assert "Free space or choose another folder" in said
        assert "GB are free" in said
        assert caught.value.errno == errno.ENOSPC
        assert isinstance(caught.value.__cause__, OSError)
        assert os.listdir(tmp_path) == []

    def test_a_place_below_a_file_is_refused_as_a_matter_of_storage(
        self, tmp_path: Path, replace: Replace, write: Writer
    ):
        (tmp_path / "file").write_text("keep")
        with pytest.raises(StorageError, match="choose another folder"):
            replace(tmp_path / "file" / "target", write("new"))
        assert content(tmp_path) == {"file": "keep"}

    def test_a_link_can_be_written_to_again_and_again(self, tmp_path: Path, replace: Replace, write: Writer):
        replace(tmp_path / "real", write("old"))
        (tmp_path / "link").symlink_to("real")
        for text in ("first", "second", "third"):
            replace(tmp_path / "link", write(text))
            assert text in str(content(tmp_path / "link"))
        assert set(os.listdir(tmp_path)) == {"real", "link"}


def _fails(call: Callable[[], None]) -> bool:
    try:
        call()
    except StorageError:
        return True
    return False


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    values = torch.randint(-100, 100, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    converted = values.to(draw(st.sampled_from(DTYPES)))
    return converted.mT if converted.dim() > 1 and draw(st.booleans()) else converted


class TestTensors:
    @given(st.dictionaries(st.text(min_size=1, max_size=5), tensors(), max_size=4), st.text())
    def test_survive_bit_for_bit(
        self, tmp_path_factory: pytest.TempPathFactory, given_tensors: dict[str, torch.Tensor], note: str
    ):
        given_tensors.pop("__metadata__", None)
        path = tmp_path_factory.mktemp("tensors") / "t.safetensors"
        write_tensors(path, given_tensors, {"note": note})
        read, metadata = read_tensors(path)
        assert metadata == {"note": note}
        assert read.keys() == given_tensors.keys()
        for name, tensor in given_tensors.items():
            assert read[name].dtype == tensor.dtype
            assert torch.equal(read[name], tensor)

    def test_that_need_a_gradient_can_be_written(self, tmp_path: Path):
        write_tensors(tmp_path / "t", {"a": torch.ones(2, requires_grad=True)}, {})
        assert read_tensors(tmp_path / "t")[0]["a"].tolist() == [1.0, 1.0]

    def test_a_missing_file_is_named(self, tmp_path: Path):
        with pytest.raises(ValueError, match=r"nothing\.safetensors does not exist"):
            read_tensors(tmp_path / "nothing.safetensors")

    @pytest.mark.parametrize("length", [0, 1, 8, 40, -8, -1])
    def test_a_truncated_file_is_named(self, tmp_path: Path, length: int):
        path = tmp_path / "t.safetensors"
        write_tensors(path, {"a": torch.ones(100)}, {})
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"t\.safetensors is damaged or no safetensors file"):
            read_tensors(path)

    def test_a_place_that_cannot_be_written_is_an_error_of_the_system(self, tmp_path: Path):
        with pytest.raises(OSError, match="No such file") as caught:
            write_tensors(tmp_path / "no" / "folder" / "t", {"a": torch.ones(1)}, {})
        assert caught.value.errno == errno.ENOENT

    def test_views_are_written_as_what_they_show_a_piece_at_a_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("gossamer.storage.PIECE", 64)
        matrix = torch.arange(60, dtype=torch.float32).reshape(10, 6)
        views = {"turned": matrix.T, "one": torch.tensor(2.5), "same": torch.tensor(7).expand(5, 3), "none": matrix[:0]}
        write_tensors(tmp_path / "t", views, {})
        found, _ = read_tensors(tmp_path / "t")
        assert all(torch.equal(found[name], tensor) for name, tensor in views.items())

    def test_a_file_can_be_written_from_what_is_mapped_from_it(self, tmp_path: Path):
        write_tensors(tmp_path / "t", {"a": torch.arange(1000)}, {})
        tensors, _ = read_tensors(tmp_path / "t")
        write_tensors(tmp_path / "t", {"b": tensors["a"]}, {})
        assert torch.equal(read_tensors(tmp_path / "t")[0]["b"], torch.arange(1000))
        assert torch.equal(tensors["a"], torch.arange(1000))

    def test_a_dtype_that_is_none_of_ours_is_refused(self, tmp_path: Path):
        with pytest.raises(TypeError, match=r"not torch\.complex64"):
            write_tensors(tmp_path / "t", {"a": torch.ones(1, dtype=torch.complex64)}, {})
