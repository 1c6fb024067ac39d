"""What every format promises: exact round trips, clear refusals, nothing half-written, memory for a piece at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.centered import Centered
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import PRESETS
from gossamer.autoencoder.provenance import Provenance
from gossamer.autoencoder.row_scaling import ConstantNorm, LayerNorm
from gossamer.autoencoder.scaling import RowNorm, Whitening
from gossamer.autoencoder.sparsity import GroupMax, ReLU
from gossamer.cli.main import main
from gossamer.interop import reading
from gossamer.interop.affine import less_center
from gossamer.interop.format import Format, Loaded, format_of, formats
from gossamer.storage import read_tensors, write_tensors

FIXTURES = Path(__file__).parent / "fixtures"
WRITTEN = sorted(name for name, known in formats().items() if known.writable)
SITES: dict[str, dict[str, Any]] = {
    "transcoder": {"site": "in", "target": "out"},
    "skip-transcoder": {"site": "in", "target": "out"},
    "crosscoder": {"sites": ("a", "b"), "widths": (12, 12)},
    "clt": {"sites": ("a", "b"), "targets": ("c", "d")},
    "end-to-end": {"site": "in"},
}
EXPRESSED = {
    "saelens": {
        *(
            "abs-topk",
            "archetypal",
            "batch-topk",
            "contractive",
            "denoising",
            "end-to-end",
            "gated",
            "jumprelu",
            "topk",
        ),
        *("hierarchical-topk", "matching-pursuit", "matryoshka-batch-topk", "ortsae", "p-anneal", "vanilla-l1"),
        "winner-take-all",
    },
    "sparsify": {
        *("archetypal", "contractive", "denoising", "end-to-end", "hierarchical-topk", "skip-transcoder", "topk"),
        "transcoder",
    },
}
"""Which presets other libraries can compute; ours can all."""


def used(spec: gs.AutoencoderSpec, rows: Tensor) -> SparseAutoencoder:
    """An autoencoder far from where it started, in units of its own."""
    torch.manual_seed(0)
    sae = spec.build(seed=1)
    start_from_data(sae, rows, rows.flip(1) if sae.target_scaler is not None else None)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in sae.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in sae.named_buffers():
            if name == "sparsity.threshold":
                buffer.fill_(0.3)
    sae.provenance = Provenance(model="owner/model", site="layers.2", rows=7, metrics={"l0": 5.0})
    return sae.eval()


def require_same_state(one: SparseAutoencoder, other: SparseAutoencoder) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("to", WRITTEN)
def test_what_is_written_comes_back_bit_for_bit_or_is_refused_by_name(
    to: str, preset: str, rows: Tensor, tmp_path: Path
):
    sae = used(gs.preset(preset, input_width=24, latents=96, l0=6, **SITES.get(preset, {})), rows)
    known = format_of(to)
    if preset not in EXPRESSED.get(to, PRESETS):
        with pytest.raises(ValueError, match=f"{known.title} cannot hold this autoencoder, '{preset}': "):
            known.write(sae, tmp_path / "some" / "where")
        assert not list(tmp_path.iterdir())
        return
    notes = known.write(sae, tmp_path / "sae")
    assert any("folded" in note for note in notes) is (sae.spec.scaling.kind != "unscaled")
    again = known.read(tmp_path / "sae").sae
    assert not set(os.listdir(tmp_path / "sae")) - known.files
    sae.fold()
    if preset == "archetypal" and to != "gossamer":  # its directions are multiplied out
        assert torch.allclose(again(rows).reconstruction, sae(rows).reconstruction, atol=1e-4)
        return
    assert (again.spec, again.provenance) == (sae.spec, sae.provenance)
    require_same_state(again, sae)
    assert torch.equal(again(rows).codes.to_dense(), sae(rows).codes.to_dense())


@pytest.mark.parametrize("to", ["saelens", "sparsify"])
@pytest.mark.parametrize("peer", ["dictionary_learning", "saelens", "sparsify"])
def test_from_library_to_library_and_back_nothing_is_lost(peer: str, to: str, tmp_path: Path):
    """Whatever comes from one and fits into another is there the same in bits, even without what we noted in it."""
    done = 0
    for name, place in reading.places(FIXTURES / peer).items():
        try:
            first = place.read().sae
            format_of(to).write(first, tmp_path / name)
        except ValueError:
            continue
        path = next((tmp_path / name).glob("*.safetensors"))
        write_tensors(path, {key: tensor.clone() for key, tensor in read_tensors(path)[0].items()}, {})
        again = format_of(to).read(tmp_path / name).sae
        if first.spec.sparsity.kind in ("gated", "batch-topk") or (
            to == "sparsify" and first.spec.encoder.kind == "linear"
        ):
            x = torch.randn(50, first.spec.input_width, generator=torch.Generator().manual_seed(0))
            assert torch.allclose(again(x).reconstruction, first(x).reconstruction, atol=1e-5)
        else:
            require_same_state(again, first)
        done += 1
    assert done >= 1


class TestFolding:
    def test_a_center_is_folded_with_one_rounding(self, generator: torch.Generator):
        weight, bias, center = (torch.randn(*shape, generator=generator) for shape in ((50, 30), (50,), (30,)))
        center = 1000 * center
        exact = (bias.double() - weight.double() @ center.double()).float()
        assert torch.equal(less_center(bias, weight, center), exact)

    @pytest.mark.parametrize("scaling", [LayerNorm(), ConstantNorm()], ids=lambda scaling: scaling.kind)
    @pytest.mark.parametrize("encoder", [Centered(), None], ids=["centered", "linear"])
    def test_scalings_of_the_row_are_kept_in_saelens_and_refused_by_sparsify(
        self, scaling: Any, encoder: Any, rows: Tensor, tmp_path: Path
    ):
        spec = gs.preset("topk", input_width=24, latents=96, l0=6).replace(scaling=scaling)
        sae = used(spec if encoder is None else spec.replace(encoder=encoder), rows)
        format_of("saelens").write(sae, tmp_path / "sae")
        config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
        kinds = {"layer-norm": "layer_norm", "constant-norm": "constant_norm_rescale"}
        assert config["normalize_activations"] == kinds[scaling.kind]
        assert config["apply_b_dec_to_input"] is (encoder is not None)
        require_same_state(gs.load(tmp_path / "sae"), sae)
        with pytest.raises(ValueError, match="sparsify does not scale rows"):
            format_of("sparsify").write(sae, tmp_path / "other")

    def test_a_scaling_whose_codes_carry_the_norm_is_refused(self, rows: Tensor, tmp_path: Path):
        sae = used(gs.preset("topk", input_width=24, latents=96, l0=6).replace(scaling=RowNorm()), rows)
        with pytest.raises(ValueError, match="lets codes carry the norm"):
            format_of("saelens").write(sae, tmp_path / "sae")

    def test_whitening_is_folded(self, rows: Tensor, tmp_path: Path):
        sae = used(gs.preset("topk", input_width=24, latents=96, l0=6).replace(scaling=Whitening()), rows)
        notes = format_of("saelens").write(sae, tmp_path / "sae")
        assert notes == ("the scaling 'whitening' is folded into weights and biases",)
        again = gs.load(tmp_path / "sae")
        assert torch.allclose(again(rows).reconstruction, sae(rows).reconstruction, atol=1e-3)

    @pytest.mark.parametrize("change", [{"sparsity": ReLU(), "auxiliaries": ()}, {"sparsity": GroupMax(k=6)}])
    def test_transcoders_find_the_library_that_has_them(self, change: dict, rows: Tensor, tmp_path: Path):
        task = gs.preset("skip-transcoder", input_width=24, latents=96, site="in", target="out", l0=6)
        sae = used(task.replace(**change), rows)
        able, other = ("saelens", "sparsify") if change["sparsity"].kind == "relu" else ("sparsify", "saelens")
        format_of(able).write(sae, tmp_path / "sae")
        sae.fold()
        require_same_state(gs.load(tmp_path / "sae"), sae)
        with pytest.raises(ValueError, match="cannot hold"):
            format_of(other).write(sae, tmp_path / "other")


class TestMemoryOfAFile:
    """What we note in a file of another form is believed only as long as it is true."""

    @pytest.fixture
    def folder(self, rows: Tensor, tmp_path: Path) -> Path:
        sae = used(gs.preset("batch-topk", input_width=24, latents=96, l0=6), rows)
        format_of("saelens").write(sae, tmp_path / "sae")
        return tmp_path / "sae"

    def change(self, folder: Path, name: str, factor: float) -> None:
        tensors, metadata = read_tensors(folder / "sae_weights.safetensors")
        changed = {own: tensor * factor if own == name else tensor.clone() for own, tensor in tensors.items()}
        write_tensors(folder / "sae_weights.safetensors", changed, metadata)

    @pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
    def test_a_file_that_was_changed_is_read_in_its_own_words(self, folder: Path, name: str):
        assert gs.load(folder).spec.sparsity.kind == "batch-topk"
        self.change(folder, name, 1.5)
        changed = gs.load(folder)
        assert changed.spec.sparsity.kind == ("batch-topk" if name in ("W_enc", "W_dec") else "threshold")
        tensors, _ = read_tensors(folder / "sae_weights.safetensors")
        assert torch.equal(changed.encoder.get_parameter("weight"), tensors["W_enc"].T)
        assert torch.equal(changed.decoder.bias, tensors["b_dec"])

    def test_a_configuration_that_was_changed_is_believed(self, folder: Path):
        config = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps(config | {"apply_b_dec_to_input": True}))
        assert gs.load(folder).spec.encoder.kind == "centered"


class TestFinding:
    @pytest.fixture
    def sae(self) -> SparseAutoencoder:
        return gs.preset("topk", input_width=8, latents=16, l0=2).build(seed=0).eval()

    def test_a_folder_of_hook_points_is_read_one_by_one(self, sae: SparseAutoencoder, tmp_path: Path):
        for layer in (10, 2):
            format_of("sparsify").write(sae, tmp_path / f"layers.{layer}")
        with pytest.raises(ValueError, match=r"holds 2 autoencoders; choose one of them: 'layers\.2', 'layers\.10'"):
            gs.load(tmp_path)
        require_same_state(gs.load(tmp_path, "layers.10"), sae)
        with pytest.raises(ValueError, match=r"has no 'layers\.1'; did you mean"):
            gs.load(tmp_path, "layers.1")

    @pytest.mark.parametrize("member", ["../sae", "/etc", "a/../../b", "a\\b", "a\0b"])
    def test_a_path_that_leaves_the_folder_is_refused(self, sae: SparseAutoencoder, tmp_path: Path, member: str):
        gs.save(sae, tmp_path / "sae")
        (tmp_path / "inner").mkdir()
        with pytest.raises(ValueError, match="leaves the folder"):
            gs.load(tmp_path / "inner", member)

    def test_a_place_without_one_says_what_is_there(self, tmp_path: Path):
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(ValueError, match=r"holds no autoencoder of a known format .*there is notes\.txt"):
            gs.load(tmp_path)
        with pytest.raises(ValueError, match="does not exist"):
            gs.load(tmp_path / "nothing")
        with pytest.raises(ValueError, match="unknown format 'salens'; did you mean 'saelens'"):
            gs.load(tmp_path, format="salens")

    def test_what_is_loaded_does_not_follow_its_file(self, sae: SparseAutoencoder, tmp_path: Path):
        format_of("sparsify").write(sae, tmp_path / "sae")
        loaded = gs.load(tmp_path / "sae")
        with open(tmp_path / "sae" / "sae.safetensors", "r+b") as file:
            file.truncate(10)
        require_same_state(loaded, sae)
        assert all(tensor.is_contiguous() for tensor in loaded.state_dict().values())

    def test_a_format_from_elsewhere_is_known_once_its_class_is(self, sae: SparseAutoencoder, tmp_path: Path):
        class Elsewhere(Format):
            name, title = "elsewhere", "Elsewhere"

            def recognizes(self, place: Path) -> bool:
                return (place / "elsewhere").is_file()

            def read(self, place: str | Path) -> Loaded:
                return Loaded(sae, ("made up",))

        (tmp_path / "elsewhere").write_text("")
        require_same_state(gs.load(tmp_path), sae)
        with pytest.raises(ValueError, match=r"Elsewhere cannot hold .*read, not written; can be written: gossamer"):
            format_of("elsewhere").write(sae, tmp_path / "new")


class TestBadInput:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        sae = gs.preset("jumprelu", input_width=8, latents=16, l0=2).build(seed=0)
        format_of("saelens").write(sae, tmp_path / "sae")
        return tmp_path / "sae"

    def rewrite(self, folder: Path, **changes: Any) -> None:
        tensors = {name: tensor.clone() for name, tensor in read_tensors(folder / "sae_weights.safetensors")[0].items()}
        tensors |= {name: change(tensors) for name, change in changes.items()}
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        write_tensors(folder / "sae_weights.safetensors", kept, {})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"b_enc": lambda t: None}, "lacks the tensor 'b_enc'"),
            ({"b_encc": lambda t: t["b_enc"]}, "unexpected tensor 'b_encc'; did you mean 'b_enc'"),
            ({"W_enc": lambda t: t["W_dec"]}, r"W_enc has shape \(16, 8\), expected \(8, 16\)"),
            ({"W_enc": lambda t: t["W_enc"].long()}, "W_enc has dtype torch.int64"),
            ({"b_dec": lambda t: t["b_dec"] * torch.nan}, "decoder.bias holds NaN"),
            ({"W_dec": lambda t: t["W_dec"] * torch.inf}, "decoder.weight holds NaN or infinite"),
            ({"scaling_factor": lambda t: 2 * t["b_enc"] + 2}, "scaling_factor that was fine-tuned"),
        ],
        ids=["missing", "renamed", "swapped", "dtype", "nan", "inf", "fine-tuned"],
    )
    def test_wrong_tensors_are_named(self, folder: Path, changes: dict[str, Any], message: str):
        self.rewrite(folder, **changes)
        with pytest.raises(ValueError, match=message) as caught:
            gs.load(folder)
        assert str(folder) in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"architecture": "jumprelus"}, "'jumprelus' is not known here; did you mean 'jumprelu'"),
            ({"architecture": "temporal"}, "'temporal' is not known here"),
            ({"d_sae": 10**15}, "d_sae is a whole number"),
            ({"d_sae": 2**39}, "has shape"),
            ({"d_in": "8"}, "d_in is a whole number"),
            ({"normalize_activations": "layernorm"}, "did you mean 'layer_norm'"),
            ({"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input is true or false"),
            ({"metadata": []}, "metadata is an object"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_wrong_configurations_are_named(self, folder: Path, change: dict[str, Any], message: str):
        config = json.loads((folder / "cfg.json").read_text())
        (folder / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message) as caught:
            gs.load(folder)
        assert "cfg.json" in str(caught.value) or str(folder) in str(caught.value)

    def test_what_an_older_saelens_wrote_is_read(self, folder: Path):
        self.rewrite(folder, threshold=lambda t: None, scaling_factor=lambda t: torch.ones(16))
        old = {"d_in": 8, "d_sae": 16, "hook_point": "blocks.1.hook_mlp_out", "activation_fn_str": "topk"}
        old |= {"activation_fn_kwargs": {"k": 3}, "normalize_activations": False, "model_name": "gpt2-small"}
        (folder / "cfg.json").write_text(json.dumps(old))
        sae = gs.load(folder)
        assert (sae.spec.sparsity.to_dict()["k"], sae.spec.encoder.kind) == (3, "centered")
        assert (sae.provenance.model, sae.provenance.site) == ("gpt2-small", "blocks.1.hook_mlp_out")
        (folder / "cfg.json").write_text(json.dumps(old | {"activation_fn_str": "tanh-relu"}))
        with pytest.raises(ValueError, match="activation function 'tanh-relu'"):
            gs.load(folder)

    def test_a_failed_conversion_leaves_nothing(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        before = sorted(tmp_path.rglob("*"))
        for to, message in [("sparsify", "cannot hold"), ("openai", "read, not written"), ("onnx", "unknown format")]:
            assert main(["convert", str(folder), "--to", to, "-o", str(tmp_path / "a" / "b")]) == 2
            assert message in capsys.readouterr().err
        assert main(["convert", str(folder), "--to", "gossamer", "-o", str(folder)]) == 2
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_folder_with_something_else_is_not_written_over(self, folder: Path, tmp_path: Path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("")
        with pytest.raises(ValueError, match="holds something else than a SAELens autoencoder"):
            format_of("saelens").write(gs.load(folder), tmp_path / "mine")
        assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


class TestCommandLine:
    def test_a_folder_of_several_is_converted_as_a_whole(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        source, out = FIXTURES / "sparsify", tmp_path / "out"
        assert main(["convert", str(source), "--to", "gossamer", "-o", str(out)]) == 0
        printed = capsys.readouterr().out
        assert "note: an autoencoder with a skip connection is read as a transcoder" in printed
        assert sorted(os.listdir(out)) == sorted(reading.places(source))
        require_same_state(gs.load(out, "topk"), gs.load(source, "topk"))
        assert main(["convert", str(out), "--to", "saelens", "-o", str(tmp_path / "more")]) == 2
        captured = capsys.readouterr()
        assert "is left out: SAELens cannot hold" in captured.out
        assert "autoencoders could not be converted" in captured.err
        assert {"topk", "multi_topk"} <= set(os.listdir(tmp_path / "more"))

    def test_inspect_says_what_is_there_without_reading_the_weights(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        assert main(["inspect", str(FIXTURES / "saelens" / "gated")]) == 0
        printed = capsys.readouterr().out
        for line in (
            "format: SAELens",
            "latents: 64",
            "model: gpt2",
            "license: not stated",
            "encoder.weight: (64, 32)",
        ):
            assert line in printed
        assert main(["inspect", str(FIXTURES / "saelens")]) == 0
        assert "cannot be read:" in capsys.readouterr().out  # matching pursuit that stops on its own
        assert main(["inspect", str(tmp_path)]) == 2


PROGRAM = """
import sys, threading, time
from gossamer.interop.converting import convert_place
def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
def watch():
    global peak
    while not done:
        peak = max(peak, private())
        time.sleep(0.002)
