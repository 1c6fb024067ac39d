"""Parts that cannot work together are refused when the spec is built, long before any work, and with the reason."""

from typing import Any

import pytest

from gossamer.autoencoder import decoders, encoders, penalties
from gossamer.autoencoder.archetypal import Archetypal
from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.auxiliaries import AuxK, PreActivationLoss, Resample
from gossamer.autoencoder.cross_layer import LaterLayers, PerLayer
from gossamer.autoencoder.penalties import GateReconstruction, Penalty
from gossamer.autoencoder.reconstruction import HierarchicalK, Matryoshka
from gossamer.autoencoder.scaling import PerSite, RowNorm, Whitening
from gossamer.autoencoder.sparsity import (
    AbsTopK,
    BatchTopK,
    Gated,
    GroupMax,
    JumpReLU,
    LinearTopK,
    MatchingPursuit,
    ReLU,
    Sigmoid,
    TopK,
    WinnerTakeAll,
)
from gossamer.autoencoder.tasks import Crosscode, CrossLayer, EndToEnd, Transcode
from gossamer.autoencoder.weight_penalties import Contractive, Orthogonality

PLAIN: dict[str, Any] = {"input_width": 24, "latents": 96, "sparsity": TopK(k=6)}

TRANSCODE = Transcode(site="in", target="out")
LAYERS: dict[str, Any] = {
    "task": CrossLayer(sites=("a", "b"), destinations=("c", "d"), width=12),
    "encoder": PerLayer(layers=2),
    "decoder": LaterLayers(layers=2),
}
DEEP = decoders.Deep(hidden=(10,))

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # sizes
    "topk-of-too-few": ({"sparsity": TopK(k=97)}, r"l0 = 97 .*more than the 96 latents"),
    "start-k-of-too-few": ({"sparsity": TopK(k=6, start_k=97)}, r"l0 = 97 .*more than the 96 latents"),
    "linear-topk-of-too-few": ({"sparsity": LinearTopK(k=97)}, r"more than the 96 latents"),
    "batch-topk-of-too-few": ({"sparsity": BatchTopK(k=97)}, r"more than the 96 latents"),
    "batch-topk-of-none": ({"sparsity": BatchTopK(k=0)}, r"at least 1; got 0"),
    "winner-take-all-of-too-few": ({"sparsity": WinnerTakeAll(k=97)}, r"more than the 96 latents"),
    "winner-take-all-of-none": ({"sparsity": WinnerTakeAll(k=0)}, r"at least 1; got 0"),
    "pursuit-of-too-few": ({"sparsity": MatchingPursuit(k=97), "encoder": encoders.Tied()}, "more than the 96 latents"),
    "unequal-groups": ({"sparsity": GroupMax(k=7)}, "96 latents cannot be cut into 7 equal groups"),
    "no-groups": ({"sparsity": GroupMax(k=0)}, "at least 1; got 0"),
    "lista-of-too-few": ({"encoder": encoders.Lista(k=97)}, "'lista' keeps k = 97 of only 96 latents"),
    "target-of-too-few": (
        {"sparsity": ReLU(), "penalties": (penalties.L1(target_l0=97.0),)},
        "target_l0 = 97 .*more than the 96 latents",
    ),
    # sparsities and what they need
    "gated-without-its-loss": ({"sparsity": Gated()}, "gates learn from the penalty 'gate-reconstruction'; add it"),
    "pursuit-untied": ({"sparsity": MatchingPursuit(k=6)}, "it needs the encoder 'tied'"),
    "abs-topk-by-value": (
        {"sparsity": AbsTopK(k=6), "reconstruction": HierarchicalK(budgets=(3, 6))},
        "'abs-topk' by magnitudes",
    ),
    # penalties
    "l0-without-gates": ({"penalties": (penalties.L0(weight=1.0),)}, "no gradient with 'topk'; use it with 'jumprelu'"),
    "l0-target-without-gates": (
        {"penalties": (penalties.L0Target(weight=1.0, wanted=6.0),)},
        "l0-target penalty has no gradient with 'topk'",
    ),
    "kl-without-sigmoid": ({"sparsity": ReLU(), "penalties": (penalties.KL(weight=1.0),)}, r"codes lie in \(0, 1\)"),
    "gate-reconstruction-without-gates": ({"penalties": (GateReconstruction(weight=1.0),)}, "needs sparsity 'gated'"),
    "gate-reconstruction-deep": (
        {"sparsity": Gated(), "penalties": (GateReconstruction(weight=1.0),), "decoder": DEEP},
        "needs sparsity 'gated' and a decoder z W",
    ),
    "gate-reconstruction-skip": (
        {
            "sparsity": Gated(),
            "penalties": (GateReconstruction(weight=1.0),),
            "decoder": decoders.Skip(),
            "task": TRANSCODE,
        },
        "needs sparsity 'gated' and a decoder z W",
    ),
    "unequal-group-lasso": ({"penalties": (penalties.GroupLasso(weight=1.0, size=7),)}, "groups of 7"),
    "empty-group-lasso": ({"penalties": (penalties.GroupLasso(weight=1.0, size=0),)}, "groups of 0"),
    "contractive-deep": (
        {"encoder": encoders.Deep(hidden=(10,)), "penalties": (Contractive(weight=1.0),)},
        "one affine map as encoder, not 'deep'",
    ),
    "two-steered-penalties": (
        {"sparsity": ReLU(), "penalties": (penalties.L1(target_l0=6.0), penalties.L2(target_l0=6.0))},
        "one penalty can be steered to a target_l0",
    ),
    # encoders, decoders
    "tied-transcoder": ({"encoder": encoders.Tied(), "task": TRANSCODE}, "'tied' .*a target that is the input"),
    "tied-deep": ({"encoder": encoders.Tied(), "decoder": DEEP}, "'tied' uses the decoder's directions"),
    "tied-per-site": ({"encoder": encoders.Tied(), "scaling": PerSite(widths=(10, 14))}, "a scaling by one number"),
    "lista-transcoder": ({"encoder": encoders.Lista(k=6), "task": TRANSCODE}, "'lista' .*a target that is the input"),
    "skip-to-itself": ({"decoder": decoders.Skip()}, "'skip' could copy the row past the code"),
    "skip-end-to-end": ({"decoder": decoders.Skip(), "task": EndToEnd(site="in")}, "'skip' could copy the row"),
    "sigmoid-output-scaled": ({"decoder": decoders.Deep(output="sigmoid")}, "'sigmoid' has a range of its own"),
    "wrong-blocks": ({"decoder": decoders.Linear(blocks=(10, 10))}, r"\(10, 10\) do not make a row of width 24"),
    "negative-block": ({"decoder": decoders.Linear(blocks=(30, -6))}, r"\(30, -6\) do not make a row of width 24"),
    "unequal-layers": ({**LAYERS, "latents": 97}, "97 latents cannot both be cut into 2 equal parts"),
    "encoder-of-no-layers": ({"encoder": PerLayer(layers=0)}, "cut into 0 equal parts"),
    "decoder-of-too-many-layers": ({"decoder": LaterLayers(layers=5)}, "cut into 5 equal parts"),
    # scalings
    "per-site-of-another-width": ({"scaling": PerSite(widths=(10, 10))}, r"\(10, 10\) do not make a row of width 24"),
    "per-site-negative": ({"scaling": PerSite(widths=(30, -6))}, "do not make a row of width 24"),
    "row-norm-sigmoid": ({"sparsity": Sigmoid(), "scaling": RowNorm()}, "'row-norm' .*codes that grow"),
    "row-norm-deep": ({"decoder": DEEP, "scaling": RowNorm()}, "'row-norm' .*a linear decoder"),
    "row-norm-transcoder": ({"task": TRANSCODE, "scaling": RowNorm()}, "'row-norm' .*a target that is the input"),
    "row-norm-end-to-end": ({"task": EndToEnd(site="in"), "scaling": RowNorm()}, "'row-norm' cannot do in training"),
    "whitening-tied": ({"encoder": encoders.Tied(), "scaling": Whitening()}, "scaling"),
    "whitening-deep": (
        {"encoder": encoders.Deep(hidden=(10,)), "scaling": Whitening()},
        "'whitening' needs an encoder",
    ),
    "whitening-transcoder": ({"task": TRANSCODE, "scaling": Whitening()}, "'whitening' .*a target that is the input"),
    # reconstructions
    "prefixes-of-another-size": ({"reconstruction": Matryoshka(prefixes=(8, 64))}, "number of latents, 96"),
    "falling-prefixes": ({"reconstruction": Matryoshka(prefixes=(64, 8, 96))}, "prefixes rise"),
    # auxiliaries
    "auxk-deep": ({"decoder": DEEP, "auxiliaries": (AuxK(),)}, "auxk .*needs a linear decoder"),
    "resample-tied": ({"encoder": encoders.Tied(), "auxiliaries": (Resample(),)}, "it needs linear maps"),
    "resample-archetypal": ({"decoder": Archetypal(), "auxiliaries": (Resample(),)}, "it needs linear maps"),
    "resample-transcoder": ({"task": TRANSCODE, "auxiliaries": (Resample(),)}, "the input as target"),
    # tasks
    "transcoder-to-itself": ({"task": Transcode(site="in", target="in")}, "reads one site and gives another"),
    "transcoder-to-nowhere": ({"task": Transcode(site="in", target="")}, "reads one site and gives another"),
    "transcoder-of-no-width": ({"task": Transcode(site="in", target="out", width=0)}, "width .*at least 1; got 0"),
    "crosscoder-of-one": ({"task": Crosscode(sites=("a",), widths=(24,))}, "two or more different sites"),
    "crosscoder-of-one-twice": ({"task": Crosscode(sites=("a", "a"), widths=(12, 12))}, "two or more different sites"),
    "crosscoder-of-another-width": ({"task": Crosscode(sites=("a", "b"), widths=(10, 10))}, "width 24"),
    "crosscoder-of-too-few-widths": ({"task": Crosscode(sites=("a", "b"), widths=(24,))}, "one width for each"),
    "clt-without-its-encoder": ({**LAYERS, "encoder": encoders.Linear()}, "an encoder 'per-layer'"),
    "clt-without-its-decoder": ({**LAYERS, "decoder": decoders.Linear()}, "a decoder 'later-layers'"),
    "clt-of-other-layers": ({**LAYERS, "encoder": PerLayer(layers=3)}, "of so many layers"),
    "clt-of-too-few-targets": (
        {**LAYERS, "task": CrossLayer(sites=("a", "b"), destinations=("c",), width=12)},
        "as many sites as targets, two at least.*got 2 and 1",
    ),
    "clt-of-one-layer": (
        {
            "task": CrossLayer(sites=("a",), destinations=("b",), width=24),
            "encoder": PerLayer(layers=1),
            "decoder": LaterLayers(layers=1),
        },
        "two at least",
    ),
    "clt-of-unequal-sites": ({**LAYERS, "input_width": 25}, "25 must be a multiple of 2"),
    "end-to-end-without-a-site": ({"task": EndToEnd(site="")}, "needs a model: name the site"),
    "end-to-end-by-nobody": ({"task": EndToEnd(site="in", judge="l2")}, "judge is 'kl' or 'cross-entropy', got 'l2'"),
    "end-to-end-nested": (
        {"task": EndToEnd(site="in"), "reconstruction": Matryoshka(prefixes=(8, 96))},
        "leave 'squared-error'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_together_is_refused_with_the_reason(name: str):
    parts, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        AutoencoderSpec(**(PLAIN | parts))


def test_what_they_are_made_of_is_accepted():
    """So that each refusal is for the reason that it gives."""
    accepted: list[dict[str, Any]] = [
        {},
        LAYERS,
        {"task": TRANSCODE},
        {"task": Transcode(site="", target="out", width=10)},
        {"task": Crosscode(sites=("a", "b"), widths=(10, 14)), "decoder": decoders.Linear(blocks=(10, 14))},
        {"task": EndToEnd(site="in", judge="cross-entropy")},
        {"decoder": decoders.Skip(), "task": TRANSCODE},
        {"decoder": DEEP},
        {"encoder": encoders.Tied(), "sparsity": MatchingPursuit(k=96)},
        {"encoder": encoders.Lista(k=96)},
        {"scaling": Whitening()},
        {"scaling": RowNorm(), "encoder": encoders.Deep(hidden=(10,))},
        {"scaling": PerSite(widths=(10, 14))},
        {"sparsity": GroupMax(k=96)},
        {"sparsity": Gated(), "penalties": (GateReconstruction(weight=1.0), penalties.L1(target_l0=6.0))},
        {"sparsity": Sigmoid(), "penalties": (penalties.KL(target_l0=96.0),)},
        {"sparsity": JumpReLU(), "penalties": (penalties.L0(weight=1.0), penalties.L2(target_l0=6.0))},
        {"auxiliaries": (AuxK(), PreActivationLoss(), Resample())},
        {"reconstruction": Matryoshka(prefixes=(96,))},
    ]
    for parts in accepted:
        sae = AutoencoderSpec(**(PLAIN | parts)).build()
        assert sae.spec.output_width == sae.decoder.bias.shape[0] or not sae.spec.decoder.linear


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: AbsTopK(k=6, activation="relu"), "signed, which activation 'relu' would undo; use 'topk'"),
        (lambda: TopK(k=6, start_k=5), "start_k falls to k = 6, so it must not be lower; got 5"),
        (lambda: encoders.Deep(hidden=()), r"one or more layers, got \(\)"),
        (lambda: encoders.Deep(hidden=(10, 0)), r"one or more layers, got \(10, 0\)"),
        (lambda: encoders.Deep(hidden=(10,), activation="rel"), "unknown activation 'rel'; did you mean 'relu'"),
        (lambda: encoders.Lista(k=0), "k is at least 1, got 1 and 0"),
        (lambda: encoders.Lista(k=6, steps=8), "steps lie in 1 to 7"),
        (lambda: decoders.Deep(), "use the linear one instead"),
        (lambda: decoders.Deep(hidden=(0,)), "hidden layers or an output activation"),
        (lambda: decoders.Deep(hidden=(10,), output="tan"), "unknown activation 'tan'; did you mean 'tanh'"),
        (lambda: Archetypal(points=10, mixture=11), "2 to points = 10 points, got mixture = 11"),
        (lambda: Archetypal(mixture=1), "got mixture = 1"),
        (lambda: Whitening(floor=0.0), "floor must be above 0"),
        (lambda: AuxK(k=0), "at least 1; got 0"),
        (lambda: AuxK(weight=-1.0), "would reward what it should charge for"),
        (lambda: PreActivationLoss(weight=-1.0), "would reward what it should charge for"),
        (lambda: Orthogonality(weight=1.0, sample=1), "at least 2 latents, got 1"),
        (lambda: penalties.ElasticNet(weight=1.0, ratio=1.5), "from 0 to 1; got 1.5"),
        (lambda: penalties.Lp(weight=1.0, p=0.0), r"p lies in \(0, 1\]"),
        (lambda: penalties.Lp(weight=1.0, begin=1.0), r"begin in \[0, 1\)"),
        (lambda: penalties.Log(weight=1.0, scale=0.0), "scale must be above 0"),
        (lambda: penalties.Tanh(weight=1.0, scale=-1.0), "scale must be above 0"),
        (lambda: penalties.KL(weight=1.0, rate=1.0), "between 0 and 1; got 1.0"),
        (lambda: penalties.L0Target(weight=1.0, wanted=0.0), "wanted must be above 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_the_part(make: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        make()


def test_what_is_steered_is_known():
    for given, target in (((), None), ((penalties.L1(weight=1.0),), None), ((penalties.L1(target_l0=7.0),), 7.0)):
        steered: tuple[Penalty, ...] = given
        assert AutoencoderSpec(input_width=24, latents=96, sparsity=ReLU(), penalties=steered).target_l0 == target
