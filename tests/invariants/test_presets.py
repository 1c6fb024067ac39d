"""Every preset goes the whole way on a real model: trained, stopped and resumed, saved, measured, compiled."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.decoders import AffineDecoder, Decoder
from gossamer.autoencoder.penalties import Penalty, mean_of_rows
from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.presets import PRESETS
from gossamer.autoencoder.scaling import Change
from gossamer.autoencoder.sparsity import Sparsity
from gossamer.autoencoder.tasks import EndToEnd, Reconstruct
from gossamer.autoencoder.trace import Trace
from gossamer.codes import SparseCodes
from gossamer.sources.assets import MissingAsset, locate
from gossamer.sources.source import Batch, Feed, Source
from gossamer.training.recipe import PresetSpec
from gossamer.training.run import RunSpec

pytest.importorskip("transformers")

LATENTS, L0, STEPS, BATCH, CONTEXT = 128, 8, 6, 256, 32
WINDOWS = 60
LAYERS = ("model.layers.2", "model.layers.4")
INPUTS = tuple(f"model.layers.{layer}.post_attention_layernorm" for layer in (3, 4))
OUTPUTS = tuple(f"model.layers.{layer}.mlp" for layer in (3, 4))

NEEDED: dict[str, dict[str, Any]] = {
    "transcoder": {"site": INPUTS[0], "target": OUTPUTS[0]},
    "skip-transcoder": {"site": INPUTS[0], "target": OUTPUTS[0]},
    "crosscoder": {"site": None, "sites": LAYERS},
    "clt": {"site": None, "sites": INPUTS, "targets": OUTPUTS},
    "deep-autoencoder": {"l0": None},
    "transformer-autoencoder": {"l0": None},
    "contractive": {"l0": None},
    "dense-100-64": {"l0": None},
    "two-layer-l1": {"l0": None},
}
"""What a preset takes beside the number of latents, where that is not a site and an L0."""


class PowerError(Exception):
    """The power went off."""


class Remembered(Source):
    """Rows that another source read once, at all of its sites."""

    buffer_rows = 2 * BATCH

    def __init__(self, train: Batch, validation: Batch) -> None:
        self.train, self.held_out = train, validation
        self.widths = {site: rows.shape[1] for site, rows in train.rows.items()}
        self.rows, self.validation_rows = len(train), len(validation)

    @property
    def units(self) -> int:
        return self.rows

    @property
    def units_per_buffer(self) -> int:
        return self.buffer_rows

    def read(self, units: np.ndarray) -> Batch:
        return self.train[torch.from_numpy(units)]

    def validation(self, *, batch: int) -> Iterator[Batch]:
        yield from (self.held_out[start : start + batch] for start in range(0, self.validation_rows, batch))

    def fingerprint(self) -> dict[str, str]:
        return {"kind": "remembered"}

    def describe(self) -> dict[str, str]:
        return {"rows": "remembered"}


@pytest.fixture(scope="module")
def smollm2() -> Any:
    """SmolLM2 with its first six layers only: nobody looks further."""
    from gossamer.sources.models import load_model

    try:
        locate("sae_probes", ".")
        loaded = load_model("smollm2-135m")
    except MissingAsset as missing:
        pytest.skip(str(missing))
    loaded.model.model.layers = loaded.model.model.layers[:6]
    return loaded


@pytest.fixture(scope="module")
def texts() -> list[str]:
    from gossamer.sources.texts import read_documents

    try:
        return read_documents(["asset:100_news_fake"])[:12]
    except MissingAsset as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def rows(smollm2: Any, texts: list[str]) -> Remembered:
    sites = [*LAYERS, *INPUTS, *OUTPUTS]
    options: dict[str, Any] = {"hook": sites, "texts": texts, "context": CONTEXT, "validation": 0.2}
    source = gs.Activations(smollm2.model, smollm2.tokenizer, **options)
    assert source.units >= WINDOWS
    return Remembered(source.read(np.arange(WINDOWS)), next(source.validation(batch=BATCH)))


@pytest.fixture
def windows(smollm2: Any, texts: list[str]) -> gs.ModelWindows:
    options: dict[str, Any] = {"texts": texts, "context": CONTEXT, "validation": 0.2, "buffer_rows": 3 * CONTEXT}
    return gs.ModelWindows(smollm2.model, smollm2.tokenizer, hook=LAYERS, **options)


@dataclass
class Case:
    """One way through: an autoencoder, where its rows come from, and how it is trained."""

    spec: gs.AutoencoderSpec
    source: Remembered | gs.ModelWindows
    batch: int

    def train(self, out: Path, *, resume: bool = False) -> gs.SparseAutoencoder:
        sae = self.spec.build(seed=1)
        train = gs.TrainSpec(rows=STEPS * self.batch, batch=self.batch, checkpoint_every=2, log_every=1, dead_after=100)
        gs.train(sae, self.source, train, out=out, quiet=True, resume=resume)
        return sae

    def stop_and_resume(self, out: Path) -> gs.SparseAutoencoder:
        """Stop in the middle, one step after a checkpoint, and go on."""
        count, original = itertools.count(), Feed.next

        def stopping(feed: Feed) -> Batch:
            if next(count) == 3:
                raise PowerError
            return original(feed)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Feed, "next", stopping)
            with pytest.raises(PowerError):
                self.train(out)
        assert not (out / "sae").exists()
        return self.train(out, resume=True)

    def held_out(self) -> Tensor:
        batch = next(self.source.validation(batch=BATCH))
        return self.spec.task.rows(batch.rows)[0].float()


@pytest.fixture(params=[*sorted(PRESETS), "end-to-end, with a later layer"])
def case(request: pytest.FixtureRequest, rows: Remembered, windows: gs.ModelWindows) -> Case:
    name, _, later = request.param.partition(",")
    preset = PresetSpec(name=name, latents=LATENTS, **{"site": LAYERS[0], "l0": L0, **NEEDED.get(name, {})})
    if name != "end-to-end":
        return Case(preset.resolve(rows), rows, BATCH)
    spec = preset.resolve(windows)
    if later:
        spec = spec.replace(task=EndToEnd(site=LAYERS[0], judge="cross-entropy", later=LAYERS[1:]))
    return Case(spec, windows, 2 * CONTEXT)


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def test_goes_the_whole_way(case: Case, tmp_path: Path):
    sae = case.train(tmp_path / "whole")
    assert RunSpec.read(tmp_path / "whole").autoencoders == (case.spec,)
    assert [line["step"] for line in lines(tmp_path / "whole")] == list(range(1, STEPS + 1))
    assert all(math.isfinite(value) for line in lines(tmp_path / "whole") for value in line.values())

    x, loaded = case.held_out(), gs.load(tmp_path / "whole")
    assert loaded.spec == case.spec
    codes, same = sae.encode(x), loaded.encode(x)
    for name in ("offsets", "indices", "values"):
        assert torch.equal(getattr(codes, name), getattr(same, name)), name
    assert torch.equal(sae.decode(codes, x), loaded.decode(same, x))

    score = gs.measure(loaded, case.source, predictions=0)
    assert math.isfinite(score.reconstruction.fvu)
    assert 0 < score.sparsity.l0 <= LATENTS

    with torch.no_grad():
        compiled, eager = torch.compile(sae, backend="eager")(x), sae(x)
    assert torch.equal(compiled.reconstruction, eager.reconstruction)
    assert torch.equal(compiled.codes.to_dense(), eager.codes.to_dense())

    resumed = case.stop_and_resume(tmp_path / "pieces")
    for name, tensor in sae.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert lines(tmp_path / "pieces") == lines(tmp_path / "whole")


@dataclass(frozen=True, kw_only=True)
class Near(Sparsity):
    """Keep what is nearly as large as the largest of its row: p_i ≥ share · max p."""

    kind: ClassVar[str] = "toy-near"
    share: float

    def __call__(self, pre: PreActivations) -> SparseCodes:
        p = pre.dense()
        return SparseCodes.from_dense(p.relu() * (p >= self.share * p.amax(dim=1, keepdim=True)))


@dataclass(frozen=True, kw_only=True)
class Fourth(Penalty):
    """Σ_i z_i⁴."""

    kind: ClassVar[str] = "toy-fourth"

    def __call__(self, trace: Trace) -> Tensor:
        return mean_of_rows(trace.codes.values.pow(4), trace.codes)


@dataclass(frozen=True, kw_only=True)
class Gains(Decoder):
    """x̂ = (z · g) W + b, with a gain for each latent."""

    kind: ClassVar[str] = "toy-gains"
    start: float = 1.0

    def build(self, *, input_width: int, output_width: int, latents: int) -> GainsDecoder:
        return GainsDecoder(self.start, output_width, latents)


class GainsDecoder(AffineDecoder):
    def __init__(self, start: float, width: int, latents: int) -> None:
        super().__init__()
        self.first = start
        self.weight = torch.nn.Parameter(torch.zeros(latents, width))
        self.gain = torch.nn.Parameter(torch.zeros(latents))
        self.bias = torch.nn.Parameter(torch.zeros(width))

    def directions(self) -> Tensor:
        return self.gain[:, None] * self.weight

    @torch.no_grad()
    def reset(self, directions: Tensor, generator: torch.Generator) -> None:
        self.weight.copy_(directions)
        self.gain.fill_(self.first)
        self.bias.zero_()

    @torch.no_grad()
    def change_units(self, change: Change, rows: Change) -> None:
        change.of_decoder(self.weight, self.bias)


TOY = gs.AutoencoderSpec(
    name="toy",
    input_width=576,
    latents=LATENTS,
    sparsity=Near(share=0.5),
    decoder=Gains(start=0.5),
    penalties=(Fourth(weight=1e-3),),
    task=Reconstruct(site=LAYERS[0]),
)


def test_parts_from_outside_the_package_go_the_whole_way(rows: Remembered, tmp_path: Path):
    assert gs.AutoencoderSpec.from_toml(TOY.to_toml()) == TOY
    assert all(kind in TOY.to_toml() for kind in ("toy-near", "toy-fourth", "toy-gains"))
    case = Case(TOY, rows, BATCH)
    sae = case.train(tmp_path / "run")
    assert RunSpec.read(tmp_path / "run").autoencoders == (TOY,)
    first, *_, last = lines(tmp_path / "run")
    assert first["toy-fourth"] > 0
    assert last["reconstruction"] < first["reconstruction"]
    assert not torch.equal(sae.decoder.get_parameter("gain"), torch.full((LATENTS,), 0.5))
    loaded, x = gs.load(tmp_path / "run"), case.held_out()
    assert isinstance(loaded.decoder, GainsDecoder)
    assert loaded.spec == TOY
    assert torch.equal(loaded(x).reconstruction, sae(x).reconstruction)
    assert 0 < loaded.encode(x).l0 < LATENTS
    resumed = case.stop_and_resume(tmp_path / "pieces")
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in sae.state_dict().items())
