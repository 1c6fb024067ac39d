"""Known features: the rows are what the spec says, each can be made again, and none is ever stored."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.sources.source import Feed, SourceSpec
from gossamer.sources.synthetic import BLOCK, Synthetic, SyntheticSpec
from gossamer.sources.world import Correlation, FoldedNormal, Hierarchy, LogNormal, Magnitudes

SMALL = SyntheticSpec(
    features=64,
    input_width=24,
    l0=5.0,
    hierarchy=Hierarchy(roots=3, branching=3, depth=2),
    separation=0,
    rows=50_000,
    validation_rows=3000,
)
FLAT = SMALL.replace(hierarchy=Hierarchy(roots=0))
UNCORRELATED = Correlation(strength=0.0)


@pytest.fixture(scope="module")
def source() -> Synthetic:
    return SMALL.build()


def fires(source: Synthetic, units: int) -> Tensor:
    """`(rows, features)` booleans of the first units."""
    return source.codes(source.read(np.arange(units)).origins).to_dense() != 0


def test_a_block_is_the_same_whenever_it_is_made(source):
    again = SMALL.build()
    again.read(np.array([7, 1]))
    together, alone = source.read(np.array([3, 0])), again.read(np.array([0]))
    assert torch.equal(together.rows[""][BLOCK:], alone.rows[""])
    assert torch.equal(together.origins[BLOCK:], alone.origins)
    assert not torch.equal(together.rows[""][:BLOCK], together.rows[""][BLOCK:])


def test_a_row_is_the_sum_of_its_features(source):
    batch = source.read(np.array([5, 2]))
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))[:300]
    some = batch[order]
    codes = source.codes(some.origins)
    assert codes.shape == (300, 64)
    assert (codes.values > 0).all()
    torch.testing.assert_close(codes.to_dense() @ source.directions, some.rows[""])


def test_noise_is_as_large_as_asked_and_leaves_the_codes_alone(source):
    noisy = SMALL.replace(noise=0.3).build()
    clean, rows = source.read(np.arange(8)), noisy.read(np.arange(8))
    noise = rows.rows[""] - clean.rows[""]
    assert noise.std().item() == pytest.approx(0.3, rel=0.01)
    assert abs(noise.mean().item()) < 0.005
    assert torch.equal(noisy.codes(rows.origins).values, source.codes(clean.origins).values)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hierarchy": Hierarchy(roots=3, branching=3, depth=2, exclusive=0.0)},
        {"hierarchy": Hierarchy(roots=2, branching=2, depth=3, exclusive=0.5), "exponent": 1.0},
        {"hierarchy": Hierarchy(roots=0), "exponent": 0.0},
        {"correlation": Correlation(rank=2, strength=0.8)},
    ],
)
def test_features_fire_as_often_as_stated(changes):
    source = SMALL.replace(**changes).build()
    found = fires(source, 40).double()
    p = source.probabilities
    assert p.sum().item() == pytest.approx(5.0)
    deviation = (found.mean(dim=0) - p) / (p * (1 - p) / len(found)).sqrt()
    assert deviation.abs().max() < 4
    assert deviation.square().mean() == pytest.approx(1, abs=0.7)


def test_without_trees_firing_follows_the_power_law():
    p = FLAT.replace(exponent=0.7, l0=2.0).build().probabilities
    expected = torch.arange(1, 65, dtype=torch.float64) ** -0.7
    torch.testing.assert_close(p, 2 * expected / expected.sum())


def test_no_feature_fires_on_most_rows_and_no_child_takes_all_of_its_parent():
    source = SMALL.replace(l0=8.0).build()
    p, parents = source.probabilities, source.parents
    assert p.max() <= 0.4
    children = torch.zeros(64, dtype=torch.float64).index_add_(0, parents[parents >= 0], p[parents >= 0])
    assert (children <= 0.8 * p + 1e-12).all()


@pytest.mark.parametrize("exclusive", [0.0, 1.0])
def test_a_child_fires_only_with_its_parent(exclusive):
    source = SMALL.replace(hierarchy=Hierarchy(roots=3, branching=3, depth=2, exclusive=exclusive)).build()
    assert (source.parents >= 0).sum() == 3 * (3 + 9)
    found, siblings = fires(source, 20), 0
    for parent in source.parents.unique()[1:]:
        children = (source.parents == parent).nonzero()[:, 0]
        assert len(children) == 3
        assert not found[:, children][~found[:, parent]].any()
        assert source.probabilities[children].max() < source.probabilities[parent]
        siblings += int((found[:, children].sum(dim=1) > 1).sum())
    assert (siblings == 0) == (exclusive == 1.0)


def test_siblings_that_do_not_exclude_each_other_are_independent_given_their_parent():
    source = SMALL.replace(hierarchy=Hierarchy(roots=6, branching=2, depth=1, exclusive=0.0), l0=9.0).build()
    found = fires(source, 40)
    for parent in source.parents.unique()[1:]:
        first, second = (source.parents == parent).nonzero()[:, 0]
        given = found[found[:, parent]].double()
        assert abs(torch.corrcoef(given[:, [first, second]].T)[0, 1]) < 4 / math.sqrt(len(given))


def test_correlation_is_that_of_the_copula():
    """With one common factor of strength s, two features correlate by +s or −s before the threshold."""
    spec = FLAT.replace(correlation=Correlation(rank=1, strength=0.6), features=8, l0=3.0, exponent=0.0)
    source = spec.build()
    found = fires(source, 40).double()
    correlation = torch.corrcoef(found.T)
    p = 3 / 8
    sides = torch.from_numpy(np.sign(source._shared[:, 0]))
    quantile = torch.special.ndtri(torch.tensor(1 - p, dtype=torch.float64)).item()
    for i in range(8):
        for j in range(i):
            both = orthant(quantile, 0.6 * float(sides[i] * sides[j]))
            assert correlation[i, j].item() == pytest.approx((both - p * p) / (p * (1 - p)), abs=0.03)


def orthant(threshold: float, correlation: float) -> float:
    """P(a > threshold, b > threshold) of two correlated normals, by integration over a."""
    a = torch.linspace(threshold, 8, 4001, dtype=torch.float64)
    density = torch.exp(-a.square() / 2) / math.sqrt(2 * math.pi)
    above = torch.special.ndtr((correlation * a - threshold) / math.sqrt(1 - correlation**2))
    return torch.trapezoid(density * above, a).item()


def test_without_correlation_features_are_independent():
    found = fires(FLAT.replace(correlation=UNCORRELATED, features=12, l0=3.0).build(), 40).double()
    correlation = torch.corrcoef(found.T).fill_diagonal_(0)
    assert correlation.abs().max() < 4 / math.sqrt(len(found))


@pytest.mark.parametrize(
    "magnitudes", [FoldedNormal(), FoldedNormal(mean=0.5, deviation=2.0), LogNormal(), LogNormal(median=1, sigma=0.2)]
)
def test_magnitudes_have_the_mean_they_state(magnitudes: Magnitudes):
    drawn = magnitudes.draw(np.random.default_rng(0), 200_000)
    assert drawn.min() > 0
    assert drawn.mean() == pytest.approx(magnitudes.expectation, rel=0.02)
    source = FLAT.replace(magnitudes=magnitudes).build()
    values = source.codes(source.read(np.arange(20)).origins).values
    assert values.mean().item() == pytest.approx(magnitudes.expectation, rel=0.03)


def test_log_normal_magnitudes_have_heavy_tails():
    rng = np.random.default_rng(0)
    share = {
        type(kind).__name__: (kind.draw(rng, 200_000) > 4 * kind.expectation).mean()
        for kind in (FoldedNormal(mean=0.0, deviation=4.0), LogNormal(sigma=1.0))
    }
    assert share["LogNormal"] > 10 * share["FoldedNormal"] > 0


@pytest.mark.parametrize("coupling", [0.0, 1.0])
def test_coupling_makes_children_as_strong_as_their_parents(coupling):
    hierarchy = Hierarchy(roots=3, branching=3, depth=2, coupling=coupling)
    source = SMALL.replace(hierarchy=hierarchy).build()
    dense = source.codes(source.read(np.arange(40)).origins).to_dense()
    found = []
    for child in (source.parents >= 0).nonzero()[:, 0]:
        both = dense[dense[:, child] > 0]
        if len(both) > 500:
            pair = torch.stack([both[:, source.parents[child]], both[:, child]])
            found.append(torch.corrcoef(pair.log())[0, 1].item())
    # a root's log strength has a variance v, its child's v (own) + v (the root's); deeper ones more
    assert min(found) > 0.6 if coupling else max(map(abs, found)) < 0.15
    mean = dense[:, source.parents >= 0].sum() / (dense[:, source.parents >= 0] > 0).sum()
    assert mean.item() == pytest.approx(source.spec.magnitudes.expectation, rel=0.02)


def test_separation_moves_directions_apart():
    def overlap(spec: SyntheticSpec) -> Tensor:
        d = spec.build().directions
        torch.testing.assert_close(torch.linalg.vector_norm(d, dim=1), torch.ones(len(d)))
        return (d @ d.T).fill_diagonal_(0).abs().amax(dim=1).mean()

    assert overlap(FLAT.replace(separation=100)) < 0.8 * overlap(FLAT)
    assert overlap(FLAT.replace(features=20, separation=100)) < 0.1 * overlap(FLAT.replace(features=20))


@given(rows=st.integers(1, 5000), batch=st.integers(1, 700))
@settings(max_examples=10)
def test_an_epoch_is_every_row_once(rows, batch):
    source = FLAT.replace(rows=rows).build()
    feed = Feed(source, batch=batch, seed=1)
    seen = torch.cat([feed.next().origins for _ in range(-(-rows // batch))])[:rows]
    assert len(seen.unique(dim=0)) == rows == source.rows
    assert (seen[:, 0] < source.units).all() and (seen >= 0).all()


def test_a_saved_feed_goes_on_where_it_was(source):
    whole, first, second = (Feed(source, batch=300, seed=2) for _ in range(3))
    for _ in range(70):
        whole.next()
        first.next()
    second.load_state_dict({name: t.clone() for name, t in first.state_dict().items()})
    for _ in range(60):
        expected, got = whole.next(), second.next()
        assert torch.equal(expected.rows[""], got.rows[""])
        assert torch.equal(expected.origins, got.origins)


def test_memory_does_not_grow_with_the_rows():
    def held(source: Synthetic) -> int:
        tensors = [value for value in vars(source).values() if isinstance(value, Tensor | np.ndarray)]
        return sum(value.nbytes for value in tensors)

    small, large = (SMALL.replace(rows=rows, validation_rows=rows).build() for rows in (1000, 10**12 + 5))
    assert held(small) == held(large) > 0
    last = large.read(np.array([large.units - 1]))
    assert len(last) == 5
    assert large.codes(last.origins).rows == len(last)
    assert len(next(large.validation(batch=5000))) <= 5000


@pytest.mark.parametrize("batch", [100, 1024, 2500, 10_000])
def test_held_out_rows_are_others_and_always_the_same(source, batch):
    found, again = (list(source.validation(batch=batch)) for _ in range(2))
    assert sum(map(len, found)) == source.validation_rows == 3000
    assert max(map(len, found)) <= batch
    held, same = (torch.cat([b.rows[""] for b in batches]) for batches in (found, again))
    assert torch.equal(held, same)
    trained = source.read(np.arange(3)).rows[""]
    assert not {tuple(row) for row in held.tolist() if any(row)} & {tuple(row) for row in trained.tolist()}
    origins = torch.cat([b.origins for b in found])
    assert (origins[:, 0] < 0).all()
    torch.testing.assert_close(source.codes(origins).to_dense() @ source.directions, held)


def test_every_random_number_depends_on_the_seed():
    worlds = [FLAT.replace(correlation=UNCORRELATED, seed=seed).build() for seed in (0, 1)]
    one, other = (world.codes(world.read(np.arange(1)).origins).indices.tolist() for world in worlds)
    assert torch.equal(worlds[0].probabilities, worlds[1].probabilities)
    assert one != other


def test_seeds_and_numbers_tell_worlds_apart(source):
    prints = [
        SMALL.replace(**changes).build().fingerprint()
        for changes in ({"seed": 1}, {"noise": 0.1}, {"rows": 40_000}, {"correlation": UNCORRELATED})
    ]
    assert SMALL.build().fingerprint() == source.fingerprint()
    assert source.fingerprint() not in prints
    assert [one["content"] == source.fingerprint()["content"] for one in prints] == [False, False, True, False]
    assert not torch.equal(SMALL.replace(seed=1).build().directions, source.directions)
    assert "64 in 24 dimensions, 5 of them per row" in source.describe()["features"]


def test_a_spec_survives_a_file():
    spec = SMALL.replace(magnitudes=LogNormal(sigma=1.2))
    assert SourceSpec.from_toml(spec.to_toml()) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 30}, "3 trees need 39 features, but there are 30"),
        ({"l0": 0.0}, "above 0"),
        ({"noise": -1.0}, "noise must not be negative"),
        ({"input_width": 0}, "input_width must be at least 1"),
    ],
)
def test_an_impossible_world_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**changes)


def test_more_features_than_can_fire_are_refused():
    with pytest.raises(ValueError, match=r"l0 = 26 .* cannot be reached .* at most 25\.6"):
        FLAT.replace(l0=26.0, exponent=0.0).build()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Correlation(strength=1.0),
        lambda: Correlation(rank=0),
        lambda: Hierarchy(exclusive=1.5),
        lambda: Hierarchy(roots=-1),
        lambda: FoldedNormal(mean=0.0, deviation=0.0),
        lambda: LogNormal(median=0.0),
    ],
)
def test_impossible_parts_are_refused(make):
    with pytest.raises(ValueError, match="got"):
        make()
