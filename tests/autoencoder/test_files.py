"""A saved autoencoder comes back bit for bit, or an error names the file; nothing that fails harms what was there."""

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gossamer.autoencoder import files
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.files import load, load_codes, save, save_codes
from gossamer.autoencoder.presets import preset
from gossamer.codes import SparseCodes
from gossamer.storage import StorageError, read_tensors, write_tensors


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small() -> SparseAutoencoder:
    return preset("topk", input_width=24, latents=96, l0=6).build(seed=1)


@pytest.fixture
def folder(small: SparseAutoencoder, tmp_path: Path) -> Path:
    save(small, tmp_path / "sae")
    return tmp_path / "sae"


@pytest.mark.usefixtures("low_precision_selection")
class TestRoundTrip:
    @pytest.fixture
    def folder(self, trained: SparseAutoencoder, tmp_path: Path) -> Path:
        save(trained, tmp_path / "sae")
        return tmp_path / "sae"

    def test_is_the_folded_autoencoder_bit_for_bit(self, trained: SparseAutoencoder, folder: Path, rows: Tensor):
        loaded = load(folder)
        trained.fold()
        assert loaded.spec == trained.spec
        for name, tensor in trained.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert torch.equal(loaded(rows).reconstruction, trained(rows).reconstruction)

    def test_computes_what_the_original_computes(self, trained: SparseAutoencoder, folder: Path, rows: Tensor):
        expected = trained(rows).reconstruction
        assert (load(folder)(rows).reconstruction - expected).norm() <= 1e-5 * expected.norm()

    def test_again_and_again_is_the_same_bytes(self, folder: Path, tmp_path: Path):
        save(load(folder), tmp_path / "again")
        assert content(tmp_path / "again") == content(folder)

    def test_leaves_the_original_as_it_is(self, trained: SparseAutoencoder, tmp_path: Path):
        before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
        save(trained, tmp_path / "another")
        assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())

    def test_keeps_the_precision(self, trained: SparseAutoencoder, tmp_path: Path):
        save(trained.double(), tmp_path / "double")
        assert {t.dtype for t in load(tmp_path / "double").state_dict().values()} == {torch.float64}

    def test_gives_one_that_can_be_trained_on(self, folder: Path, rows: Tensor):
        loaded = load(folder)
        assert not loaded.training
        loaded.loss(rows).total.backward()
        assert all(p.grad is not None for p in loaded.parameters())

    def test_paths_may_be_text(self, small: SparseAutoencoder, tmp_path: Path):
        save(small, str(tmp_path / "new" / "sae"))
        assert load(str(tmp_path / "new" / "sae")).spec == small.spec


def test_the_tensors_of_a_file_are_all_another_program_needs(trained: SparseAutoencoder, tmp_path: Path, rows: Tensor):
    """x̂ = sparsity(x W_encᵀ + b_enc) W_dec + b_dec, as `save` promises."""
    folder = tmp_path / "sae"
    save(trained, folder)
    assert sorted(os.listdir(folder)) == ["spec.json", "weights.safetensors"]
    tensors, metadata = read_tensors(folder / "weights.safetensors")
    spec = json.loads((folder / "spec.json").read_text())
    codes = (rows @ tensors["encoder.weight"].T + tensors["encoder.bias"]).relu()
    if spec["sparsity"]["kind"] == "topk":
        kept = codes.topk(spec["sparsity"]["k"], dim=1)
        codes = torch.zeros_like(codes).scatter(1, kept.indices, kept.values)
    if spec["sparsity"]["kind"] == "jumprelu":
        codes = codes * (codes > tensors["sparsity.log_threshold"].exp())
    x_hat = codes @ tensors["decoder.weight"] + tensors["decoder.bias"]
    expected = trained(rows).reconstruction
    assert (x_hat - expected).norm() <= 1e-5 * expected.norm()
    assert metadata == {"format": "gossamer.autoencoder.1"}


