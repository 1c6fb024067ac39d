"""Scores against known features: hand-computed values, identities, and controls that a trained model has to beat."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gossamer.autoencoder.autoencoder import SparseAutoencoder
from gossamer.autoencoder.presets import preset
from gossamer.cli.bench import bench
from gossamer.codes import SparseCodes
from gossamer.evaluate.ground_truth import (
    GroundTruthScore,
    Oracle,
    PermutedDecoder,
    absorption,
    best,
    feature_recovery,
    firing_f1,
    frozen_decoder,
    hedging,
    matching,
    mcc,
    principal_components,
    score,
)
from gossamer.evaluate.ground_truth.bench import GroundTruthBench
from gossamer.evaluate.ground_truth.pairs import Pairs, cosines
from gossamer.evaluate.reconstruction import fvu
from gossamer.sources.source import Batch
from gossamer.sources.synthetic import Synthetic, SyntheticSpec
from gossamer.sources.world import Correlation, Hierarchy
from gossamer.training.loop import train
from gossamer.training.spec import TrainSpec

pytest.importorskip("scipy")

WORLD = SyntheticSpec(
    features=64,
    input_width=24,
    l0=3.0,
    hierarchy=Hierarchy(roots=3, branching=3, depth=2),
    noise=0.05,
    validation_rows=5000,
)
ROWS = 100_000


def codes(*rows: dict[int, float], latents: int) -> SparseCodes:
    """Codes from one {latent: value} per row; a value of 0 is stored, but not active."""
    return SparseCodes(
        offsets=torch.tensor([0, *(len(row) for row in rows)]).cumsum(0),
        indices=torch.tensor([latent for row in rows for latent in row], dtype=torch.int64),
        values=torch.tensor([value for row in rows for value in row.values()]),
        latents=latents,
    )


def paired(*features: int, cosine: float = 1.0) -> Pairs:
    """Latent i stands for the i-th of these features."""
    count = len(features)
    return Pairs(torch.arange(count), torch.tensor(features), torch.full((count,), cosine, dtype=torch.float64))


# Directions


def test_matching_takes_the_largest_sum_and_not_the_largest_cosine_first():
    directions = torch.eye(3)[:2]
    decoder = torch.tensor([[0.9, 0.3, 0.1], [0.8, 0.1, 0.6]])
    pairs = matching(decoder, directions)
    assert pairs.features.tolist() == [0, 1]
    assert pairs.latents.tolist() == [1, 0]
    expected = [0.8 / math.sqrt(1.01), 0.3 / math.sqrt(0.91)]
    assert pairs.cosines.tolist() == pytest.approx(expected)
    assert mcc(pairs) == pytest.approx(sum(expected) / 2)


def test_the_nearest_feature_may_be_shared():
    pairs = best(torch.tensor([[0.9, 0.3, 0.1], [0.8, 0.1, 0.6]]), torch.eye(3)[:2])
    assert pairs.latents.tolist() == [0, 1]
    assert pairs.features.tolist() == [0, 0]


def test_directions_count_up_to_sign_and_length():
    directions = torch.eye(4)
    pairs = matching(torch.diag(torch.tensor([2.0, -0.5, -7.0, 1e-3])), directions)
    assert mcc(pairs) == pytest.approx(1)
    assert pairs.cosines.tolist() == pytest.approx([1, -1, -1, 1])
    assert feature_recovery(-3 * directions, directions) == 1
    assert best(-3 * directions, directions).features.tolist() == [0, 1, 2, 3]


def test_a_latent_without_a_direction_matches_nothing():
    assert cosines(torch.zeros(1, 3), torch.eye(3)).tolist() == [[0, 0, 0]]


def test_recovery_counts_features_and_not_latents():
    directions = torch.eye(4)
    decoder = torch.tensor([[1.0, 0, 0, 0], [1.0, 0.1, 0, 0], [0, 0, 0.9, math.sqrt(1 - 0.81)], [0, 0.8, 0.6, 0]])
    assert feature_recovery(decoder, directions, threshold=0.89) == 0.5
    assert feature_recovery(decoder, directions, threshold=0.95) == 0.25
    assert feature_recovery(decoder, directions, threshold=0.75) == 0.75


@pytest.mark.parametrize(
    ("decoder", "directions", "message"),
    [
        (torch.ones(3, 4), torch.ones(3, 5), r"\(3, 4\) and \(3, 5\)"),
        (torch.ones(4), torch.ones(3, 4), "expected"),
        (torch.ones(0, 4), torch.ones(3, 4), "no latent"),
    ],
)
def test_directions_that_cannot_be_compared_are_refused(decoder, directions, message):
    with pytest.raises(ValueError, match=message):
        matching(decoder, directions)


# Firing


def test_f1_is_that_of_the_active_pattern():
    truth = codes({0: 1.0, 1: 5.0}, {0: 2.0}, {0: 1.0}, {}, {2: 0.0}, latents=4)
    found = codes({0: 9.0, 1: 0.0}, {0: 0.1}, {1: 1.0}, {0: 3.0}, {2: 1.0}, latents=3)
    firing = firing_f1(found, truth, paired(0, 1, 2))
    assert firing.precision.tolist() == pytest.approx([2 / 3, 0, math.nan], nan_ok=True)
    assert firing.recall.tolist() == pytest.approx([2 / 3, 0, math.nan], nan_ok=True)
    assert firing.f1.tolist() == pytest.approx([2 / 3, 0, math.nan], nan_ok=True)
    assert firing.scored == 2
    assert (firing.mean_f1, firing.mean_precision, firing.mean_recall) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_precision_and_recall_are_not_each_other():
    truth = codes({0: 1.0}, {0: 1.0}, {0: 1.0}, {0: 1.0}, {}, latents=1)
    firing = firing_f1(codes({0: 1.0}, {}, {}, {}, {0: 1.0}, latents=1), truth, paired(0))
    assert (firing.mean_precision, firing.mean_recall) == pytest.approx((1 / 2, 1 / 4))
    assert firing.mean_f1 == pytest.approx(2 * 1 / (2 + 4))


def test_a_silent_latent_scores_nothing():
    firing = firing_f1(codes({}, {}, latents=2), codes({0: 1.0, 1: 1.0}, {}, latents=2), paired(0, 1))
    assert firing.f1.tolist() == firing.precision.tolist() == [0, 0]


def test_negative_values_are_active():
    truth = codes({0: 1.0}, {}, latents=1)
    assert firing_f1(codes({0: -2.0}, {}, latents=1), truth, paired(0)).mean_f1 == 1


def test_codes_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="1 rows, the truth of 2"):
        firing_f1(codes({}, latents=1), codes({}, {}, latents=1), paired(0))


# Absorption and hedging

PARENTS = torch.tensor([-1, 0, 0, -1, 3])
FAMILY = codes(
    {0: 1.0, 1: 1.0},  # latent 1 speaks for both
    {0: 1.0, 1: 1.0},  # both speak
    {0: 1.0, 2: 1.0},  # nobody speaks: no child's latent stands in
    {0: 1.0, 1: 0.0},  # the parent alone, silent: a child's latent speaks, but not for a child
    {0: 1.0, 1: 1.0, 2: 1.0},  # two children, one of whose latents speaks
    {3: 1.0, 4: 1.0},
    latents=5,
)
SAID = codes({1: 1.0}, {0: 1.0, 1: 1.0}, {0: 0.0, 1: 1.0}, {1: 1.0}, {1: 1.0, 0: 0.0}, {3: 1.0, 4: 1.0}, latents=5)


def test_absorption_is_a_child_that_speaks_for_its_silent_parent():
    found = absorption(SAID, FAMILY, paired(0, 1, 2, 3, 4), PARENTS)
    assert found.parents.tolist() == [0, 3]
    assert found.shares.tolist() == pytest.approx([2 / 5, 0])
    assert found.mean == pytest.approx(1 / 5)


def test_two_children_absorb_a_firing_once():
    said = codes({}, {}, {}, {}, {1: 1.0, 2: 1.0}, {}, latents=5)
    assert absorption(said, FAMILY, paired(0, 1, 2), PARENTS).shares.tolist() == pytest.approx([1 / 5])


def test_absorption_needs_latents_that_are_those_of_the_features():
    assert math.isnan(absorption(SAID, FAMILY, paired(0, 1, 2, cosine=0.4), PARENTS).mean)
    assert absorption(SAID, FAMILY, paired(0, 1, 2, cosine=-0.6), PARENTS).mean > 0
    only_parents = Pairs(torch.tensor([0, 3]), torch.tensor([0, 3]), torch.ones(2, dtype=torch.float64))
    assert len(absorption(SAID, FAMILY, only_parents, PARENTS).parents) == 0


FIRINGS = codes(*[{0: 1.0, 1: 1.0}] * 3, *[{2: 1.0}] * 3, {0: 1.0}, {}, {}, {}, latents=3)
"""Features 0 and 1 fire together, feature 2 never with them."""


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_hedging_is_what_a_latent_has_of_features_that_come_along(sign):
    """With orthogonal directions it is the component of the unit decoder row."""
    directions, w = torch.eye(3), sign * torch.tensor([[1.0, 0.5, -0.2]])
    pairs = matching(w, directions)
    found = hedging(w, directions, FIRINGS, pairs)
    norm = math.sqrt(1 + 0.25 + 0.04)
    assert found.features.tolist() == [0]
    assert found.mean == pytest.approx((0.5 + 0.2) / 2 / norm)


def test_hedging_looks_only_at_features_that_correlate():
    directions, w = torch.eye(3), torch.tensor([[1.0, 0.5, -0.2]])
    # phi(0, 1) = (.3 − .4 · .3) / √(.4 · .6 · .3 · .7) = .80, phi(0, 2) = −.12 / √(.0504) = −.53
    found = hedging(w, directions, FIRINGS, matching(w, directions), correlated=0.6)
    assert found.mean == pytest.approx(0.5 / math.sqrt(1.29))
    assert len(hedging(w, directions, FIRINGS, matching(w, directions), correlated=0.9).features) == 0


def test_overlap_of_the_features_themselves_is_no_hedging():
    directions = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = hedging(directions[:1], directions, FIRINGS, matching(directions[:1], directions))
    assert found.amounts.tolist() == pytest.approx([0.0])


def test_a_feature_with_a_latent_of_its_own_is_not_hedged():
    directions, w = torch.eye(3), torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert math.isnan(hedging(w, directions, FIRINGS, matching(w, directions)).mean)
    pairs = matching(w[[0, 2]], directions)
    assert hedging(w[[0, 2]], directions, FIRINGS, pairs).amounts.tolist() == pytest.approx([0.5 / 1.25**0.5, 0])


# Identities


@given(seed=st.integers(0, 10_000), latents=st.integers(2, 12), features=st.integers(2, 12))
@settings(max_examples=30)
def test_scores_do_not_depend_on_the_order_of_the_latents(seed, latents, features):
    generator = torch.Generator().manual_seed(seed)
    decoder, directions = torch.randn(latents, 6, generator=generator), torch.randn(features, 6, generator=generator)
    dense = torch.randn(60, latents, generator=generator).relu()
    truth = SparseCodes.from_dense(torch.randn(60, features, generator=generator).relu())
    parents = torch.tensor([-1, *(int(f) // 2 for f in range(features - 1))])
    order = torch.randperm(latents, generator=generator)

    def scores(some: Tensor) -> list[float]:
        pairs, found = matching(decoder[some], directions), SparseCodes.from_dense(dense[:, some])
        return [
            mcc(pairs),
            feature_recovery(decoder[some], directions),
            firing_f1(found, truth, pairs).mean_f1,
            firing_f1(found, truth, best(decoder[some], directions)).mean_f1,
            absorption(found, truth, pairs, parents).mean,
            hedging(decoder[some], directions, truth, pairs).mean,
        ]

    assert scores(order) == pytest.approx(scores(torch.arange(latents)), nan_ok=True)


@dataclass(frozen=True)
class Found:
    """A small world, what was trained on it, and the scores by name."""

    source: Synthetic
    sae: SparseAutoencoder
    scores: dict[str, GroundTruthScore]


@pytest.fixture(scope="module")
def found() -> Found:
    """TopK with half as many latents as there are features, and all controls; a few seconds."""
    source = WORLD.build()
    spec = preset("topk", input_width=24, latents=32, l0=3)
    saes = [spec.build(seed=0), frozen_decoder(spec).build(seed=0)]
    train(saes, source, TrainSpec(rows=ROWS, batch=256, seed=0), quiet=True)
    sample = source.read(range(4)).rows[""]
    coders = [*saes, PermutedDecoder(saes[0]), principal_components(sample, l0=3), Oracle(source)]
    scores = [score(coder, source, rows=5000) for coder in coders]
    return Found(source, saes[0], {one.name: one for one in scores})


def test_the_oracle_is_perfect(found):
    oracle = found.scores["oracle"]
    assert oracle.mcc == pytest.approx(1)
    assert (oracle.f1, oracle.best_f1, oracle.precision, oracle.recall, oracle.recovery) == (1, 1, 1, 1, 1)
    assert oracle.absorption == 0
    assert oracle.l0 == pytest.approx(3.0, abs=0.15)
    x = torch.cat([batch.rows[""] for batch in found.source.validation(batch=5000)])
    assert oracle.fvu == pytest.approx(0.05**2 / x.var(dim=0).mean().item(), rel=0.05)
    assert (oracle.rows, oracle.scored) == (5000, 64)


def test_a_permuted_decoder_keeps_the_directions_and_loses_the_pattern(found):
    trained, permuted = found.scores["topk"], found.scores["permuted decoder"]
    assert permuted.mcc == pytest.approx(trained.mcc)
    assert permuted.recovery == trained.recovery
    assert permuted.f1 < 0.2 < trained.f1
    assert permuted.fvu > 1 > trained.fvu


def test_a_frozen_decoder_is_where_it_started(found):
    spec = frozen_decoder(preset("topk", input_width=24, latents=32, l0=3))
    start = spec.build(seed=0).decoder.directions()
    frozen = found.scores["frozen decoder"]
    assert frozen.mcc == pytest.approx(mcc(matching(start, found.source.directions)))
    assert frozen.fvu < 0.9, "its encoder learns"


def test_training_beats_every_control(found):
    trained = found.scores["topk"]
    for name in ("frozen decoder", "permuted decoder", "principal components"):
        control = found.scores[name]
        assert trained.f1 > control.f1 + 0.2, name
        assert trained.fvu < control.fvu - 0.1, name
        assert trained.mcc > control.mcc + 0.2 or name == "permuted decoder", name
    assert trained.recovery > 0.2
    assert {name for name, one in found.scores.items() if one.recovery == 0} == {
        "frozen decoder",
        "principal components",
    }


def test_a_score_is_its_parts_on_the_held_out_rows(found):
    one, source, directions = found.scores["topk"], found.source, found.sae.decoder.directions().detach()
    batches = list(source.validation(batch=5000))
    x, origins = (torch.cat(parts) for parts in zip(*((b.rows[""], b.origins) for b in batches), strict=True))
    with torch.no_grad():
        said, truth = found.sae.encode(x), source.codes(origins)
        assert one.fvu == pytest.approx(fvu(x, found.sae(x).reconstruction))
    pairs = matching(directions, source.directions)
    firing, nearest = firing_f1(said, truth, pairs), firing_f1(said, truth, best(directions, source.directions))
    assert (one.f1, one.precision, one.recall) == (firing.mean_f1, firing.mean_precision, firing.mean_recall)
    assert one.best_f1 == nearest.mean_f1 != one.f1
    assert one.mcc == mcc(pairs)
    assert one.recovery == feature_recovery(directions, source.directions)
    assert one.absorption == absorption(said, truth, pairs, source.parents).mean
    assert one.hedging == hedging(directions, source.directions, truth, pairs).mean
    assert one.dead == 1 - len(said.indices[said.values != 0].unique()) / 32
    assert one.l0 == said.l0


def test_scores_rest_on_the_rows_asked_for(found):
    few = score(found.sae, found.source, rows=700, batch=300)
    assert few.rows == 700
    assert few.l0 == pytest.approx(found.scores["topk"].l0, abs=0.1)
    assert few.summary().keys() == found.scores["topk"].summary().keys()
    assert "pairs" not in few.summary()


def test_scoring_is_inference_and_leaves_the_autoencoder_as_it_was(found):
    modes = []
    found.sae.train()
    with found.sae.encoder.register_forward_pre_hook(lambda module, _: modes.append(module.training)):
        score(found.sae, found.source, rows=100)
    assert modes and not any(modes)
    assert found.sae.training
    found.sae.eval()


def test_principal_components_keep_the_largest_projections_of_either_sign():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 3, generator=generator) * torch.tensor([5.0, 1.0, 2.0]) + torch.tensor([0.0, 7.0, 1.0])
    batch = Batch({"": x}, torch.zeros(2000, 2, dtype=torch.int64))
    components = principal_components(x, l0=1)
    assert components.directions.abs().argmax(dim=1).tolist() == [0, 2, 1]
    found = components.codes(batch)
    centered = x - x.mean(dim=0)
    largest = (centered @ components.directions.T).abs().amax(dim=1)
    torch.testing.assert_close(found.values.abs(), largest)
    assert found.l0 == 1 and (found.values < 0).any()
    assert fvu(x, components.decode(found)) < 0.3
    everything = principal_components(x, l0=3)
    torch.testing.assert_close(everything.decode(everything.codes(batch)), x, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_scored_is_refused(found):
    with pytest.raises(ValueError, match="validation_rows above 0"):
        score(found.sae, WORLD.replace(validation_rows=0).build())
    with pytest.raises(ValueError, match=r"30"):
        score(found.sae, WORLD.replace(input_width=30).build())
    with pytest.raises(ValueError, match="directions of width 24, the rows are 30 wide"):
        score(Oracle(found.source), WORLD.replace(input_width=30).build())
    with pytest.raises(ValueError, match="one direction per latent"):
        score(preset("deep-autoencoder", input_width=24, latents=8, hidden=(16,)).build(), found.source)
    with pytest.raises(ValueError, match="24 principal components"):
        principal_components(torch.ones(10, 24), l0=25)


# Known orderings


def trained(world: SyntheticSpec, *, latents: int, l0: int) -> GroundTruthScore:
    source = world.build()
    sae = preset("topk", input_width=world.input_width, latents=latents, l0=l0).build(seed=0)
    train(sae, source, TrainSpec(rows=ROWS, batch=256, seed=0), quiet=True)
    return score(sae, source, rows=5000)


def test_narrow_autoencoders_hedge_more():
    """Chanin et al. 2025: the fewer latents, the more each contains of features that have none."""
    world = WORLD.replace(
        features=24,
        input_width=32,
        exponent=0.3,
        hierarchy=Hierarchy(roots=0),
        correlation=Correlation(rank=1, strength=0.2),
    )
    narrow, wide = trained(world, latents=4, l0=1), trained(world, latents=16, l0=2)
    assert narrow.hedging > wide.hedging + 0.03
    assert wide.hedging > 0.03


def test_sparse_codes_absorb_more_than_codes_with_room():
    """Chanin et al. 2024: children speak for their parents where that saves an active latent."""
    world = WORLD.replace(features=32, input_width=32, l0=4.0, hierarchy=Hierarchy(roots=4, branching=3, depth=1))
    sparse, roomy = (trained(world, latents=32, l0=l0) for l0 in (3, 8))
    assert sparse.absorption > roomy.absorption + 0.2


def test_features_that_depend_on_each_other_are_harder_to_find():
    worlds = (WORLD.replace(hierarchy=Hierarchy(roots=0)), WORLD)
    flat, trees = (trained(world, latents=64, l0=3) for world in worlds)
    assert flat.mcc > trees.mcc + 0.1
    assert flat.recovery > trees.recovery + 0.2
    assert math.isnan(flat.absorption) and trees.absorption > 0.1


# The benchmark


def test_the_benchmark_writes_its_table_and_pictures(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    bench(
        "ground-truth",
        presets=("topk",),
        latents=32,
        features=256,
        width=16,
        true_l0=2.0,
        rows=5000,
        seeds=(3, 4),
        out=str(tmp_path),
    )
    printed = capsys.readouterr().out
    with (tmp_path / "ground-truth.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    names = ["topk", "frozen decoder", "permuted decoder", "principal components", "oracle"]
    assert [line["name"] for line in lines] == 2 * names
    assert [line["seed"] for line in lines] == ["3"] * 5 + ["4"] * 5
    assert [line["control"] for line in lines] == 2 * ["0", "1", "1", "1", "1"]
    assert len({line["l0"] for line in lines if line["name"] == "oracle"}) == 2, "seeds are worlds"
    assert len({line["mcc"] for line in lines if line["name"] == "topk"}) == 2, "and weights"
    f1 = [float(line["f1"]) for line in lines if line["name"] == "topk"]
    assert f"{sum(f1) / 2:.3f}" in printed
    assert f"±{abs(f1[0] - f1[1]) / math.sqrt(2):.3f}" in printed
    for name in ("f1-fvu", "f1-probability", "cosines"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_every_preset_that_can_be_scored_is_compared():
    names = [spec.name for spec in GroundTruthBench(latents=64, input_width=32).autoencoders(4)]
    assert {"topk", "batch-topk", "matryoshka-batch-topk", "jumprelu", "vanilla-l1", "matching-pursuit"} <= set(names)
    assert not {
        "transcoder",
        "skip-transcoder",
        "crosscoder",
        "clt",
        "end-to-end",
        "deep-autoencoder",
        "kl-sparse",
    } & set(names)


def test_the_l0_asked_for_is_that_of_the_features_with_a_latent():
    settings = GroundTruthBench(latents=40, features=256, input_width=16, true_l0=6.0)
    source = settings.source(0)
    dense = source.codes(next(source.validation(batch=20_000)).origins).to_dense()
    frequent = source.probabilities.argsort(descending=True)[:40]
    assert settings.asked_l0(source) == round((dense[:, frequent] != 0).sum(dim=1).double().mean().item())
    assert settings.replace(l0=11).asked_l0(source) == 11
