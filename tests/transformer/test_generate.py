"""Generation: caches change nothing, beams find the best, drawing draws what it says, padding does not matter."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from gossamer.transformer import Decoding, Transformer
from gossamer.transformer.generate import _Beams, generate_jointly
from gossamer.transformer.steps import NEVER, Steps
from gossamer.transformer.vocabulary import END, PAD, START
from tests.transformer.conftest import SOURCE, TARGET, lively, sequences, sources_of, spec_of


@pytest.fixture(autouse=True, params=["modules", "compiled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All of it by modules, as for short work and on GPUs, and by compiled loops."""
    monkeypatch.setattr("gossamer.transformer.generate.WORTH", 1 if request.param == "compiled" else 10**9)
    return request.param


@torch.no_grad()
def greedy(model: Transformer, source: Tensor | None, rows: int, longest: int, prompt: Tensor | None = None) -> Tensor:
    """The likeliest id at each step, by a whole forward pass for each: what generation is to equal."""
    ids = model.start(rows) if prompt is None else prompt
    ended = torch.zeros(rows, dtype=torch.bool)
    for _ in range(longest):
        logits = model(source, ids)[:, -1]
        logits[:, NEVER] = -torch.inf  # never said
        chosen = logits.argmax(dim=1)
        chosen = torch.where(ended, PAD, chosen)
        ended |= chosen == END
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    return ids[:, 1 if prompt is None else prompt.shape[1] :]


def test_generation_with_caches_equals_whole_forward_passes(model: Transformer):
    source = sources_of(model, 6)
    rows = 1 if source is None else 6
    made = model.generate(source, longest=20)
    expected = greedy(model, source, rows, 20)
    assert torch.equal(made.ids[:, 0], expected)
    assert len(set(map(tuple, expected.tolist()))) >= min(rows, 2), "all rows say the same: the test shows nothing"


def test_log_probabilities_are_those_of_the_forward_pass(model: Transformer):
    source = sources_of(model, 6)
    rows = 1 if source is None else 6
    for options in ({}, {"beam": 3}, {"temperature": 1.0, "seed": 5}):
        made = model.generate(source, longest=8, **options)
        target = torch.cat([model.start(rows), made.ids[:, 0]], dim=1)
        with torch.no_grad():
            assert_close(made.log_probabilities[:, 0], model.log_likelihood(source, target), rtol=1e-5, atol=1e-5)


def test_a_beam_of_one_is_greedy(model: Transformer):
    source = sources_of(model, 6)
    rows = 1 if source is None else 6
    with torch.no_grad():
        steps = Steps(model, source, batch=rows, longest=21)
        made = _Beams(steps, model.start(rows), Decoding(longest=20, beam=1)).search()
    assert torch.equal(made.ids, model.generate(source, longest=20).ids)


@torch.no_grad()
def test_models_together_say_what_is_likeliest_in_the_mean_of_their_probabilities():
    """Each reads sources of its own, here one of them with ids and lengths that the other does not know."""
    models = [lively(spec_of()), lively(spec_of(source=SOURCE + 5, encoder_layers=1), seed=8)]
    sources = [sequences(6, SOURCE, seed=1), sequences(6, SOURCE + 5, seed=2).repeat(1, 2)]
    made = generate_jointly(models, sources, None, Decoding(longest=12))
    ids, total = models[0].start(6), torch.zeros(6, dtype=torch.float64)
    ended = torch.zeros(6, dtype=torch.bool)
    for _ in range(12):
        pairs = zip(models, sources, strict=True)
        mean = torch.stack([model(source, ids)[:, -1].double().softmax(dim=1) for model, source in pairs]).mean(dim=0)
        mean[:, NEVER] = 0
        best, chosen = mean.max(dim=1)
        total += best.log().masked_fill(ended, 0)
        ids = torch.cat([ids, chosen.masked_fill(ended, PAD)[:, None]], dim=1)
        ended |= chosen == END
    assert torch.equal(made.ids[:, 0], ids[:, 1:])
    assert_close(made.log_probabilities[:, 0], total, rtol=1e-5, atol=1e-5)
    alone = [model.generate(source, longest=12).ids for model, source in zip(models, sources, strict=True)]
    assert not any(torch.equal(made.ids, one) for one in alone), "both say the same: the test shows nothing"


def test_a_model_together_with_itself_says_what_it_says_alone():
    model, source = lively(spec_of()), sequences(6, SOURCE, seed=1)
    for options in ({}, {"beam": 3}, {"temperature": 0.7, "seed": 3}):
        alone = model.generate(source, longest=10, **options)
        twice = generate_jointly([model, model], [source, source], None, Decoding(longest=10, **options))
        assert torch.equal(twice.ids, alone.ids)
        assert_close(twice.scores, alone.scores, rtol=1e-5, atol=1e-5)


