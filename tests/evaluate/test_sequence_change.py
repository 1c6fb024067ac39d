"""Setting a feature changes the activation by that feature and nothing else, where it is wanted and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gossamer as gs
from gossamer.autoencoder.files import save
from gossamer.evaluate.sequence_change import change_sequence, changed_positions, with_latents
from gossamer.evaluate.writing import Latents, change_run, marked, parse_ablation, parse_steering, show
from gossamer.pretrained.own import TransformerWriter
from gossamer.sources.activations import model_fingerprint
from gossamer.sources.hooks import observed
from gossamer.training.run import PythonSource, RunSpec
from gossamer.transformer.files import save_transformer, save_vocabularies
from gossamer.transformer.generate import Decoding
from gossamer.transformer.model import TransformerSpec
from gossamer.transformer.steps import NEVER
from gossamer.transformer.translator import MODEL, VOCABULARIES
from gossamer.transformer.vocabulary import END, Characters, Phonemes

LETTERS, SOUNDS = Characters.learned(["gossamer"]), Phonemes.learned(["G AA S AH M ER W IY V"])
WIDTH, LATENTS = 16, 32


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> TransformerWriter:
    folder = tmp_path_factory.mktemp("transformer")
    layers = {"width": WIDTH, "hidden": 16, "heads": 2, "encoder_layers": 2, "decoder_layers": 2}
    model = TransformerSpec(source=len(LETTERS), target=len(SOUNDS), tied="none", **layers).build(seed=4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    save_transformer(model, folder / MODEL)
    save_vocabularies(LETTERS, SOUNDS, folder / VOCABULARIES)
    return TransformerWriter(folder)


@pytest.fixture(scope="module")
def sae() -> gs.SparseAutoencoder:
    return gs.preset("topk", input_width=WIDTH, latents=LATENTS, l0=6).build(seed=2)


def test_a_row_gets_the_feature_at_a_value_and_keeps_its_error(sae: gs.SparseAutoencoder):
    x = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0))
    codes = sae.encode(x).to_dense()
    latent = int((codes != 0).sum(dim=0).argmax())
    for value in (0.0, 2.5, -1.0):
        changed, strength = with_latents(sae, x, torch.tensor([latent]), value)
        torch.testing.assert_close(changed, x + (value - codes[:, [latent]]) * sae.decoder.directions()[latent])
        torch.testing.assert_close(strength, codes[:, latent].abs())
    both = torch.tensor([3, latent])
    changed, _ = with_latents(sae, x, both, 1.5)
    torch.testing.assert_close(changed, x + (1.5 - codes[:, both]) @ sae.decoder.directions()[both])


@pytest.mark.parametrize(
    ("first", "stop", "touched"),
    [(0, 8, range(8)), (2, 5, range(2, 5)), (3, None, range(3, 10)), (None, None, range(4, 10))],
)
def test_only_the_positions_that_give_rows_are_touched(
    sae: gs.SparseAutoencoder, first: int | None, stop: int | None, touched: range
):
    """A prompt of four positions and six more, one at a time, as a decoder passes them."""
    model = nn.Sequential(nn.Identity())
    x = torch.randn(1, 10, WIDTH, generator=torch.Generator().manual_seed(0))
    passed: list[Tensor] = []

    def write() -> tuple[str, ...]:
        passed.append(torch.cat([model(part) for part in x.split([4, 1, 1, 1, 1, 1, 1], dim=1)], dim=1))
        return ()

    found = change_sequence(write, model, sae, site="0", latents=range(LATENTS), first=first, stop=stop)
    before, after = passed
    assert torch.equal(before, x)
    assert (before != after).any(dim=2)[0].nonzero()[:, 0].tolist() == list(touched)
    assert found.rows == found.active == len(touched)


def test_without_any_active_latent_nothing_changes_and_no_hook_stays(
    writer: TransformerWriter, sae: gs.SparseAutoencoder
):
    site = "encoder.layers.1"

    def write() -> tuple[str, ...]:
        return writer.write(["gossamer"], Decoding(longest=6))[0].tokens

    with observed(writer.model, [site]) as seen:
        write()
    silent = (sae.encode(seen[site][0]).to_dense() == 0).all(dim=0).nonzero()[:, 0].tolist()
    found = change_sequence(write, writer.model, sae, site=site, latents=silent)
    assert found.before == found.after == write()
    assert (found.changed, found.added, found.active) == ((), (), 0)
    every = change_sequence(write, writer.model, sae, site=site, latents=range(LATENTS))
    assert every.rows == every.active == len("gossamer") + 1
    assert not writer.model.get_submodule(site)._forward_hooks


@pytest.fixture(scope="module")
def entries() -> gs.SparseAutoencoder:
    """Its latents are the entries of an activation, positive and negative."""
    sae = gs.preset("topk", input_width=WIDTH, latents=2 * WIDTH, l0=WIDTH).build(seed=0)
    with torch.no_grad():
        signs = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
        for weight in (sae.encoder.weight, sae.decoder.weight):
            weight.copy_(signs)
    return sae


def test_without_the_latent_that_speaks_for_a_sound_another_one_is_written(
    writer: TransformerWriter, entries: gs.SparseAutoencoder
):
    site = "decoder.layers.1"

    def write() -> tuple[str, ...]:
        return writer.write(["gossamer"], Decoding(longest=6))[0].tokens

    found = {k: change_sequence(write, writer.model, entries, site=site, latents=[k]) for k in range(2 * WIDTH)}
    for ablation in found.values():
        assert ablation.before == write()
        assert ablation.active or ablation.after == ablation.before
    loud = [ablation for ablation in found.values() if ablation.after != ablation.before]
    assert loud
    assert all(ablation.active and ablation.changed and ablation.added for ablation in loud)


def test_a_latent_at_a_large_value_says_what_its_direction_says(
    writer: TransformerWriter, entries: gs.SparseAutoencoder
):
    decoder, output = writer.translator.model.decoding()

    def write() -> tuple[str, ...]:
        return writer.write(["gossamer"], Decoding(longest=6))[0].tokens

    said = set()
    for latent in range(2 * WIDTH):
        with torch.no_grad():
            logits = output(decoder.norm(1e4 * entries.decoder.directions()[latent]))
        logits[NEVER] = -torch.inf
        token = int(logits.argmax())
        expected = () if token == END else (SOUNDS.token(token),) * 6
        steered = change_sequence(write, writer.model, entries, site="decoder.layers.1", latents=[latent], value=1e4)
        assert steered.after == expected
        said.add(expected)
    assert len(said) > 2


def test_changed_positions_are_those_outside_the_common_blocks():
    before, after = ["the", "old", "web", "is", "torn"], ["the", "new", "silk", "web", "is"]
    assert changed_positions(before, after) == ((1, 4), (1, 2))
    assert changed_positions(before, before) == ((), ())
    assert marked(["a", "b", "c"], [0, 1], joint=" ") == "[a b] c"


def test_latents_are_named_by_run_and_number():
    assert parse_ablation("runs/x:12,7") == Latents(Path("runs/x"), (12, 7))
    assert parse_steering("runs/a=b:12,7=-2.5") == Latents(Path("runs/a=b"), (12, 7), -2.5)
    for wrong in ("runs/x:3", "runs/x:3=", "runs/x:3=much", "runs/x:a=3", "=3"):
        with pytest.raises(ValueError, match="RUN:NUMBER=VALUE"):
            parse_steering(wrong)
    for wrong in ("runs/x", ":3", "runs/x:", "runs/x:a", "runs/x:-1"):
        with pytest.raises(ValueError, match="RUN:NUMBER"):
            parse_ablation(wrong)


def test_a_run_says_where_its_latents_are_and_which_model_they_are_of(
    writer: TransformerWriter, sae: gs.SparseAutoencoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def run(name: str, fingerprint: dict[str, str]) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        spec = {"source": PythonSource(), "train": gs.TrainSpec(), "derived": (), "version": "0"}
        RunSpec(autoencoders=(sae.spec,), fingerprint=fingerprint, **spec).write(folder)
        save(sae, folder / "sae")
        return folder

    same = run("same", {**model_fingerprint(writer.model), "sites": "encoder.layers.1"})
    every = Latents(same, tuple(range(LATENTS)))
    (found,) = change_run(writer, ["gossamer"], every, Decoding(longest=6))
    assert found.rows == len("gossamer")  # the end of the source gave no row, so it stays as it is
    assert found.active == found.rows
    show(writer, ["gossamer"], Decoding(longest=6), change=every)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("with ") and said[1].startswith("without ") and "active on 8 of 8 rows" in said[2]
    show(writer, ["gossamer"], Decoding(longest=6), change=Latents(same, (3,), 40.0))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("as it is  ") and said[1].startswith("at 40     ") and "of 8 rows" in said[2]
    with pytest.raises(ValueError, match="a finite value, got inf"):
        change_run(writer, ["gossamer"], Latents(same, (3,), float("inf")), Decoding())
    with pytest.raises(ValueError, match="latents are numbered 0 to 31"):
        change_run(writer, ["gossamer"], Latents(same, (32,)), Decoding())
    other = run("other", {"model": "Whisper, 3 parameters", "dtype": "torch.float32", "weights": "0", "sites": "x"})
    with pytest.raises(ValueError, match="trained on another model"):
        change_run(writer, ["gossamer"], Latents(other, (3,)), Decoding())