class TestFinding:
    def test_in_the_folder_of_a_run(self, small: SparseAutoencoder, tmp_path: Path):
        save(small, tmp_path / "run" / "sae")
        assert load(tmp_path / "run").spec == load(tmp_path / "run" / "sae").spec == small.spec

    def test_one_of_several_must_be_named(self, small: SparseAutoencoder, tmp_path: Path):
        for name in ("small", "large"):
            save(small, tmp_path / "run" / "sae" / name)
        with pytest.raises(ValueError, match=r"run holds 2 autoencoders; choose one: .*large, .*small"):
            load(tmp_path / "run")
        assert load(tmp_path / "run" / "sae" / "small").spec == small.spec

    def test_none_is_an_error_that_says_what_was_looked_for(self, tmp_path: Path):
        for place in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(ValueError, match=rf"no autoencoder in {re.escape(str(place))}.*spec\.json"):
                load(place)

    def test_a_run_that_was_stopped_says_how_to_go_on(self, tmp_path: Path):
        (tmp_path / "checkpoints").mkdir()
        with pytest.raises(ValueError, match=rf"run .*gossamer train --resume {re.escape(str(tmp_path))}"):
            load(tmp_path)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        data = json.loads((folder / "spec.json").read_text())
        change(data)
        (folder / "spec.json").write_text(json.dumps(data))

    return edit


class TestDamage:
    @pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -4, -1])
    def test_truncated_weights_are_named(self, folder: Path, length: int):
        weights = folder / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:length])
        with pytest.raises(ValueError, match=rf"{re.escape(str(weights))} is damaged"):
            load(folder)

    def test_missing_weights_are_named(self, folder: Path):
        (folder / "weights.safetensors").unlink()
        with pytest.raises(ValueError, match=r"weights\.safetensors does not exist"):
            load(folder)

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (edited(lambda spec: spec.update(latens=3)), "unknown field 'latens'.*'latents'"),
            (edited(lambda spec: spec["sparsity"].update(kind="topkk")), "kind is unknown: 'topkk'"),
            (edited(lambda spec: spec.pop("latents")), "missing field 'latents'"),
            (edited(lambda spec: spec.update(latents="96")), "latents: expected int"),
            (edited(lambda spec: spec.update(latents=0)), "at least 1"),
            (lambda folder: (folder / "spec.json").write_text("[]"), "expected a table"),
            (lambda folder: (folder / "spec.json").write_text(""), "Expecting value"),
            (lambda folder: (folder / "spec.json").write_text('{"input_width": 2'), "delimiter"),
            (lambda folder: (folder / "spec.json").write_bytes(b"\xff\xfe\x00"), "decode"),
        ],
        ids=["field", "kind", "missing", "type", "number", "list", "empty", "truncated", "binary"],
    )
    def test_a_damaged_spec_is_named(self, folder: Path, damage: Callable[[Path], object], said: str):
        damage(folder)
        with pytest.raises(ValueError, match=rf"(?s)spec\.json.*{said}"):
            load(folder)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda tensors: tensors.pop("decoder.bias"),
            lambda tensors: tensors.update(threshold=torch.zeros(96)),
            lambda tensors: tensors.update({"encoder.weight": torch.zeros(24, 96)}),
            lambda tensors: tensors.update({"encoder.bias": torch.zeros(1)}),
        ],
        ids=["missing", "unknown", "transposed", "short"],
    )
    def test_weights_that_do_not_match_the_spec_are_named(
        self, folder: Path, damage: Callable[[dict[str, Tensor]], object]
    ):
        tensors, metadata = read_tensors(folder / "weights.safetensors")
        damage(tensors)
        write_tensors(folder / "weights.safetensors", tensors, metadata)
        with pytest.raises(ValueError, match=r"weights\.safetensors does not match spec\.json.*\(96, 24\)"):
            load(folder)

    def test_a_spec_of_another_size_is_refused(self, folder: Path):
        edited(lambda spec: spec.update(latents=97))(folder)
        with pytest.raises(ValueError, match=r"does not match.*\(96, 24\).*\(97, 24\)"):
            load(folder)


class Explosive:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_a_pickle_is_refused_and_never_loaded(folder: Path, tmp_path: Path, by: str):
    weights, mark = folder / "weights.safetensors", tmp_path / "loaded"
    if by == "torch":
        torch.save({"encoder.weight": Explosive(mark)}, weights)
    else:
        weights.write_bytes(pickle.dumps(Explosive(mark)))
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged or no safetensors file"):
        load(folder)
    assert not mark.exists()


