"""What a model loses to a reconstruction is what one gets by hand, and the model is left as it was found."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.nn.functional import kl_div

from gossamer.autoencoder.autoencoder import Output, SparseAutoencoder
from gossamer.autoencoder.presets import preset
from gossamer.codes import SparseCodes
from gossamer.evaluate.language_model import (
    LanguageModelScore,
    cross_entropy,
    is_language_model,
    kl_divergence,
    loss_recovered,
    splice,
)
from gossamer.sources.activations import Activations

transformers = pytest.importorskip("transformers")

VOCABULARY, WIDTH, SITE = 50, 16, "model.layers.0"


def logits(rows: int, seed: int, *, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


class TestCrossEntropy:
    def test_knows_the_answer_by_hand(self):
        uniform, sure = torch.zeros(1, 8), torch.tensor([[0.0, math.log(3)]])
        assert cross_entropy(uniform, torch.tensor([5])).item() == pytest.approx(math.log(8))
        assert cross_entropy(sure, torch.tensor([1])).item() == pytest.approx(math.log(4 / 3))

    @given(st.integers(0, 20), st.integers(0, 99))
    def test_is_that_of_torch_in_float64(self, rows: int, seed: int):
        x, targets = logits(rows, seed), torch.arange(rows) % VOCABULARY
        got = cross_entropy(x, targets)
        assert got.dtype == torch.float64
        expected = torch_cross_entropy(x.double(), targets, reduction="none")
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)

    @given(st.floats(-1e3, 1e3))
    def test_does_not_change_when_all_logits_move(self, shift: float):
        targets = torch.arange(5)
        torch.testing.assert_close(
            cross_entropy(logits(5, 0) + shift, targets), cross_entropy(logits(5, 0), targets), rtol=1e-3, atol=1e-3
        )

    def test_extreme_logits_give_numbers(self):
        x = torch.tensor([[1e4, 0.0, -1e4]]).expand(3, 3)
        assert cross_entropy(x, torch.arange(3)).tolist() == [0, 1e4, 2e4]

    def test_half_precision_logits_are_summed_in_float32(self):
        x = logits(9, 0).bfloat16()
        torch.testing.assert_close(cross_entropy(x, torch.arange(9)), cross_entropy(x.float(), torch.arange(9)))


class TestKL:
    @given(st.integers(0, 99))
    def test_is_that_of_torch_and_of_scipy_in_float64(self, seed: int):
        special = pytest.importorskip("scipy.special")
        x, other = logits(7, seed), logits(7, seed + 1)
        got = kl_divergence(x, other)
        assert got.dtype == torch.float64
        log_p, log_q = (t.double().log_softmax(dim=-1) for t in (x, other))
        expected = kl_div(log_q, log_p, log_target=True, reduction="none").sum(dim=-1)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        by_scipy = special.rel_entr(log_p.exp().numpy(), log_q.exp().numpy()).sum(axis=-1)
        np.testing.assert_allclose(got.numpy(), by_scipy, rtol=1e-5, atol=1e-5)

    def test_is_taken_from_the_first_to_the_second(self):
        p, q = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
        by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
        assert kl_divergence(p, q).item() == pytest.approx(by_hand)
        assert kl_divergence(q, p).item() != pytest.approx(by_hand)

    @given(st.integers(0, 99), st.sampled_from([0.1, 3.0, 1e4]))
    def test_of_the_same_logits_is_zero(self, seed: int, spread: float):
        x = logits(7, seed, spread=spread)
        assert kl_divergence(x, x.clone()).tolist() == [0.0] * 7

    @given(st.integers(0, 99))
    def test_is_not_negative(self, seed: int):
        x = logits(7, seed)
        assert kl_divergence(x, x + 1e-3 * logits(7, seed + 1)).min() > -1e-6
        assert kl_divergence(x, logits(7, seed + 1)).min() > 0

    def test_logits_far_apart_give_numbers(self):
        x = torch.tensor([[1e4, -1e4]])
        assert kl_divergence(x, -x).item() == pytest.approx(2e4)

    def test_words_that_a_model_rules_out_count_nothing(self):
        """0 · log 0 = 0: some models set the logits of unused words to −∞."""
        x, other = logits(3, 0), logits(3, 1)
        for t in (x, other):
            t[:, 40:] = -math.inf
        torch.testing.assert_close(kl_divergence(x, other), kl_divergence(x[:, :40], other[:, :40]))


class TestLossRecovered:
    @given(st.floats(0, 10), st.floats(0.1, 10), st.floats(-2, 3))
    def test_is_the_share_of_the_way_back(self, clean: float, cost: float, share: float):
        ablated = clean + cost
        spliced = ablated + share * (clean - ablated)
        recovered = loss_recovered(clean=clean, spliced=spliced, ablated=ablated)
        assert recovered == pytest.approx(share, abs=1e-9)

    def test_known_answers(self):
        assert loss_recovered(clean=2.0, spliced=2.0, ablated=5.0) == 1
        assert loss_recovered(clean=2.0, spliced=5.0, ablated=5.0) == 0
        assert loss_recovered(clean=2.0, spliced=8.0, ablated=5.0) == -1
        assert math.isnan(loss_recovered(clean=2.0, spliced=2.0, ablated=2.0))


class Letters:
    """The least that a source asks of a tokenizer: one token per letter, 0 ends a text, 1 begins one."""

    eos_token_id, sep_token_id, all_special_ids = 0, None, (0, 1)

    def __call__(
        self,
        texts: list[str],
        *,
        add_special_tokens: bool,
        truncation: bool,
        max_length: int | None = None,
        **_: Any,
    ) -> dict[str, list[list[int]]]:
        begin = [1] if add_special_tokens else []
        ids = [begin + [2 + ord(letter) % (VOCABULARY - 2) for letter in text] for text in texts]
        return {"input_ids": [i[:max_length] if truncation else i for i in ids]}


class Stand(SparseAutoencoder):
    """Something in the place of an autoencoder: any function of rows."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(preset("topk", input_width=WIDTH, latents=3, l0=1))
        self.function = function

    def forward(self, x: Tensor) -> Output:
        return Output(self.function(x), SparseCodes.from_dense(torch.zeros(len(x), 3)))


