"""Encoder and decoder that are transformers: what patches know of each other, and of where they are."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import gossamer as gs
from gossamer.autoencoder.attention import Transformer, TransformerDecoder
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.scaling import PerSite
from gossamer.spec import Spec
from gossamer.transformer.positions import Learned, NoPositions, Positions, Rotary, Sinusoidal

WIDTH, PATCH, LATENTS = 24, 4, 6
POSITIONS = [Sinusoidal(), Learned(), Rotary(), NoPositions()]


def spec_with(positions: Positions) -> gs.AutoencoderSpec:
    sizes = {"patch": PATCH, "width": 16, "hidden": 20, "heads": 2, "positions": positions}
    plain = preset("transformer-autoencoder", input_width=WIDTH, latents=LATENTS)
    return plain.replace(encoder=Transformer(**sizes), decoder=TransformerDecoder(**sizes))


def built(positions: Positions) -> gs.SparseAutoencoder:
    return spec_with(positions).build(seed=0).double()


@pytest.mark.parametrize("positions", POSITIONS, ids=lambda positions: positions.kind)
class TestPositions:
    def test_only_without_them_patches_are_a_set(self, positions: Positions):
        """Shuffled patches give the same pre-activations, if W is shuffled alike; with positions they do not."""
        sae, x = built(positions), torch.randn(5, WIDTH, dtype=torch.float64)
        before = sae.pre_activations(x).dense()
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        weight = sae.encoder.get_parameter("weight")
        with torch.no_grad():
            weight.copy_(weight.view(LATENTS, 6, 16)[:, order].reshape(weight.shape))
        after = sae.pre_activations(x.view(5, 6, PATCH)[:, order].reshape(5, WIDTH)).dense()
        assert torch.allclose(before, after) == isinstance(positions, NoPositions)

    def test_it_comes_back_from_a_file(self, positions: Positions, tmp_path: Path):
        sae, x = spec_with(positions).build(seed=3), torch.randn(5, WIDTH)
        gs.save(sae, tmp_path / "sae")
        assert torch.equal(gs.load(tmp_path / "sae")(x).reconstruction, sae(x).reconstruction)

    def test_the_seed_alone_decides_its_weights(self, positions: Positions):
        torch.manual_seed(1)
        one = spec_with(positions).build(seed=2).state_dict()
        torch.manual_seed(7)
        other = spec_with(positions).build(seed=2).state_dict()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_every_patch_hears_from_every_other_one():
    sae, x = built(Sinusoidal()), torch.randn(1, WIDTH, dtype=torch.float64)
    heard = sae.encoder.get_submodule("attending")

    def last_patch(first: Tensor) -> Tensor:
        row = torch.cat([first, x[0, PATCH:]])[None]
        return heard(sae.encoder.get_submodule("read")(row.unflatten(1, (6, PATCH))))[0, -1]

    gradient = torch.autograd.functional.jacobian(last_patch, x[0, :PATCH])
    assert isinstance(gradient, Tensor)
    assert (gradient.norm(dim=0) > 1e-6).all()


def test_it_learns_rows_whose_patches_belong_together(generator: torch.Generator):
    """Each row is one of eight shapes at some strength: one number and a choice, though no patch shows the whole."""
    shapes = torch.randn(8, WIDTH, generator=generator)
    strength = torch.rand(512, 1, generator=generator) + 0.5
    rows = strength * shapes[torch.randint(8, (512,), generator=generator)]
    sae = spec_with(Sinusoidal()).build(seed=0)
    gs.train(sae, gs.Arrays(rows.numpy()), gs.TrainSpec(rows=12_800, batch=64, learning_rate=5e-3), quiet=True)
    assert gs.measure(sae, gs.Arrays(rows.numpy(), validation=0.5)).reconstruction.fvu < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": Transformer(patch=5)}, "encoder 'transformer' cannot cut a row of 24 entries into patches of 5"),
        ({"decoder": TransformerDecoder(patch=7)}, "decoder 'transformer' cannot cut a row of 24 entries"),
        ({"scaling": PerSite(widths=(10, 14))}, "needs a scaling by one number"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change: dict[str, Spec], message: str):
    with pytest.raises(ValueError, match=message):
        spec_with(Sinusoidal()).replace(**change)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"patch": 0}, "patch must be at least 1"), ({"patch": 4, "heads": 3}, "heads must divide the width")],
)
def test_numbers_that_cannot_be_are_refused(numbers: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        Transformer(**numbers)  # pyright: ignore[reportArgumentType]