class TestWriting:
    def test_over_another_autoencoder_leaves_nothing_of_it(self, folder: Path):
        save(preset("topk", input_width=3, latents=8, l0=2).build(), folder)
        assert sorted(os.listdir(folder)) == ["spec.json", "weights.safetensors"]
        assert load(folder).spec.latents == 8
        assert os.listdir(folder.parent) == ["sae"]

    def test_beside_somebody_elses_files_is_refused_and_harms_nothing(self, small: SparseAutoencoder, folder: Path):
        (folder / "README.md").write_text("mine")
        before = content(folder)
        with pytest.raises(ValueError, match="holds something else than an autoencoder"):
            save(small, folder)
        assert content(folder) == before

    def test_on_a_full_disk_leaves_the_old_and_names_the_remedy(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        before = content(folder)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            save(preset("topk", input_width=3, latents=8, l0=2).build(), folder)
        assert "Free space or choose another folder" in str(caught.value)
        assert str(folder) in str(caught.value)
        assert caught.value.errno == errno.ENOSPC
        assert content(folder) == before
        assert os.listdir(folder.parent) == ["sae"]

    def test_beyond_what_the_system_allows_leaves_the_old_and_names_the_remedy(self, folder: Path):
        before = content(folder)
        script = (
            "import resource, signal, sys\n"
            "from gossamer.autoencoder.files import save\n"
            "from gossamer.autoencoder.presets import preset\n"
            "from gossamer.storage import StorageError\n"
            "sae = preset('topk', input_width=64, latents=512, l0=4).build()\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try:\n"
            "    save(sae, sys.argv[1])\n"
            "except StorageError as error:\n"
            "    print(error.errno, error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-B", "-c", script, str(folder)], capture_output=True, text=True, timeout=120, check=True
        )
        assert f"{errno.EFBIG} [Errno {errno.EFBIG}] cannot write {folder}: File too large" in done.stdout
        assert "What was there before is intact. Free space or choose another folder" in done.stdout
        assert content(folder) == before
        assert os.listdir(folder.parent) == ["sae"]


class TestCodes:
    @pytest.fixture
    def codes(self, trained: SparseAutoencoder, rows: Tensor) -> SparseCodes:
        return trained.encode(rows).detach()

    def test_come_back_as_they_were(self, codes: SparseCodes, tmp_path: Path):
        save_codes(codes, tmp_path / "codes.safetensors")
        again = load_codes(tmp_path / "codes.safetensors")
        assert again.latents == codes.latents
        for name in ("offsets", "indices", "values"):
            assert torch.equal(getattr(again, name), getattr(codes, name)), name
            assert getattr(again, name).dtype == getattr(codes, name).dtype
        assert not (again.to_scipy() - codes.to_scipy()).count_nonzero()

    def test_keep_the_level_above_which_they_are_active(self, rows: Tensor, tmp_path: Path):
        sae = preset("kl-sparse", input_width=24, latents=96).build(seed=0)
        codes = sae.encode(rows).detach()
        save_codes(codes, tmp_path / "codes")
        assert load_codes(tmp_path / "codes").level == codes.level == 0.5
        assert load_codes(tmp_path / "codes").l0 == codes.l0 < 96

    def test_without_rows_or_entries_too(self, tmp_path: Path):
        for dense in (torch.zeros(0, 5), torch.zeros(3, 5)):
            save_codes(SparseCodes.from_dense(dense), tmp_path / "codes")
            assert torch.equal(load_codes(tmp_path / "codes").to_dense(), dense)

    def test_a_full_disk_leaves_what_was_there(self, codes: SparseCodes, tmp_path: Path, monkeypatch):
        save_codes(codes, tmp_path / "codes")
        before = (tmp_path / "codes").read_bytes()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "write_tensors", full)
        with pytest.raises(StorageError, match="No space left"):
            save_codes(codes, tmp_path / "codes")
        assert (tmp_path / "codes").read_bytes() == before

    def test_what_is_no_codes_is_refused(self, trained: SparseAutoencoder, codes: SparseCodes, tmp_path: Path):
        with pytest.raises(ValueError, match="does not exist"):
            load_codes(tmp_path / "nothing")
        save(trained, tmp_path / "sae")
        with pytest.raises(ValueError, match=r"holds no codes: it has format 'gossamer.autoencoder.1'"):
            load_codes(tmp_path / "sae" / "weights.safetensors")
        for name, damage in (("offsets", 10**6), ("indices", 10**6), ("indices", -1)):
            bad = {n: getattr(codes, n).clone() for n in ("offsets", "indices", "values")}
            bad[name][-1] = damage
            write_tensors(tmp_path / "bad", bad, {"format": "gossamer.codes.1", "latents": str(codes.latents)})
            with pytest.raises(ValueError, match="bad is damaged: offsets must rise from 0"):
                load_codes(tmp_path / "bad")
