"""Models that other libraries made themselves give the same codes and reconstructions here, and ours give them there.

The fixtures were made by `peers/fixtures.py`: each library saved small models of its classes with its own functions,
and said what it makes of 50 random and 50 real rows. `make test-interop` lets them do it again, on 1,000 of each.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.presets import PRESETS, preset
from gossamer.interop.format import format_of, formats

PEERS = Path(__file__).parent / "peers"
FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted((path.parent.name, path.stem) for path in FIXTURES.glob("*/*.npz"))
LIVE = pytest.mark.skipif(
    not os.environ.get("GOSSAMER_PEERS"), reason="other libraries are asked by: make test-interop"
)

REFUSED = {
    ("llamascopium", "batch_topk"): "the whole batch",
    ("llamascopium", "glu"): "second encoder",
    ("saelens", "matching_pursuit"): "matching_pursuit",
}
"""What other libraries have and cannot be computed here, and the word that says so."""


WRITABLE = {
    "saelens": {
        *(
            "dictionary_learning_gated",
            "dictionary_learning_matryoshka_batch_topk",
            "dictionary_learning_standard_april",
        ),
        *("gemma_scope_arrays", "gemma_scope_second", "llamascopium_jumprelu", "llamascopium_relu_without_bias"),
        *("llamascopium_token_wise", "llamascopium_topk", "llamascopium_transcoder", "openai_relu", "openai_topk"),
        *("saelens_abs_topk", "saelens_jumprelu_skip_transcoder", "saelens_standard_constant_norm"),
        *("saelens_standard_hook_z", "saelens_topk_layer_norm", "saelens_topk_rescaled", "sparsify_topk"),
        *("abs-topk", "archetypal", "batch-topk", "contractive", "gated", "jumprelu", "matching-pursuit"),
        *("matryoshka-batch-topk", "p-anneal", "topk", "vanilla-l1", "winner-take-all"),
    },
    "sparsify": {
        *("dictionary_learning_topk", "llamascopium_topk", "saelens_topk", "saelens_topk_rescaled"),
        *("sparsify_groupmax", "sparsify_skip", "sparsify_skip_transcoder", "sparsify_topk", "sparsify_transcoder"),
        *("archetypal", "contractive", "hierarchical-topk", "skip-transcoder", "topk", "transcoder"),
    },
}
"""What can be written at least, by the library and case that it was read from, or by its preset."""


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PEERS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


exchange = _load("fixtures")


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """All rows of the exchange, `(2000, 32)`."""
    pytest.importorskip("sklearn")
    return torch.from_numpy(exchange.exchange_rows())


def place_of(folder: Path) -> Path:
    """Return where in a case's folder the model is."""
    inner = [path for path in folder.rglob("*") if path.is_file()]
    return inner[0] if inner[0].suffix == ".pt" and len(inner) == 1 else inner[0].parent


def require_same(sae: SparseAutoencoder, case: str, rows: Tensor, expected: Path) -> None:
    """Assert codes and reconstructions equal to 1e-5."""
    with np.load(expected, allow_pickle=False) as file:
        codes, reconstruction = (torch.from_numpy(file[name]) for name in ("codes", "reconstruction"))
    with torch.no_grad():
        out = sae(rows)
    found = out.codes.to_dense()
    if case == "crosscoder":  # one code for all sites, which llamascopium repeats for each
        found = found.repeat(1, 2)
    torch.testing.assert_close(found, codes, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.reconstruction, reconstruction, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("peer", "case"), CASES)
def test_a_model_of_another_library_gives_the_same_here(peer: str, case: str, rows: Tensor):
    place = place_of(FIXTURES / peer / case)
    if (peer, case) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[peer, case]):
            format_of(peer).read(place)
        return
    require_same(format_of(peer).read(place).sae, case, rows[exchange.KEPT], FIXTURES / peer / f"{case}.npz")


@pytest.mark.parametrize(("peer", "case"), CASES)
def test_a_model_is_recognized_by_its_own_format_alone(peer: str, case: str):
    place = place_of(FIXTURES / peer / case)
    assert [name for name, known in formats().items() if known.recognizes(place)] == [peer]


@LIVE
@pytest.mark.parametrize("peer", sorted(exchange.PEERS))
def test_what_a_library_makes_now_gives_the_same_on_all_rows(peer: str, rows: Tensor, tmp_path: Path):
    exchange.ask(peer, "make", tmp_path)
    made = {path.stem for path in tmp_path.glob("*.npz")}
    assert made == {case for owner, case in CASES if owner == peer}, "the fixtures are older than the script"
    for case in sorted(made - {case for owner, case in REFUSED if owner == peer}):
        require_same(format_of(peer).read(place_of(tmp_path / case)).sae, case, rows, tmp_path / f"{case}.npz")


@LIVE
def test_saelens_reads_gemma_scope_files_the_same_way(rows: Tensor, tmp_path: Path):
    """The file has no library of its own; this is the one that most people read it with."""
    (tmp_path / "compressed").mkdir()
    source = FIXTURES / "gemma_scope" / "compressed"
    (tmp_path / "compressed" / "params.npz").write_bytes((source / "params.npz").read_bytes())
    exchange.ask("saelens", "read", tmp_path)
    require_same(format_of("gemma_scope").read(source).sae, "compressed", rows, tmp_path / "compressed.npz")


def own_models() -> dict[str, SparseAutoencoder]:
    """Return one of each preset with weights that are not at their start, and what was read of every other library."""
    models = {f"{peer}_{case}": (peer, case) for peer, case in CASES if (peer, case) not in REFUSED}
    found = {name: format_of(peer).read(place_of(FIXTURES / peer / case)).sae for name, (peer, case) in models.items()}
    for name in PRESETS:
        needed = SITES.get(name, {})
        sae = preset(name, input_width=32, latents=64, l0=6, **needed).build(seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for own, tensor in sae.state_dict().items():
                if own.endswith(("bias", "threshold", "log_gain")):
                    tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator)).abs_()
        found[name] = sae.eval()
    return found


SITES: dict[str, dict[str, Any]] = {
    "transcoder": {"site": "in", "target": "out"},
    "skip-transcoder": {"site": "in", "target": "out"},
    "crosscoder": {"sites": ("a", "b"), "widths": (16, 16)},
    "clt": {"sites": ("a", "b"), "targets": ("c", "d")},
    "end-to-end": {"site": "in"},
    "deep-autoencoder": {"hidden": (48,)},
}
"""What presets need beside sizes, or should have for small ones."""


@LIVE
@pytest.mark.parametrize("peer", ["saelens", "sparsify"])
def test_what_is_written_here_gives_the_same_there(peer: str, rows: Tensor, tmp_path: Path):
    """Whatever the format takes, from whichever library it came; the rest is refused with a reason."""
    known, written, refused = format_of(peer), {}, {}
    for name, sae in own_models().items():
        try:
            known.write(sae, tmp_path / name)
            written[name] = sae
        except ValueError as error:
            refused[name] = str(error)
    assert not [name for name in refused if known.title not in refused[name] or (tmp_path / name).exists()]
    assert WRITABLE[peer] <= set(written)
    exchange.ask(peer, "read", tmp_path)
    for name, sae in written.items():
        require_same(sae, name, rows, tmp_path / f"{name}.npz")
