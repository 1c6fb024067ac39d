"""Files of torch.save and numpy.savez: what is in them is read, what they would do is not done."""

import io
import os
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gossamer.interop.npz import Arrays
from gossamer.interop.torch_files import is_torch_file, read_torch_file


class Malicious:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def weights() -> dict[str, Any]:
    table = {"a": torch.arange(6.0).view(2, 3), "k": torch.tensor(4), "name": "TopK", "state": OrderedDict(k=4)}
    return OrderedDict(table)


@pytest.fixture
def saved(tmp_path: Path, weights: dict[str, Any]) -> Path:
    torch.save(weights, tmp_path / "ae.pt")
    return tmp_path / "ae.pt"


def repacked(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    """Return a copy of an archive in which `change(name, bytes)` may put something else."""
    other = path.with_name(f"other{path.suffix}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return other


def test_tensors_numbers_and_texts_are_read(saved: Path, weights: dict[str, Any]):
    found = read_torch_file(saved)
    assert torch.equal(found["a"], weights["a"]) and found["k"] == 4
    assert found["name"] == "TopK" and found["state"] == {"k": 4}
    assert is_torch_file(saved)


def overwrite(path: Path, old: bytes, new: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(path.read_bytes().index(old))
        file.write(new)


def test_tensors_are_mapped_from_the_file_not_copied(tmp_path: Path):
    """What is not in memory yet follows the file; what is written to a tensor does not reach it."""
    torch.save({"a": torch.tensor([1.5, 2.5])}, tmp_path / "ae.pt")
    read_torch_file(tmp_path / "ae.pt")["a"].zero_()
    tensor = read_torch_file(tmp_path / "ae.pt")["a"]
    overwrite(tmp_path / "ae.pt", struct.pack("<2f", 1.5, 2.5), struct.pack("<2f", 1.5, 7))
    assert tensor.tolist() == [1.5, 7]


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path):
    torch.save({"a": Malicious(tmp_path / "executed")}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"ae\.pt .*not executed"):
        read_torch_file(tmp_path / "ae.pt")
    assert not (tmp_path / "executed").exists()


def test_a_whole_module_is_refused(tmp_path: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="not executed"):
        read_torch_file(tmp_path / "ae.pt")


def test_the_form_from_before_2020_is_refused_with_the_way_out(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"a": torch.zeros(2)}, tmp_path / "ae.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="load and save it there once"):
        read_torch_file(tmp_path / "ae.pt")


def test_a_compressed_archive_is_not_unpacked(saved: Path):
    other = repacked(saved, lambda name, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read_torch_file(other)


def test_a_tensor_larger_than_its_numbers_is_refused(tmp_path: Path):
    torch.save({"a": torch.zeros(1).expand(100, 100)}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"a has shape \(100, 100\), but not so many numbers"):
        read_torch_file(tmp_path / "ae.pt")


def test_a_sparse_tensor_is_refused(tmp_path: Path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match="no ordinary tensor"):
        read_torch_file(tmp_path / "ae.pt")


@pytest.mark.parametrize("value", [[torch.zeros(2)], torch.zeros(2), {1: torch.zeros(2)}])
def test_what_is_no_table_of_tensors_is_refused(tmp_path: Path, value: Any):
    torch.save(value, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"ae\.pt"):
        read_torch_file(tmp_path / "ae.pt")


@pytest.mark.parametrize("read", [read_torch_file, Arrays])
def test_missing_truncated_and_empty_files_are_named(tmp_path: Path, saved: Path, read: Any):
    content = saved.read_bytes()
    for name, kept in {"empty": b"", "half": content[: len(content) // 2], "text": b"weights"}.items():
        (tmp_path / name).write_bytes(kept)
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)
        assert not is_torch_file(tmp_path / name)
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "nowhere")


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(0).normal(size=(3, 5))
    return {
        "plain": numbers.astype(np.float32),
        "columns": np.asfortranarray(numbers),
        "half": numbers.astype(np.float16),
        "one": np.float32(2.5),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_they_are(tmp_path: Path, arrays: dict[str, np.ndarray], save: Any):
    save(tmp_path / "params.npz", **arrays)
    read = Arrays(tmp_path / "params.npz")
    assert {name: tuple(t.shape) for name, t in read.outlines().items()} == {n: a.shape for n, a in arrays.items()}
    for name, array in arrays.items():
        assert np.array_equal(read.tensor(name).numpy(), array)


def test_arrays_that_are_not_compressed_are_mapped(tmp_path: Path):
    np.savez(tmp_path / "params.npz", a=np.array([1.5, 2.5], np.float32))
    Arrays(tmp_path / "params.npz").tensor("a").zero_()
    tensor = Arrays(tmp_path / "params.npz").tensor("a")
    overwrite(tmp_path / "params.npz", struct.pack("<2f", 1.5, 2.5), struct.pack("<2f", 1.5, 7))
    assert tensor.tolist() == [1.5, 7]


def test_arrays_of_objects_are_refused_by_their_header(tmp_path: Path):
    np.savez(tmp_path / "params.npz", a=np.array([Malicious(tmp_path / "executed")], dtype=object))
    with pytest.raises(ValueError, match=r"params\.npz .*object"):
        Arrays(tmp_path / "params.npz")
    assert not (tmp_path / "executed").exists()


def test_a_bomb_is_not_unpacked(tmp_path: Path):
    """256 MB of zeros in 1 MB, written as a stream."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**26,)})
    with (
        zipfile.ZipFile(tmp_path / "params.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as file,
    ):
        file.write(header.getvalue())
        for _ in range(2**8):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match="are no weights"):
        Arrays(tmp_path / "params.npz")


@pytest.mark.parametrize(
    ("shape", "descr"), [((2**40,), "<f4"), ((-2, -2), "<f4"), ((4,), ">f4"), ((4,), "|O"), ((2,), "<c8")]
)
def test_a_header_that_lies_is_refused(tmp_path: Path, shape: tuple[int, ...], descr: str):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(16))
    with pytest.raises(ValueError, match=r"params\.npz"):
        Arrays(tmp_path / "params.npz")


def test_members_that_are_no_arrays_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("../escaped.txt", "no")
    with pytest.raises(ValueError, match="not arrays"):
        Arrays(tmp_path / "params.npz")