@pytest.fixture(scope="module")
def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_dropout=0.5,
        bos_token_id=1,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)  # opinions strong enough to lose something
    return model


@pytest.fixture
def llama(_llama: nn.Module) -> nn.Module:
    return _llama.eval()


@pytest.fixture(params=["packed", "truncated"])
def source(request: pytest.FixtureRequest, llama: nn.Module) -> Activations:
    """Windows of different lengths, more of them than go into one pass."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps"]
    texts = [" ".join(words[start : start + 1 + start % 4]) for start in range(9)] + ["and then it sleeps"] * 2
    return Activations(llama, Letters(), hook=SITE, texts=texts, context=13, layout=request.param, validation=0.2)


def windows_of(source: Activations) -> np.ndarray:
    return source.windows.train


def score_by(source: Activations, sae: SparseAutoencoder, mean: Tensor | None = None) -> LanguageModelScore:
    mean = torch.zeros(WIDTH) if mean is None else mean
    return splice(sae, source, mean=mean, windows=windows_of(source), site=SITE)


@torch.no_grad()
def by_hand(source: Activations, row: Callable[[Tensor], Tensor] | None) -> list[tuple[Tensor, int]]:
    """Return logits and next token of every counted prediction, window by window, without padding."""
    found = []
    for window in windows_of(source):
        tokens = source.windows.batch(np.array([window]))
        keep = torch.from_numpy(tokens.keep)

        def change(module: nn.Module, arguments: object, output: Tensor, keep: Tensor = keep) -> Tensor:
            changed = output.clone()
            for place in keep.nonzero().tolist():
                changed[tuple(place)] = output[tuple(place)] if row is None else row(output[tuple(place)])
            return changed

        handle = source.model.get_submodule(SITE).register_forward_hook(change)
        out = source.model(input_ids=torch.from_numpy(tokens.ids).long(), use_cache=False).logits[0]
        handle.remove()
        length = tokens.ids.shape[1]
        found += [(out[i], int(tokens.ids[0, i + 1])) for i in range(length - 1) if tokens.keep[0, i]]
    return found


def loss_by_hand(source: Activations, row: Callable[[Tensor], Tensor] | None) -> float:
    found = by_hand(source, row)
    losses = [-out.double().log_softmax(dim=-1)[target].item() for out, target in found]
    return sum(losses) / len(losses)


class TestSplice:
    def test_what_changes_nothing_costs_nothing(self, source: Activations):
        score = score_by(source, Stand(lambda x: x))
        assert score.spliced == score.clean
        assert score.kl == 0
        assert score.recovered_from_zero == score.recovered_from_mean == 1

    def test_every_figure_is_that_of_hand_made_hooks(self, source: Activations):
        mean = torch.linspace(-1, 1, WIDTH)
        score = score_by(source, Stand(lambda x: 0.5 * x + 1), mean)
        expected = {
            "clean": loss_by_hand(source, None),
            "spliced": loss_by_hand(source, lambda x: 0.5 * x + 1),
            "zero": loss_by_hand(source, torch.zeros_like),
            "mean": loss_by_hand(source, lambda x: mean),
        }
        got = asdict(score)
        for name, loss in expected.items():
            assert got[name] == pytest.approx(loss, rel=1e-5), name
        assert len(set(expected.values())) == 4
        pairs = zip(by_hand(source, None), by_hand(source, lambda x: 0.5 * x + 1), strict=True)
        kl = [
            kl_div(q.double().log_softmax(-1), p.double().log_softmax(-1), log_target=True, reduction="sum")
            for (p, _), (q, _) in pairs
        ]
        assert score.kl == pytest.approx(torch.stack(kl).mean().item(), rel=1e-4)
        assert score.predictions == len(kl)
        for name in ("zero", "mean"):
            recovered = (expected[name] - expected["spliced"]) / (expected[name] - expected["clean"])
            assert got[f"recovered_from_{name}"] == pytest.approx(recovered, rel=1e-3)

    def test_zero_and_mean_recover_nothing_of_themselves(self, source: Activations):
        mean = torch.linspace(-1, 1, WIDTH)
        assert score_by(source, Stand(torch.zeros_like)).recovered_from_zero == pytest.approx(0, abs=1e-6)
        stand = Stand(lambda x: mean.expand_as(x))
        assert score_by(source, stand, mean).recovered_from_mean == pytest.approx(0, abs=1e-6)

    def test_only_kept_positions_reach_the_autoencoder(self, source: Activations):
        seen = []
        score_by(source, Stand(lambda x: seen.append(len(x)) or x))
        assert sum(seen) == source.windows.count(windows_of(source))
        assert len(seen) == math.ceil(len(windows_of(source)) / 4) > 1

    def test_takes_a_real_autoencoder(self, source: Activations):
        sae = preset("topk", input_width=WIDTH, latents=64, l0=4).build()
        score = score_by(source, sae)
        assert all(math.isfinite(figure) for figure in asdict(score).values())
        assert score.kl > 0

    def test_no_windows_have_no_answer(self, source: Activations):
        score = splice(
            preset("topk", input_width=WIDTH, latents=64, l0=4).build(),
            source,
            mean=torch.zeros(WIDTH),
            windows=np.zeros(0, dtype=np.int64),
            site=SITE,
        )
        assert score.predictions == 0
        assert math.isnan(score.clean)
        assert math.isnan(score.recovered_from_zero)

    def test_dropout_plays_no_part(self, source: Activations):
        """A model that was left in training mode is measured as it predicts, and left in training mode."""
        expected = score_by(source, Stand(lambda x: x))
        source.model.train()
        assert score_by(source, Stand(lambda x: x)) == expected
        assert source.model.training


class TestTheModelAfterwards:
    def state(self, model: nn.Module) -> list[object]:
        hooks = [len(module._forward_hooks) for module in model.modules()]
        return [*hooks, *(p.requires_grad for p in model.parameters()), *(p.grad for p in model.parameters())]

    def test_has_no_hooks_and_no_gradients(self, source: Activations):
        before = self.state(source.model)
        score_by(source, Stand(lambda x: x))
        assert self.state(source.model) == before
        assert not any(module._forward_hooks for module in source.model.modules())

    @pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
    def test_has_no_hooks_when_the_autoencoder_raised(self, source: Activations, exception: type[BaseException]):
        def fail(x: Tensor) -> Tensor:
            raise exception

        with pytest.raises(exception):
            score_by(source, Stand(fail))
        assert not any(module._forward_hooks for module in source.model.modules())
        assert score_by(source, Stand(lambda x: x)).kl == 0

    def test_has_no_hooks_when_the_reconstruction_does_not_fit(self, source: Activations):
        with pytest.raises((ValueError, RuntimeError)):
            score_by(source, Stand(lambda x: x[:, :-1]))
        assert not any(module._forward_hooks for module in source.model.modules())


def test_a_language_model_is_what_predicts_the_next_token(llama: nn.Module):
    assert is_language_model(llama)
    assert not is_language_model(llama.get_submodule("model"))
    assert not is_language_model(nn.Linear(2, 2))
    assert not is_language_model(nn.Sequential(llama))