def test_models_that_cannot_speak_together_are_refused():
    model, source = lively(spec_of()), sequences(6, SOURCE, seed=1)
    with pytest.raises(ValueError, match="one target vocabulary, one device, and a source for each row"):
        generate_jointly([model, lively(spec_of(target=7))], [source, source], None, Decoding())
    with pytest.raises(ValueError, match="one target vocabulary, one device, and a source for each row"):
        generate_jointly([model, model], [source, source[:5]], None, Decoding())


@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0])
def test_a_beam_as_wide_as_all_targets_finds_the_best_of_them(penalty: float):
    """Every target of up to three ids of a small vocabulary is tried."""
    model = lively(spec_of(target=7))
    source = sequences(4, SOURCE, seed=9)
    made = model.generate(source, longest=3, beam=7, length_penalty=penalty)
    ids = [index for index in range(7) if index not in (*NEVER, END)]
    ends = [(*said, END) for length in (0, 1, 2) for said in itertools.product(ids, repeat=length)]
    candidates = [*ends, *itertools.product(ids, repeat=3)]
    best = []
    for row in range(4):
        padded = torch.tensor([[START, *said, *[PAD] * (3 - len(said))] for said in candidates])
        with torch.no_grad():
            likely = model.log_likelihood(source[row : row + 1].expand(len(candidates), -1), padded)
        lengths = torch.tensor([len(said) for said in candidates], dtype=torch.float64)
        scores = likely / ((5 + lengths) / 6) ** penalty
        best.append(candidates[int(scores.argmax())])
        assert_close(made.scores[row, 0], scores.max(), rtol=1e-5, atol=1e-5)
    said = [tuple(index for index in row if index != PAD) for row in made.ids[:, 0].tolist()]
    assert said == best
    assert torch.equal(made.scores, made.scores.sort(dim=1, descending=True).values), "hypotheses are not in order"


def test_stopping_early_changes_nothing(model: Transformer, monkeypatch: pytest.MonkeyPatch):
    source = sources_of(model, 6)
    fast = model.generate(source, longest=12, beam=4)
    monkeypatch.setattr(_Beams, "_undecided", lambda beams: torch.ones_like(beams.alive, dtype=torch.bool))
    slow = model.generate(source, longest=12, beam=4)
    assert torch.equal(fast.ids[:, 0], slow.ids[:, 0])


def test_a_wider_beam_is_never_less_likely_on_average():
    model = lively(spec_of())
    source = sequences(40, SOURCE, seed=5)
    totals = [model.generate(source, longest=10, beam=beam, length_penalty=0).scores[:, 0].mean() for beam in (1, 2, 6)]
    assert totals == sorted(totals)
    assert totals[0] < totals[2]


@pytest.mark.parametrize("options", [{}, {"beam": 3}], ids=["greedy", "beam"])
def test_padding_and_the_other_rows_of_a_batch_change_nothing(options: dict):
    model = lively(spec_of())
    source = sequences(6, SOURCE, seed=3)
    together = model.generate(source, longest=10, **options)
    wide = torch.cat([source, torch.full((6, 5), PAD)], dim=1)
    assert torch.equal(model.generate(wide, longest=10, **options).ids, together.ids)
    for row in range(6):
        length = int((source[row] != PAD).sum())
        alone = model.generate(source[row : row + 1, :length], longest=10, **options)
        assert alone.best()[0] == together.best()[row]
    with torch.no_grad():
        target = sequences(6, TARGET, seed=4, start=True)
        logits = model(source, target)
        length = int((source[2] != PAD).sum())
        assert_close(model(source[2:3, :length], target[2:3]), logits[2:3], rtol=1e-5, atol=1e-5)
        assert_close(model(wide, target), logits, rtol=1e-5, atol=1e-5)


def test_prompts_of_different_lengths_go_on_as_if_each_were_alone():
    model = lively(spec_of("decoder-only"))
    prompts = torch.tensor([[START, 5, 6, 7], [START, 8, PAD, PAD], [START, 9, 10, PAD]])
    made = model.generate(prompt=prompts, longest=6)
    for row, length in enumerate((4, 2, 3)):
        alone = model.generate(prompt=prompts[row : row + 1, :length], longest=6)
        assert made.best()[row] == alone.best()[0]
        assert_close(made.log_probabilities[row], alone.log_probabilities[0], rtol=1e-5, atol=1e-6)
        expected = greedy(model, None, 1, 6, prompts[row : row + 1, :length])[0].tolist()
        assert alone.best()[0] == [index for index in expected if index not in (END, PAD)]


