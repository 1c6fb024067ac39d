"""An implementation asked for by name serves or raises; the automatic choice takes what there is."""

import pytest
import torch

import gossamer as gs
from gossamer import kernels
from gossamer.kernels import choice, compilation, numba_cpu, reference, torch_cpu
from gossamer.training.spec import Kernels


def test_the_fastest_that_is_installed_serves(monkeypatch: pytest.MonkeyPatch):
    assert kernels.backend("cpu") == "numba"
    monkeypatch.setattr(choice, "_installed", lambda package: package == "torch")
    assert kernels.backend("cpu") == "torch"
    assert kernels.backend("cuda") == kernels.backend("mps") == "reference"


def test_without_numba_everything_goes_on(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator):
    x = torch.randn(50, 24, generator=generator)
    sae = gs.preset("topk", input_width=24, latents=96, l0=4).build()
    expected = sae.encode(x).to_dense()
    monkeypatch.setattr(choice, "_installed", lambda package: package == "torch")
    torch.testing.assert_close(sae.encode(x).to_dense(), expected)
    sae.loss(x).total.backward()
    assert all(p.grad is not None for p in sae.parameters())


def test_a_name_is_obeyed_as_long_as_the_context_lasts():
    x = torch.zeros(1)
    for name, module in (("numba", numba_cpu), ("torch", torch_cpu), ("reference", reference)):
        with kernels.use(backend=name):
            assert kernels.backend("cpu") == name
            assert choice.implementation(x) is module
    assert kernels.backend("cpu") == "numba"
    with pytest.raises(RuntimeError, match="anything"), kernels.use(backend="torch"):
        raise RuntimeError("anything")
    assert kernels.backend("cpu") == "numba"


def test_full_precision_is_never_answered_with_low_precision(generator: torch.Generator):
    x = torch.zeros(1)
    with kernels.use(selection="float32"):
        assert choice.implementation(x, "select") is torch_cpu
        assert choice.implementation(x) is numba_cpu
    with kernels.use(selection="bfloat16"):
        assert choice.implementation(x, "select") is numba_cpu


def test_auto_leaves_what_an_outer_context_has_chosen(rows: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    with kernels.use(backend="torch", selection="float32"), kernels.use():
        assert (kernels.backend("cpu"), kernels.selection("cpu")) == ("torch", "float32")
    monkeypatch.setattr(numba_cpu, "residual", None)  # nobody asks it
    sae = gs.preset("topk", input_width=24, latents=96, l0=4).build()
    with kernels.use(backend="torch"):
        gs.train(sae, gs.Arrays(rows.numpy()), gs.TrainSpec(rows=200, batch=100), quiet=True)


def test_loops_are_compiled_without_a_place_for_their_cache(monkeypatch: pytest.MonkeyPatch):
    njit = compilation.njit

    def nowhere(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(compilation, "njit", nowhere)
    assert compilation.compiled(lambda x: x + 1)(2) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"backend": "nubma"}, "unknown kernels 'nubma'; there are auto, numba, triton, torch, reference"),
        ({"selection": "half"}, "unknown selection 'half'; there are auto, bfloat16, float32"),
        ({"backend": "torch", "selection": "bfloat16"}, "'torch' kernels select in full precision only"),
    ],
)
def test_a_mistake_is_named_before_any_work(names: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message), kernels.use(**names):
        pass
    with pytest.raises(ValueError, match=message):
        Kernels(**names)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "_installed", lambda package: package == "torch")
    spec = Kernels(backend="numba")  # a run can be read where its kernels are not
    with (
        pytest.raises(ValueError, match="'numba' kernels need a package: pip install numba"),
        kernels.use(backend=spec.backend),
    ):
        pass


def test_low_precision_that_no_kernels_here_have_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choice, "_installed", lambda package: package == "torch")
    with pytest.raises(ValueError, match="needs a package: pip install numba"), kernels.use(selection="bfloat16"):
        pass
    with (
        kernels.use(backend="torch"),
        pytest.raises(ValueError, match="'torch' kernels select in full precision only"),
        kernels.use(selection="bfloat16"),
    ):
        pass


def test_kernels_without_low_precision_do_not_claim_it():
    with kernels.use(selection="bfloat16"), kernels.use(backend="torch"):
        assert kernels.selection("cpu") == "float32"


def test_kernels_of_another_device_are_refused():
    message = "'triton' kernels run on cuda devices, not on cpu"
    with kernels.use(backend="triton"), pytest.raises(ValueError, match=message):
        kernels.backend("cpu")


def test_a_run_in_full_precision_says_so_and_cannot_be_resumed_otherwise(tmp_path, rows: torch.Tensor):
    def train(selection: str, **how) -> None:
        sae = gs.preset("topk", input_width=24, latents=96, l0=4).build()
        spec = gs.TrainSpec(rows=600, batch=100, kernels=Kernels(selection=selection))
        gs.train(sae, gs.Arrays(rows.numpy()), spec, out=tmp_path / "run", quiet=True, **how)

    train("float32")
    text = (tmp_path / "run" / "run.toml").read_text()
    assert 'selection = "float32"' in text
    assert 'kernels = "numba"' in text
    with pytest.raises(ValueError, match=r"selection: saved 'float32', given 'bfloat16'"):
        train("bfloat16", resume=True)
