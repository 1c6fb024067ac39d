"""Dead latents come back, at the right time and without harm to the living; corrupted rows leave the target clean."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gossamer.autoencoder.autoencoder import AutoencoderSpec, SparseAutoencoder
from gossamer.autoencoder.auxiliaries import Auxiliary, AuxK, PreActivationLoss, Resample
from gossamer.autoencoder.corruption import Clean, Corruption, Gaussian, KeepLargest, Mask
from gossamer.autoencoder.initialise import start_from_data
from gossamer.autoencoder.presets import preset
from gossamer.autoencoder.sparsity import BatchTopK, JumpReLU, ReLU, Sparsity, TopK
from gossamer.autoencoder.trace import Moment, traced

DEAD = torch.tensor([3, 50, 51, 95])


def built(sparsity: Sparsity, rows: Tensor, *auxiliaries: Auxiliary) -> SparseAutoencoder:
    """In float64, started from the rows, decoder rows of norms that differ."""
    sae = AutoencoderSpec(input_width=24, latents=96, sparsity=sparsity, auxiliaries=auxiliaries).build(seed=1).double()
    start_from_data(sae, rows)
    with torch.no_grad():
        sae.decoder.get_parameter("weight").mul_(torch.linspace(0.5, 2, 96)[:, None])
        sae.decoder.bias.add_(0.1)
    return sae


class TestPreActivationLoss:
    @pytest.mark.parametrize("dense", [False, True])
    @pytest.mark.parametrize(
        ("sparsity", "floor"), [(ReLU(), 0.0), (JumpReLU(threshold=0.7), 0.7)], ids=["relu", "jumprelu"]
    )
    def test_is_what_the_dead_lack_in_value_and_all_gradients(
        self, rows: Tensor, sparsity: Sparsity, floor: float, dense: bool
    ):
        sae = built(sparsity, rows, PreActivationLoss(weight=0.5))
        loss = sae.loss(rows, moment=Moment(dead=DEAD, dense=dense))
        wanted = dict(sae.named_parameters())
        without = sae.loss(rows, moment=Moment(dense=dense)).total
        found = torch.autograd.grad(loss.total - without, list(wanted.values()), materialize_grads=True)

        leaves = {name: p.detach().clone().requires_grad_() for name, p in wanted.items()}
        theta = leaves["sparsity.log_threshold"].exp() if "sparsity.log_threshold" in leaves else torch.zeros(96)
        x = sae.scaler(rows.double())
        lacking = (theta - (x @ leaves["encoder.weight"].T + leaves["encoder.bias"])).relu()
        cost = 0.5 * (lacking * leaves["decoder.weight"].norm(dim=1))[:, DEAD].sum(dim=1).mean()
        assert loss.terms["pre-activation"].item() == pytest.approx(cost.item())
        exact = torch.autograd.grad(cost, list(leaves.values()), materialize_grads=True, allow_unused=True)
        for name, got, right in zip(wanted, found, exact, strict=True):
            torch.testing.assert_close(got, right, rtol=1e-6, atol=1e-10, msg=name)
        assert sae.sparsity.floor(DEAD).tolist() == pytest.approx([floor] * 4)

    def test_of_none_dead_is_zero(self, rows: Tensor):
        sae = built(ReLU(), rows, PreActivationLoss())
        for dead in (None, torch.zeros(0, dtype=torch.int64)):
            loss = sae.loss(rows, moment=Moment(dead=dead))
            assert loss.terms.get("pre-activation", torch.zeros(())).item() == 0
            loss.total.backward()

    def test_revives(self, rows: Tensor):
        sae = built(JumpReLU(threshold=0.5), rows, PreActivationLoss(weight=1e-2))
        with torch.no_grad():
            sae.encoder.get_parameter("bias")[:48] -= 10
        dead, optimizer = torch.arange(48), torch.optim.Adam(sae.parameters(), lr=0.1)
        assert not sae.encode(rows).to_dense()[:, :48].any()
        for _ in range(120):
            optimizer.zero_grad()
            sae.loss(rows, moment=Moment(dead=dead)).total.backward()
            sae.decoder.before_step()
            optimizer.step()
            sae.decoder.after_step()
        assert sae.encode(rows).to_dense()[:, :48].any(dim=0).sum() > 20


class TestResample:
    @pytest.fixture
    def sae(self, rows: Tensor) -> SparseAutoencoder:
        return built(TopK(k=6), rows, Resample())

    @given(st.integers(1, 9), st.floats(0.05, 1), st.integers(1, 400))
    def test_is_due_so_often_at_equal_distances_and_then_no_more(self, times: int, until: float, steps: int):
        resample = Resample(times=times, until=until)
        due = [step + 1 for step in range(steps) if resample.due((step + 1) / steps, step / steps)]
        expected = {-(-round(steps * until * n * 1e6) // (times * 10**6)) for n in range(1, times + 1)}
        assert len(due) <= times
        assert all(min(abs(step - right) for right in expected) <= 1 for step in due)
        if steps * until / times > 2:
            assert len(due) == times
        assert max(due) <= steps * until + 1

    def test_knows_the_answer_by_hand(self):
        due = [step + 1 for step in range(100) if Resample().due((step + 1) / 100, step / 100)]
        assert due == [18, 35, 53, 70]

    def test_dead_rows_become_directions_of_data_and_the_living_stay(self, sae: SparseAutoencoder, rows: Tensor):
        torch.manual_seed(0)
        weights = {name: p.detach().clone() for name, p in sae.named_parameters()}
        alive = torch.ones(96, dtype=torch.bool).index_fill(0, DEAD, False)
        sae.spec.auxiliaries[0].revive(sae, rows.double(), DEAD)
        after = dict(sae.named_parameters())
        for name in ("encoder.weight", "encoder.bias", "decoder.weight"):
            assert torch.equal(after[name][alive], weights[name][alive]), name
        assert torch.equal(after["decoder.bias"], weights["decoder.bias"])
        directions = after["decoder.weight"][DEAD]
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(4, dtype=torch.float64))
        centered = nn.functional.normalize(sae.scaler(rows.double()) - sae.decoder.bias, dim=1)
        cosines = directions @ centered.T
        torch.testing.assert_close(cosines.amax(dim=1), torch.ones(4, dtype=torch.float64))
        norm = 0.2 * weights["encoder.weight"][alive].norm(dim=1).mean()
        torch.testing.assert_close(after["encoder.weight"][DEAD], norm * directions)
        at_center = after["encoder.weight"][DEAD] @ sae.decoder.bias + after["encoder.bias"][DEAD]
        torch.testing.assert_close(at_center, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)

    def test_rows_are_drawn_by_the_square_of_their_loss(self, sae: SparseAutoencoder, rows: Tensor):
        """Of two rows reconstructed badly, one k times as badly as the other, it is drawn about k⁴ times as often."""
        x = rows.double()[:2].clone()
        x[:] = sae.scaler.mean
        x[0, 0] += 3e3
        x[1, 1] += 2e3
        errors = (x - sae(x).reconstruction).square().sum(dim=1)
        share = (errors.square() / errors.square().sum())[0].item()
        assert 0.6 < share < 0.95
        torch.manual_seed(0)
        drawn = []
        for _ in range(30):
            sae.spec.auxiliaries[0].revive(sae, x, DEAD)
            directions = sae.decoder.get_parameter("weight")[DEAD]
            drawn += (directions[:, 0].abs() > directions[:, 1].abs()).tolist()
            sae = built(TopK(k=6), rows, Resample())
        assert sum(drawn) / len(drawn) == pytest.approx(share, abs=0.12)

    def test_without_dead_or_without_errors_nothing_changes(self, sae: SparseAutoencoder, rows: Tensor):
        before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
        sae.spec.auxiliaries[0].revive(sae, rows.double(), DEAD[:0])
        sae.spec.auxiliaries[0].revive(sae, rows[:0].double(), DEAD)
        assert all(torch.equal(tensor, before[name]) for name, tensor in sae.state_dict().items())

    def test_all_may_be_dead(self, sae: SparseAutoencoder, rows: Tensor):
        sae.spec.auxiliaries[0].revive(sae, rows.double(), torch.arange(96))
        assert all(p.isfinite().all() for p in sae.parameters())
        torch.testing.assert_close(
            sae.encoder.get_parameter("weight").norm(dim=1), torch.full((96,), 0.2, dtype=torch.float64)
        )

    def test_adds_nothing_to_the_loss(self, sae: SparseAutoencoder, rows: Tensor):
        loss = sae.loss(rows, moment=Moment(dead=DEAD))
        assert loss.terms["resample"].item() == 0
        assert loss.total.item() == loss.terms["reconstruction"].item()

    @pytest.mark.parametrize("numbers", [{"times": 0}, {"until": 0.0}, {"until": 1.5}])
    def test_numbers_that_make_no_sense_are_refused(self, numbers: dict):
        with pytest.raises(ValueError, match=r"times is at least 1 and until in \(0, 1\]"):
            Resample(**numbers)


def test_losses_are_never_due_to_change_weights():
    for auxiliary in (AuxK(), PreActivationLoss()):
        assert not any(auxiliary.due((step + 1) / 50, step / 50) for step in range(50))


class TestCorruption:
    x = torch.randn(400, 50, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("corruption", [Clean(), Mask(share=0.3), Gaussian(deviation=0.5), KeepLargest(k=7)])
    def test_leaves_the_rows_that_it_is_given(self, corruption: Corruption):
        before = self.x.clone()
        assert corruption(self.x).shape == self.x.shape
        assert torch.equal(self.x, before)

    def test_mask_makes_holes_and_nothing_else(self):
        torch.manual_seed(0)
        seen = Mask(share=0.3)(self.x)
        holes = seen == 0
        assert holes.double().mean().item() == pytest.approx(0.3, abs=0.01)
        assert torch.equal(seen[~holes], self.x[~holes])
        assert not torch.equal(Mask(share=0.3)(self.x), seen)

    def test_noise_has_its_deviation(self):
        torch.manual_seed(0)
        noise = Gaussian(deviation=0.5)(self.x) - self.x
        assert noise.std().item() == pytest.approx(0.5, rel=0.02)
        assert noise.mean().item() == pytest.approx(0, abs=0.02)

    @given(st.integers(1, 60))
    def test_keep_largest_keeps_magnitudes(self, k: int):
        seen = KeepLargest(k=k)(self.x)
        assert (seen.count_nonzero(dim=1) == min(k, 50)).all()
        assert torch.equal(seen[seen != 0], self.x[seen != 0])
        smallest = torch.where(seen != 0, seen.abs(), torch.inf).amin(dim=1)
        assert (torch.where(seen == 0, self.x.abs(), 0).amax(dim=1) <= smallest).all()

    def test_the_encoder_sees_it_and_the_target_is_clean(self, rows: Tensor):
        spec = preset("vanilla-l1", input_width=24, latents=96, l1=0.0).replace(corruption=KeepLargest(k=3))
        sae = spec.build(seed=0).double()
        start_from_data(sae, rows)
        x = sae.scaler(rows.double())
        seen = KeepLargest(k=3)(x)
        codes = (seen @ sae.encoder.get_parameter("weight").T + sae.encoder.get_parameter("bias")).relu()
        error = x - codes @ sae.decoder.directions() - sae.decoder.bias
        for dense in (False, True):
            loss = sae.loss(rows, moment=Moment(dense=dense))
            assert loss.terms["reconstruction"].item() == pytest.approx(error.square().mean().item())
        assert torch.equal(traced(sae, x, x, Moment()).target, x)

    def test_in_use_rows_are_clean(self, rows: Tensor):
        spec = preset("topk", input_width=24, latents=96, l0=6)
        plain, denoising = (spec.replace(corruption=part).build(seed=0) for part in (Clean(), Mask(share=0.9)))
        assert torch.equal(plain(rows).reconstruction, denoising(rows).reconstruction)

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: Mask(share=0.0), "share"),
            (lambda: Mask(share=1.0), "share"),
            (lambda: Gaussian(deviation=0.0), "deviation"),
            (lambda: KeepLargest(k=0), "k is the number"),
        ],
    )
    def test_numbers_that_make_no_sense_are_refused(self, make, said: str):
        with pytest.raises(ValueError, match=f"^{said}"):
            make()


def test_auxk_reaches_what_an_auxiliary_may_reach_in_every_family(rows: Tensor):
    """The living do not learn from it, whatever their sparsity."""
    for sparsity in (TopK(k=6), BatchTopK(k=6), ReLU(), JumpReLU()):
        sae = built(sparsity, rows, AuxK(k=2))
        leaves = [sae.encoder.get_parameter("weight"), sae.decoder.get_parameter("weight")]
        extra = sae.loss(rows, moment=Moment(dead=DEAD)).total - sae.loss(rows).total
        for gradient in torch.autograd.grad(extra, leaves):
            reached = gradient.norm(dim=1) > 1e-9 * gradient.norm()
            assert set(reached.nonzero()[:, 0].tolist()) <= set(DEAD.tolist())
            assert reached.any()