def test_drawing_draws_what_it_says():
    model = lively(spec_of())
    source = sequences(1, SOURCE, seed=3).expand(4000, -1)
    with torch.no_grad():
        logits = model(source[:1], model.start(1))[0, 0]
        logits[NEVER] = -torch.inf

    def drawn(**options: float) -> Tensor:
        ids = model.generate(source, longest=1, **options).ids[:, 0, 0]
        return ids.bincount(minlength=TARGET) / len(ids)

    for temperature in (1.0, 2.5):
        expected = (logits / temperature).softmax(dim=0)
        assert (drawn(temperature=temperature) - expected).abs().max() < 0.035
    order = logits.argsort(descending=True)
    assert set(drawn(top_k=3, temperature=9.0).nonzero()[:, 0].tolist()) == set(order[:3].tolist())
    sorted_shares = logits[order].softmax(dim=0)
    kept = int((sorted_shares.cumsum(dim=0) - sorted_shares < 0.6).sum())
    assert set(drawn(top_p=0.6).nonzero()[:, 0].tolist()) == set(order[:kept].tolist())
    assert torch.equal(drawn(top_k=1), drawn(top_p=1e-6))
    assert drawn(top_k=1)[order[0]] == 1
    assert torch.equal(drawn(temperature=1.0, seed=3), drawn(temperature=1.0, seed=3))
    assert not torch.equal(drawn(temperature=1.0, seed=3), drawn(temperature=1.0, seed=4))


def test_generating_leaves_the_mode_of_the_model_as_it_was():
    model = lively(spec_of()).train()
    model.generate(sequences(2, SOURCE, seed=1), longest=2)
    assert model.training
    assert model.encoder.layers[0].training


class TestRefusals:
    model = lively(spec_of())
    source = sequences(2, SOURCE, seed=1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"beam": TARGET + 1}, f"beam of {TARGET + 1} is larger than the target's vocabulary of {TARGET}"),
            ({"beam": 0}, "beam must be at least 1"),
            ({"longest": 0}, "longest must be at least 1"),
            ({"longest": 2000}, "longer than the table of 1024 positions"),
            ({"beam": 2, "top_k": 3}, "give one of the two"),
            ({"temperature": 0.0}, "temperature must be above 0"),
            ({"top_p": 1.5}, "top_p is a probability"),
            ({"prompt": torch.tensor([[START, TARGET]] * 2)}, f"target holds id {TARGET}, but its vocabulary has ids"),
            ({"length_penalty": -1.0}, "length_penalty must not be negative"),
        ],
    )
    def test_options(self, options: dict, message: str):
        with pytest.raises(ValueError, match=message):
            self.model.generate(self.source, **options)

    def test_sources(self):
        for source, message in (
            (None, "a source is missing"),
            (torch.zeros(2, 0, dtype=torch.int64), "the source is empty"),
            (torch.full((1, 3), SOURCE), f"holds id {SOURCE}, but its vocabulary has ids 0 … {SOURCE - 1}"),
            (torch.full((1, 3), -1), "holds id -1"),
            (torch.ones(1, 3), "integer ids"),
            (torch.ones(3, dtype=torch.int64), "integer ids of shape"),
            (torch.full((1, 1025), 4), "a sequence of 1025 is longer than the table of 1024"),
        ):
            with pytest.raises(ValueError, match=message):
                self.model.generate(source)

    def test_a_side_that_is_not_there(self):
        with pytest.raises(ValueError, match="there is no encoder"):
            lively(spec_of("decoder-only")).generate(self.source)
        encoder = lively(spec_of(decoder_layers=0))
        assert encoder(self.source).shape == (2, 9, 24)
        with pytest.raises(ValueError, match="no decoder"):
            encoder.generate(self.source)
        for measure in (encoder.loss, encoder.log_likelihood):
            with pytest.raises(ValueError, match="no decoder"):
                measure(self.source, torch.tensor([[START, 4, END]] * 2))
        with pytest.raises(ValueError, match="the target is missing"):
            self.model(self.source)
        with pytest.raises(ValueError, match="3 prompts"):
            self.model.generate(self.source, prompt=self.model.start(3))
        with pytest.raises(ValueError, match="prompts of one length"):
            self.model.generate(self.source, prompt=torch.tensor([[START, 4], [START, PAD]]), beam=2)
