"""A transformer in the one loop: it learns real words, and what cannot be trained is refused before it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

import gossamer as gs
from gossamer.evaluate.translation import evaluate_translations
from gossamer.sources.assets import MissingAsset, locate
from gossamer.sources.cmudict import CmudictSpec
from gossamer.sources.pairs import SOURCE, TARGET, Pair, Pairs, PairsSpec
from gossamer.training.recipe import Recipe
from gossamer.training.run import Run, RunSpec, take_weights
from gossamer.training.sequences import fitted
from gossamer.training.spec import SGD, Kernels, Muon, TrainSpec, derive
from gossamer.training.start import start
from gossamer.transformer import (
    Block,
    Characters,
    Learned,
    Rotary,
    Sinusoidal,
    Transformer,
    TransformerSpec,
    Words,
)
from gossamer.transformer.translator import MODEL, Translator, trimmed

DIGITS = Characters(tokens=tuple("0123456789"))
SMALL = TransformerSpec(width=32, hidden=64, heads=2, encoder_layers=1, decoder_layers=1)


def note(logged: list[float], step: int, figures: Sequence[Mapping[str, float]]) -> bool:
    logged.append(figures[0]["loss"])
    return False


def mirrored(count: int = 400, **options: object) -> Pairs:
    """Numbers and their digits in reverse."""
    pairs = [Pair(str(number * 37), str(number * 37)[::-1], number) for number in range(1, count)]
    return Pairs(pairs, source=DIGITS, target=DIGITS, **{"bucket": 32, "validation": 0.1, **options})


def test_letters_become_phonemes_within_a_minute(tmp_path: Path):
    """The loss falls to a third, phoneme errors to less than half, and words that were never seen come out right."""
    try:
        locate("cmudict", "data/cmudict.dict")
    except MissingAsset as missing:
        pytest.skip(str(missing))
    described = CmudictSpec(words=8000, bucket=64)
    source = described.build()
    spec = fitted(SMALL.replace(width=96, hidden=192, encoder_layers=2, decoder_layers=2), source)
    run = tmp_path / "run"
    train = TrainSpec(rows=64 * 350, batch=64, learning_rate=3e-3, log_every=10)
    gs.train(spec.build(), source, train, out=run, described=described, quiet=True)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] / 3
    score = evaluate_translations(run, sources=200, quiet=True).score
    assert score.token_error_rate < 0.45
    assert score.error_rate < 0.9
    summary = json.loads((run / "evaluation.json").read_text())
    assert summary["error_rate"] == score.error_rate
    errors = (run / "errors.tsv").read_text().splitlines()
    assert len(errors) == 1 + round(score.error_rate * 200)
    assert (run / "attention.png").stat().st_size > 5000


def test_a_run_is_a_folder_that_can_be_opened(tmp_path: Path):
    source = mirrored()
    model = fitted(SMALL, source).build(seed=1)
    run = gs.train(
        model, source, TrainSpec(rows=32 * 60, batch=32, learning_rate=1e-2), out=tmp_path / "run", quiet=True
    )
    assert run.transformer is model
    assert not model.training
    opened = Run.open(tmp_path / "run").transformer
    ids = mirrored().read(torch.arange(1).numpy()).rows
    with torch.no_grad():
        assert torch.equal(opened(ids[SOURCE], ids[TARGET]), model(ids[SOURCE], ids[TARGET]))
    assert (tmp_path / "run" / MODEL / "weights.safetensors").is_file()
    assert RunSpec.read(tmp_path / "run").transformers == (model.spec,)
    assert len(Translator.open(tmp_path / "run").translate(["370"])) == 1
    with pytest.raises(ValueError, match="0 autoencoders"):
        run.autoencoder  # noqa: B018


def test_a_run_by_analogy_keeps_its_examples(tmp_path: Path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{number}\t{str(number)[::-1]}\n" for number in range(100, 400)))
    described = PairsSpec(paths=(str(path),), analogies=1, bucket=32)
    source = described.build()
    model = fitted(SMALL, source).build()
    train = TrainSpec(rows=32 * 4, batch=32, learning_rate=1e-2)
    gs.train(model, source, train, out=tmp_path / "run", described=described, quiet=True)
    assert evaluate_translations(tmp_path / "run", quiet=True).score.sources == source.validation_rows
    twice = evaluate_translations(tmp_path / "run", together=[tmp_path / "run"], quiet=True)
    assert twice.summary()["together"] == [str(tmp_path / "run")]
    path.unlink()
    translator = Translator.open(tmp_path / "run")
    (made,) = translator.translate(["4711"])
    weights, read, said = translator.attention("4711", made.hypotheses[0].ids)
    assert read[:5] == ["4", "7", "1", "1", "|"]
    assert read.count("|") == 2
    assert weights.shape == (1, 2, len(said), len(read))


def test_a_run_can_start_from_the_weights_of_another(tmp_path: Path):
    source, train = mirrored(), TrainSpec(rows=320, batch=32, learning_rate=1e-2, log_every=1)
    first = gs.train(fitted(SMALL, source).build(), source, train, out=tmp_path / "first", quiet=True).transformer
    weights = {name: weight.clone() for name, weight in first.state_dict().items()}
    logged: list[float] = []
    again = fitted(SMALL, source).build(seed=9)
    gs.train(again, source, train, start_from=tmp_path / "first", watch=partial(note, logged), quiet=True)
    lines = (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()
    assert logged[0] == pytest.approx(json.loads(lines[-1])["loss"], rel=0.15), "it does not go on where it was"
    assert all(torch.equal(first.state_dict()[name], weight) for name, weight in weights.items())
    free = SMALL.replace(block=Block(dropout=0.3), label_smoothing=0.0, positions=Sinusoidal(longest=50))
    gs.train(fitted(free, source).build(), source, train, start_from=tmp_path / "first", quiet=True)
    wider, turned, thinner = (
        fitted(SMALL.replace(**{name: value}), source).build()
        for name, value in (("width", 64), ("positions", Rotary()), ("heads", 1))
    )
    for other, said in (
        (wider, "width: saved 32, given 64"),
        (turned, "positions.kind: saved 'sinusoidal', given 'rotary'"),
        (thinner, "heads: saved 2, given 1"),
    ):
        with pytest.raises(ValueError, match=f"cannot start from that of .*: {said}"):
            gs.train(other, source, train, start_from=tmp_path / "first", quiet=True)
    sae = gs.preset("topk", input_width=4, latents=8, l0=2).build()
    with pytest.raises(ValueError, match=r"other parts or sizes: .* is missing there and \("):
        take_weights([sae], source, tmp_path / "first")
    learned = fitted(SMALL.replace(positions=Learned(longest=20)), source)
    gs.train(learned.build(), source, train, out=tmp_path / "learned", quiet=True)
    longer = learned.replace(positions=Learned(longest=30)).build()
    with pytest.raises(ValueError, match=r"other parts or sizes: .* is \(20, 32\) there and \(30, 32\) here"):
        gs.train(longer, source, train, start_from=tmp_path / "learned", quiet=True)
    with pytest.raises(ValueError, match="has 1 models to start from, but 2"):
        gs.train([again, wider], source, train, start_from=tmp_path / "first", quiet=True)
    with pytest.raises(ValueError, match="does not exist"):
        gs.train(again, source, train, start_from=tmp_path / "absent", quiet=True)


def test_other_pairs_are_read_in_the_vocabularies_of_the_run_to_start_from(tmp_path: Path):
    """A model knows ids, not tokens: the same sizes would do for a wrong start."""
    first, second = tmp_path / "first.tsv", tmp_path / "second.tsv"
    first.write_text("".join(f"{number}\t{str(number)[::-1]}\n" for number in range(100, 300)))
    letters = str.maketrans("0123456789", "abcdefghij")
    second.write_text(first.read_text().translate(letters))
    train = TrainSpec(rows=64, batch=32, learning_rate=1e-2)
    recipe = Recipe(
        out=str(tmp_path / "run"), source=PairsSpec(paths=(str(first),), bucket=32), transformer=(SMALL,), train=train
    )
    start(recipe)
    again = recipe.replace(out=str(tmp_path / "again"), start_from=recipe.out)
    other = PairsSpec(paths=(str(second),), bucket=32)
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=r"the source's ids stand for other tokens .*vocabularies = '"):
            start(again.replace(source=other), dry_run=dry_run)
    with pytest.raises(ValueError, match=r"'a'.*which the vocabulary of 10 characters does not know"):
        start(again.replace(source=other.replace(vocabularies=recipe.out)))
    shorter = tmp_path / "shorter.tsv"
    shorter.write_text("".join(f"{number}\t{number}\n" for number in range(10, 90)))
    start(again.replace(source=PairsSpec(paths=(str(shorter),), vocabularies=recipe.out, bucket=32)))
    assert Translator.open(again.out).source == Translator.open(recipe.out).source


def test_rare_words_are_read_as_unknown_and_never_said(tmp_path: Path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"rare{number} cat\tselten{number} Katze\n" for number in range(80)))
    described = PairsSpec(paths=(str(path),), source_tokens="words", target_tokens="words", vocabulary=8, bucket=32)
    source = described.build()
    train = TrainSpec(rows=32 * 40, batch=32, learning_rate=1e-2)
    gs.train(fitted(SMALL, source).build(), source, train, out=tmp_path / "run", described=described, quiet=True)
    made = Translator.open(tmp_path / "run").translate(["new cat", "rare7 cat"])
    assert all("<unknown>" not in one.text for one in made)


def test_characters_are_counted_one_by_one_and_long_targets_whole(tmp_path: Path):
    path, wanted = tmp_path / "pairs.tsv", "abcdefgh" * 12
    path.write_text("".join(f"{number}\t{wanted}\n" for number in range(100, 400)))
    described = PairsSpec(paths=(str(path),), bucket=32)
    source = described.build()
    train = TrainSpec(rows=32 * 200, batch=32, learning_rate=1e-2)
    gs.train(fitted(SMALL, source).build(), source, train, out=tmp_path / "run", described=described, quiet=True)
    result = evaluate_translations(tmp_path / "run", sources=4, quiet=True)
    assert result.decoding.longest == 2 * (len(wanted) + 1)
    assert result.score.error_rate == 0
    short = evaluate_translations(tmp_path / "run", sources=4, longest=90, quiet=True).score
    assert (short.error_rate, short.token_error_rate) == (1, 6 / 96)


def test_several_transformers_share_every_batch(tmp_path: Path):
    source = mirrored()
    models = [fitted(SMALL, source).build(seed=seed) for seed in (0, 1)]
    run = gs.train(models, source, TrainSpec(rows=320, batch=32), out=tmp_path / "run", quiet=True)
    assert len(run.transformers) == 2
    assert sorted(path.name for path in (tmp_path / "run" / MODEL).iterdir()) == ["0-transformer", "1-transformer"]


def test_the_rate_rises_falls_by_the_inverse_root_and_ends_at_zero():
    derived = derive(TrainSpec(rows=1000, batch=1), SMALL)
    rates = [derived.learning_rate_at(step, 1000) for step in range(1000)]
    assert derived.warmup_steps == 100
    assert max(rates) == rates[100] == pytest.approx((4000 * 32) ** -0.5)
    assert rates[50] == pytest.approx(rates[100] * 51 / 101)
    assert rates[403] == pytest.approx(rates[100] / 2)
    assert rates[-1] < rates[790] / 100
    shortened = derive(TrainSpec(rows=1000, batch=10, warmup_steps=0, decay_steps=5000), SMALL)
    assert shortened.learning_rate_at(0, 100) == pytest.approx(rates[100], rel=0.02), "a shorter run keeps its rate"
    muon = Muon(adam_share=0.25)
    assert derive(TrainSpec(rows=1000, batch=1, optimizer=muon), SMALL).learning_rate * 0.25 == rates[100]


def test_padding_that_all_rows_share_is_left_out():
    assert trimmed(torch.tensor([[5, 2, 0, 0], [5, 6, 2, 0]])).tolist() == [[5, 2, 0], [5, 6, 2]]


def test_low_precision_learns_as_float32_does():
    losses = {}
    for products in ("float32", "bfloat16"):
        source = mirrored()
        logged = losses[products] = []
        model = fitted(SMALL.replace(block=Block(dropout=0.0)), source).build(seed=0)
        train = TrainSpec(rows=32 * 100, batch=32, learning_rate=1e-2, kernels=Kernels(products=products))
        gs.train(model, source, train, watch=partial(note, logged), quiet=True)
        assert next(model.parameters()).dtype == torch.float32
    assert losses["bfloat16"][-1] == pytest.approx(losses["float32"][-1], rel=0.1)
    assert losses["float32"][-1] < losses["float32"][0]
    assert losses["bfloat16"] != losses["float32"], "the precision that was asked for was not used"


@pytest.mark.parametrize(
    ("train", "named"),
    [(TrainSpec(), "products"), (TrainSpec(optimizer=Muon(), kernels=Kernels(products="float32")), "muon")],
    ids=["products", "muon"],
)
def test_a_run_does_not_go_on_in_another_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: TrainSpec, named: str
):
    """As on a machine that multiplies other numbers fast."""
    source, train = mirrored(), train.replace(rows=64, batch=32)
    spec = fitted(SMALL, source)
    monkeypatch.setattr("gossamer.kernels.choice.fast_bfloat16", lambda device: True)
    gs.train(spec.build(), source, train, out=tmp_path / "run", quiet=True)
    gs.train(spec.build(), source, train, out=tmp_path / "run", resume=True, quiet=True)
    monkeypatch.setattr("gossamer.kernels.choice.fast_bfloat16", lambda device: False)
    with pytest.raises(ValueError, match=rf"{named}.*bfloat16.*float32"):
        gs.train(spec.build(), source, train, out=tmp_path / "run", resume=True, quiet=True)


class TestRefusals:
    source = mirrored()

    def refuse(self, message: str, model: object = None, **changes: object) -> None:
        train = TrainSpec(**{"rows": 64, "batch": 32, **changes})
        with pytest.raises(ValueError, match=message):
            gs.train(model or fitted(SMALL, self.source).build(), self.source, train, quiet=True)

    def test_vocabularies_that_do_not_match(self):
        self.refuse("has 30 source ids, but the pairs' vocabulary has 14", SMALL.replace(source=30, target=14).build())

    def test_pairs_longer_than_the_positions(self):
        short = SMALL.replace(positions=Learned(longest=4))
        self.refuse("the longest source has 6 ids, but the transformer 4 positions", fitted(short, self.source).build())

    def test_one_side_alone(self):
        for side in ("encoder", "decoder"):
            self.refuse(f"{side}_layers = 0", fitted(SMALL.replace(**{f"{side}_layers": 0}), self.source).build())

    def test_batches_that_are_no_buckets(self):
        self.refuse("batch = 40 must be a multiple", batch=40)

    def test_another_optimizer(self):
        self.refuse("trained with Adam or Muon, not with 'sgd'", optimizer=SGD(), learning_rate=0.1)

    def test_rows_that_are_no_pairs(self):
        model = Transformer(SMALL.replace(source=14, target=14))
        with pytest.raises(ValueError, match="learns from pairs of sequences, not from Arrays"):
            gs.train(model, gs.Arrays(torch.randn(100, 8)), TrainSpec(rows=64, batch=32), quiet=True)

    def test_both_kinds_at_once(self):
        sae = gs.preset("topk", input_width=8, latents=16, l0=2).build()
        self.refuse("the autoencoder reads site ''", [sae, fitted(SMALL, self.source).build()])
        with pytest.raises(ValueError, match="autoencoders or transformers"):
            Recipe(out="x", source=CmudictSpec(), transformer=(SMALL,), autoencoder=(sae.spec,))

    def test_measuring_what_is_no_run_of_pairs(self, tmp_path: Path):
        x = torch.randn(200, 8)
        gs.train(
            gs.preset("topk", input_width=8, latents=16, l0=2).build(),
            gs.Arrays(x),
            TrainSpec(rows=64, batch=32),
            out=tmp_path / "run",
            quiet=True,
        )
        with pytest.raises(ValueError, match="no run of a transformer on pairs"):
            evaluate_translations(tmp_path / "run")

    def test_texts_in_an_unknown_vocabulary(self):
        with pytest.raises(ValueError, match="'b'"):
            Pairs([Pair("b", "c", 0)], source=Words(tokens=("a",)), target=DIGITS)
