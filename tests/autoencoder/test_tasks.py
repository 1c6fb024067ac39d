"""A task says what the encoder reads, what is given back, and what that is judged by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.tasks import Crosscode, CrossLayer, EndToEnd, Reconstruct, Task, Transcode
from gossamer.autoencoder.trace import Moment

SITES = {name: torch.full((4, width), float(width)) for name, width in (("a", 2), ("b", 3), ("c", 5))}


class TestRows:
    @pytest.mark.parametrize(
        ("task", "reads", "gives"),
        [
            (Reconstruct(site="b"), ["b"], ["b"]),
            (Transcode(site="a", target="c", width=5), ["a"], ["c"]),
            (Crosscode(sites=("c", "a"), widths=(5, 2)), ["c", "a"], ["c", "a"]),
            (CrossLayer(sites=("a", "b"), destinations=("b", "c"), width=3), ["a", "b"], ["b", "c"]),
            (EndToEnd(site="b"), ["b"], ["b"]),
        ],
    )
    def test_are_the_sites_side_by_side(self, task: Task, reads: list[str], gives: list[str]):
        x, target = task.rows(SITES)
        assert torch.equal(x, torch.cat([SITES[site] for site in reads], dim=1))
        assert torch.equal(target, torch.cat([SITES[site] for site in gives], dim=1))
        assert (task.inputs, task.targets) == (tuple(reads), tuple(gives))
        assert task.same_rows == (reads == gives)

    def test_of_one_site_need_no_name(self):
        assert torch.equal(Reconstruct().rows({"only": SITES["a"]})[0], SITES["a"])

    @pytest.mark.parametrize("task", [Reconstruct(), Reconstruct(site="z"), Transcode(site="a", target="z")])
    def test_of_a_site_that_is_not_there_are_refused_with_those_that_are(self, task: Task):
        with pytest.raises(ValueError, match=r"reads site '.?', but the rows are of 'a', 'b', 'c'"):
            task.rows(SITES)

    def test_widths_of_targets(self):
        assert Reconstruct().output_width(7) == 7
        assert Transcode(site="a", target="b").output_width(7) == 7
        assert Transcode(site="a", target="b", width=3).output_width(7) == 3
        assert CrossLayer(sites=("a", "b"), destinations=("c", "d"), width=5).output_width(6) == 10

    def test_the_objective_is_the_loss_of_those_rows(self, rows: Tensor, targets: Tensor):
        sae = preset("transcoder", input_width=24, latents=96, site="in", target="out", l0=6).build(seed=0)
        objective = sae.spec.task.bind(object())
        loss = objective(sae, {"in": rows, "out": targets, "other": rows}, Moment())
        assert loss.total.item() == sae.loss(rows, targets).total.item()


@dataclass
class Output:
    logits: Tensor
    targets: Tensor
    later: dict[str, Tensor]


class Model:
    """Two layers after the site, in float64: the rows, what a later site has, and logits over 11 words."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = (
            torch.randn(shape, generator=generator, dtype=torch.float64) / 5 for shape in ((24, 13), (13, 11))
        )
        self.next = torch.randint(11, (300,), generator=generator)

    def of(self, x: Tensor) -> Output:
        later = torch.tanh(x @ self.first)
        return Output(later @ self.second, self.next[: len(x)], {"later": later})

    def run(
        self,
        rows: Mapping[str, Tensor],
        site: str,
        change: Callable[[Tensor], Tensor] | None,
        later: Sequence[str],
    ) -> Output:
        return self.of(rows[site] if change is None else change(rows[site]))


@pytest.mark.parametrize("judge", ["kl", "cross-entropy"])
@pytest.mark.parametrize("later", [(), ("later",)])
@pytest.mark.parametrize("dense", [False, True])
class TestEndToEnd:
    @pytest.fixture
    def sae(self, judge: str, later: tuple[str, ...], rows: Tensor) -> SparseAutoencoder:
        spec = preset("vanilla-l1", input_width=24, latents=96, l1=0.25)
        sae = spec.replace(task=EndToEnd(site="in", judge=judge, later=later, downstream=0.5)).build(seed=0).double()
        sae.scaler.set(rows.double().mean(dim=0), torch.tensor(0.7))
        return sae

    def test_is_what_the_model_says_with_the_reconstruction_in_place(
        self, sae: SparseAutoencoder, judge: str, later: tuple[str, ...], dense: bool, rows: Tensor
    ):
        model, x = Model(), rows.double()
        loss = sae.spec.task.bind(model)(sae, {"in": x}, Moment(dense=dense))
        clean, spliced = model.of(x), model.of(sae(x).reconstruction)
        said, wanted = spliced.logits.softmax(dim=1), clean.logits.softmax(dim=1)
        expected = {
            "kl": (wanted * (wanted.log() - said.log())).sum(dim=1).mean(),
            "cross-entropy": -said[torch.arange(300), model.next].log().mean(),
        }
        terms = {judge: expected[judge]}
        if later:
            gap = (spliced.later["later"] - clean.later["later"]).square().sum()
            spread = (clean.later["later"] - clean.later["later"].mean(dim=0)).square().sum()
            terms["downstream"] = 0.5 * gap / spread
        codes = sae.encode(x).to_dense() * 0.7
        terms["l1"] = 0.25 * (codes * sae.decoder.norms()).sum(dim=1).mean()
        assert loss.terms.keys() == terms.keys()
        for name, term in terms.items():
            assert loss.terms[name].item() == pytest.approx(term.item(), rel=1e-5), name
        parameters = list(sae.parameters())
        exact = torch.autograd.grad(torch.stack(list(terms.values())).sum(), parameters)
        for got, right in zip(torch.autograd.grad(loss.total, parameters), exact, strict=True):
            assert (got - right).norm() <= 1e-5 * right.norm()

    def test_needs_a_source_with_a_model(self, sae: SparseAutoencoder, judge: str, later: tuple[str, ...], dense: bool):
        with pytest.raises(ValueError, match="has no model to run; use a source of kind 'model'"):
            sae.spec.task.bind(object())