for source, target, to in [("0", "1", "saelens"), ("1", "2", "gossamer")]:
    before, peak, done = private(), 0.0, False
    watcher = threading.Thread(target=watch)
    watcher.start()
    list(convert_place(sys.argv[1] + source, sys.argv[1] + target, to=to))
    done = True
    watcher.join()
    print(max(0.0, peak - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_converting_takes_memory_for_pieces_not_for_the_model(tmp_path: Path):
    """128 MB of weights, the encoder's turned round on the way, in a quarter of that, there and back."""
    latents, width = 16_384, 1024
    with torch.device("meta"):
        sae = SparseAutoencoder(gs.preset("topk", input_width=width, latents=latents, l0=32))
    state = {name: torch.zeros(tensor.shape) for name, tensor in sae.state_dict().items() if tensor.dim() < 2}
    weight = torch.full((), 0.25).expand(latents, width)  # it takes no memory of its own
    state |= {"scaler.scale": torch.ones(()), "encoder.weight": weight, "decoder.weight": weight}
    sae.load_state_dict(state, assign=True)
    gs.save(sae, tmp_path / "0")
    command = [sys.executable, "-c", PROGRAM, f"{tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert max(map(float, done.stdout.split())) < 32, "MB"
    assert (tmp_path / "2" / "weights.safetensors").stat().st_size > 2 * 4 * latents * width
