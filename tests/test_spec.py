"""Specs survive files unchanged, refuse what they do not know, and say where it stands and what was meant."""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gossamer.autoencoder import decoders, encoders
from gossamer.autoencoder.autoencoder import AutoencoderSpec
from gossamer.autoencoder.auxiliaries import AuxK
from gossamer.autoencoder.constraints import Constraint, Free, UnitRows
from gossamer.autoencoder.decoders import Decoder
from gossamer.autoencoder.encoders import Encoder
from gossamer.autoencoder.files import load, save
from gossamer.autoencoder.penalties import L1, Penalty
from gossamer.autoencoder.pre_activations import PreActivations
from gossamer.autoencoder.presets import PRESETS, preset
from gossamer.autoencoder.scaling import MeanScale, Unscaled
from gossamer.autoencoder.sparsity import ReLU, Sparsity, TopK
from gossamer.autoencoder.tasks import Reconstruct, Task, Transcode
from gossamer.codes import SparseCodes
from gossamer.sources.activations import ActivationsSpec
from gossamer.sources.arrays import ArraysSpec
from gossamer.spec import Spec, nearest
from gossamer.training.recipe import PresetSpec, Recipe
from gossamer.training.spec import Adam, TrainSpec, derive
from gossamer.training.trainee import Trainee


@dataclass(frozen=True, kw_only=True)
class Everything(Spec):
    """Every type that a field may have."""

    flag: bool
    count: int
    ratio: float
    word: str
    mode: Literal["fast", "exact"] = "fast"
    limit: int | None = None
    numbers: tuple[float, ...] = ()
    table: dict[str, int] = dataclasses.field(default_factory=dict)
    inner: Adam = Adam()


@dataclass(frozen=True, kw_only=True)
class Above(Sparsity):
    """A rule that the package has never heard of: keep the pre-activations above a level."""

    kind: ClassVar[str] = "stranger-above"
    level: float

    def __call__(self, pre: PreActivations) -> SparseCodes:
        dense = pre.dense()
        return SparseCodes.from_dense(dense * (dense > self.level))


everything = Everything(flag=True, count=3, ratio=0.5, word="a")
topk = preset("topk", input_width=8, latents=32, l0=4)


def positive(most: int = 10**9) -> st.SearchStrategy[int]:
    return st.integers(1, most)


def weights() -> st.SearchStrategy[float]:
    return st.floats(0, allow_infinity=False)


@st.composite
def autoencoder_specs(draw: st.DrawFn) -> AutoencoderSpec:
    latents = draw(positive())
    transcoding = st.builds(Transcode, site=st.just(""), target=st.text(min_size=1), width=st.none() | positive())
    return AutoencoderSpec(
        input_width=draw(positive()),
        latents=latents,
        sparsity=draw(st.builds(TopK, k=positive(latents)) | st.just(ReLU())),
        decoder=decoders.Linear(constraint=draw(st.sampled_from([UnitRows(), Free()]))),
        scaling=draw(st.sampled_from([MeanScale(), Unscaled()])),
        penalties=draw(st.just(()) | st.tuples(st.builds(L1, weight=weights()))),
        auxiliaries=draw(st.just(()) | st.tuples(st.builds(AuxK, weight=weights(), k=st.none() | positive()))),
        name=draw(st.text()),
        task=draw(st.builds(Reconstruct, site=st.text()) | transcoding),
    )


@st.composite
def train_specs(draw: st.DrawFn) -> TrainSpec:
    batch = draw(positive(10**5))
    count = st.none() | st.integers(0, 10**9)
    share = st.floats(0, 1, exclude_max=True)
    return TrainSpec(
        rows=draw(st.integers(batch, 10**12)),
        batch=batch,
        seed=draw(st.integers(0, 2**32)),
        learning_rate=draw(st.none() | st.floats(1e-300, 1e3)),
        warmup_steps=draw(count),
        decay_steps=draw(count),
        dead_after=draw(count),
        optimizer=Adam(beta1=draw(share), beta2=draw(share), eps=draw(st.floats(1e-300, 1))),
        checkpoint_every=draw(positive()),
        log_every=draw(positive()),
        device=draw(st.sampled_from(["auto", "cpu", "cuda:1"])),
    )


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    words = st.lists(st.text(min_size=1), min_size=1, max_size=3).map(tuple)
    share = st.floats(0, 0.99)
    activations = st.builds(
        ActivationsSpec,
        model=st.text(min_size=1),
        hook=words,
        texts=words,
        context=st.integers(2, 4096),
        layout=st.sampled_from(["packed", "truncated"]),
        drop=st.lists(st.sampled_from(["special", "first"]), unique=True).map(tuple),
        validation=share,
        dtype=st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
        max_documents=st.none() | positive(),
    )
    arrays = st.builds(ArraysSpec, path=st.text(min_size=1), validation=share, buffer_rows=positive())
    presets = st.builds(
        PresetSpec,
        name=st.sampled_from(sorted(PRESETS)),
        latents=positive(),
        l0=st.none() | positive(),
        l1=st.none() | weights(),
        site=st.none() | st.text(),
        sites=st.none() | words,
    )
    one_to_train = draw(st.booleans())
    return Recipe(
        out=draw(st.text(min_size=1)),
        source=draw(activations | arrays),
        train=draw(train_specs()),
        preset=tuple(draw(st.lists(presets, min_size=one_to_train, max_size=2))),
        autoencoder=tuple(draw(st.lists(autoencoder_specs(), min_size=not one_to_train, max_size=2))),
    )


class TestRoundTrip:
    @given(autoencoder_specs() | train_specs() | recipes())
    def test_nothing_changes_on_the_way_through_dictionaries_json_and_toml(self, spec: Spec):
        kind = type(spec)
        assert kind.from_dict(spec.to_dict()) == spec
        assert kind.from_json(spec.to_json()) == spec
        assert kind.from_toml(spec.to_toml()) == spec
        assert hash(kind.from_toml(str(spec))) == hash(spec)

    @given(autoencoder_specs())
    def test_what_is_written_is_plain(self, spec: AutoencoderSpec):
        assert json.loads(json.dumps(spec.to_dict())) == spec.to_dict()

    def test_every_type_of_field_survives(self):
        spec = everything.replace(limit=0, numbers=(1.0, -2.5), table={"a b": 3}, mode="exact", flag=False)
        for again in (spec.to_dict(), json.loads(spec.to_json())):
            assert Everything.from_dict(again) == spec
        assert Everything.from_toml(spec.to_toml()) == spec

    def test_none_is_left_out_and_comes_back(self):
        assert "limit" not in everything.to_dict()
        assert Everything.from_dict(everything.to_dict() | {"limit": None}) == everything

    def test_kinds_are_written_at_every_level(self):
        written = topk.to_dict()
        assert (written["sparsity"]["kind"], written["auxiliaries"][0]["kind"]) == ("topk", "auxk")
        assert written["decoder"] == {"kind": "linear", "constraint": {"kind": "unit-rows"}, "blocks": []}
        assert "kind" not in written

    def test_a_concrete_part_needs_no_kind(self):
        assert TopK.from_dict({"k": 3}) == TopK(k=3) == Sparsity.from_dict({"kind": "topk", "k": 3})

    def test_one_kind_in_two_families_means_two_things(self):
        assert Encoder.from_dict({"kind": "linear"}) == encoders.Linear()
        assert Decoder.from_dict({"kind": "linear"}) == decoders.Linear()

    def test_specs_inside_a_dictionary_are_taken_as_they_are(self):
        assert AutoencoderSpec.from_dict(topk.to_dict() | {"sparsity": ReLU()}).sparsity == ReLU()


def spoiled(spec: Spec, path: str, value: object) -> dict[str, Any]:
    """Return the spec as a dictionary with one entry set, as in "sparsity.k", or removed if value is `...`."""
    data = json.loads(spec.to_json())
    place = data
    *outer, last = path.split(".")
    for name in outer:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


class TestStrictness:
    @pytest.mark.parametrize(
        ("path", "value", "place", "meant"),
        [
            ("latens", 3, "AutoencoderSpec", "'latents'"),
            ("sparsity.kk", 3, "AutoencoderSpec.sparsity", "'k'"),
            ("decoder.constrant", {}, "AutoencoderSpec.decoder", "'constraint'"),
            ("auxiliaries.0.wieght", 1.0, "AutoencoderSpec.auxiliaries[0]", "'weight'"),
            ("kind_of", "x", "AutoencoderSpec", "known: .*"),
        ],
    )
    def test_an_unknown_field_is_named_with_its_place_and_the_nearest(
        self, path: str, value: object, place: str, meant: str
    ):
        name = path.split(".")[-1]
        with pytest.raises(ValueError, match=rf"^{re.escape(place)}: unknown field '{name}'; .*{meant}"):
            AutoencoderSpec.from_dict(spoiled(topk, path, value))

    @pytest.mark.parametrize(
        ("path", "value", "place", "meant"),
        [
            ("sparsity.kind", "topkk", "AutoencoderSpec.sparsity", "'topk'"),
            ("sparsity.kind", "RELU", "AutoencoderSpec.sparsity", "relu"),
            ("sparsity.kind", "", "AutoencoderSpec.sparsity", "topk"),
            ("sparsity.kind", 7, "AutoencoderSpec.sparsity", "topk"),
            ("sparsity.kind", ..., "AutoencoderSpec.sparsity", "topk"),
            ("sparsity.kind", "auxk", "AutoencoderSpec.sparsity", "topk"),
            ("decoder.constraint.kind", "unitrows", "AutoencoderSpec.decoder.constraint", "'unit-rows'"),
            ("auxiliaries.0.kind", "l1", "AutoencoderSpec.auxiliaries[0]", "auxk"),
        ],
    )
    def test_an_unknown_or_missing_kind_is_named_with_its_place_and_the_nearest(
        self, path: str, value: object, place: str, meant: str
    ):
        with pytest.raises(ValueError, match=rf"^{re.escape(place)}: kind .*{meant}"):
            AutoencoderSpec.from_dict(spoiled(topk, path, value))

    @pytest.mark.parametrize("value", [["topk"], {"topk": 1}])
    def test_a_kind_that_is_no_word_is_named_with_its_place(self, value: object):
        with pytest.raises((ValueError, TypeError), match=r"AutoencoderSpec\.sparsity"):
            AutoencoderSpec.from_dict(spoiled(topk, "sparsity.kind", value))

    def test_a_spec_without_a_family_takes_no_kind(self):
        with pytest.raises(ValueError, match="TrainSpec: kind is unknown: 'adam'"):
            TrainSpec.from_dict({"kind": "adam"})

    @pytest.mark.parametrize(
        ("path", "place"),
        [("latents", "AutoencoderSpec"), ("sparsity", "AutoencoderSpec"), ("sparsity.k", r"\w+\.sparsity")],
    )
    def test_a_missing_field_is_named_with_its_place(self, path: str, place: str):
        with pytest.raises(ValueError, match=f"^{place}: missing field '{path.split('.')[-1]}'"):
            AutoencoderSpec.from_dict(spoiled(topk, path, ...))

    @pytest.mark.parametrize(
        ("field", "value", "expected"),
        [
            ("flag", 1, "bool"),
            ("flag", "true", "bool"),
            ("count", True, "int"),
            ("count", "3", "int"),
            ("count", 3.0, "int"),
            ("count", None, "int"),
            ("ratio", True, "float"),
            ("ratio", "0.5", "float"),
            ("word", 3, "str"),
            ("limit", "3", "int"),
            ("numbers", 1.0, "a list"),
            ("numbers", "12", "a list"),
            ("table", [], "a table"),
            ("inner", 3, "a table"),
        ],
    )
    def test_a_value_of_the_wrong_type_is_named_with_its_place(self, field: str, value: object, expected: str):
        with pytest.raises(TypeError, match=rf"^Everything\.{field}: expected {expected}, got "):
            Everything.from_dict(everything.to_dict() | {field: value})

    @pytest.mark.parametrize(
        ("field", "value", "place"),
        [("numbers", [1.0, "2"], "numbers[1]"), ("table", {"a": 1, "b": "2"}, "table.b")],
    )
    def test_a_wrong_entry_of_a_list_or_table_is_named(self, field: str, value: object, place: str):
        with pytest.raises(TypeError, match=rf"^Everything\.{re.escape(place)}: expected .*'2'"):
            Everything.from_dict(everything.to_dict() | {field: value})

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_that_are_none_are_refused(self, value: float):
        for field, given_value in (("ratio", value), ("numbers", [value])):
            with pytest.raises(ValueError, match=rf"^Everything\.{field}.*expected a finite number"):
                Everything.from_dict(everything.to_dict() | {field: given_value})

    def test_a_whole_number_is_a_number(self):
        read = Everything.from_toml('flag = true\ncount = 1\nratio = 2\nword = ""\nnumbers = [1, 2.5]')
        assert (read.ratio, read.numbers) == (2.0, (1.0, 2.5))
        assert type(read.ratio) is type(read.numbers[0]) is float

    def test_a_number_too_large_for_its_type_is_refused(self):
        with pytest.raises((ValueError, TypeError), match=r"Everything\.ratio"):
            Everything.from_dict(everything.to_dict() | {"ratio": 10**400})

    def test_a_word_outside_the_choice_is_named_with_the_nearest(self):
        with pytest.raises(ValueError, match=r"^Everything\.mode: 'fest'; did you mean 'fast'"):
            Everything.from_dict(everything.to_dict() | {"mode": "fest"})

    @pytest.mark.parametrize("data", [[], "x", 3, None])
    def test_what_is_no_table_is_refused(self, data: Any):
        with pytest.raises(TypeError, match="AutoencoderSpec: expected a table"):
            AutoencoderSpec.from_dict(data)

    def test_numbers_that_make_no_sense_together_are_refused_in_files_too(self):
        with pytest.raises(ValueError, match=r"40 .*32 latents"):
            AutoencoderSpec.from_dict(spoiled(topk, "sparsity.k", 40))
        with pytest.raises(ValueError, match=r"rows = 10 .*batch of 2,048"):
            TrainSpec.from_dict({"rows": 10})
        with pytest.raises(ValueError, match=r"\[\[preset\]\]"):
            Recipe.from_dict({"out": "x", "source": {"kind": "arrays", "path": "x.npy"}})


class TestFrozen:
    @given(autoencoder_specs() | train_specs())
    def test_no_field_can_be_set(self, spec: Spec):
        for field in dataclasses.fields(spec):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(spec, field.name, getattr(spec, field.name))

    def test_fields_are_given_by_name(self):
        with pytest.raises(TypeError):
            TopK(3)  # pyright: ignore[reportCallIssue]

    def test_replace_changes_a_copy(self):
        changed = topk.replace(latents=64, name="other")
        assert (changed.latents, changed.name, changed.sparsity) == (64, "other", topk.sparsity)
        assert (topk.latents, topk.name) == (32, "topk")
        assert changed.replace(latents=32, name="topk") == topk

    def test_replace_names_the_nearest_field(self):
        with pytest.raises(ValueError, match="AutoencoderSpec: unknown field 'latent'; did you mean 'latents'"):
            topk.replace(latent=3)
        with pytest.raises(ValueError, match="TopK: unknown field 'kind'"):
            TopK(k=3).replace(kind="relu")

    def test_replace_checks_what_the_constructor_checks(self):
        with pytest.raises(ValueError, match=r"4 .*more than the 3 latents"):
            topk.replace(latents=3)
        with pytest.raises(ValueError, match="at least 1; got 0"):
            TopK(k=4).replace(k=0)


class TestStrangers:
    """A variant defined outside the package is as good as one inside."""

    spec = preset("topk", input_width=8, latents=32, l0=4).replace(sparsity=Above(level=0.1))

    def test_is_known_by_its_kind(self):
        assert Sparsity.kinds()["stranger-above"] is Above
        assert Sparsity.from_dict({"kind": "stranger-above", "level": 1}) == Above(level=1.0)
        with pytest.raises(ValueError, match="did you mean 'stranger-above'"):
            Sparsity.from_dict({"kind": "stranger-abov", "level": 1})

    def test_survives_files(self, tmp_path: Path):
        assert AutoencoderSpec.from_toml(self.spec.to_toml()) == self.spec
        save(self.spec.build(), tmp_path / "sae")
        assert load(tmp_path / "sae").spec == self.spec

    def test_trains(self, generator: torch.Generator):
        x = torch.randn(64, 8, generator=generator)
        sae = self.spec.build(seed=0)
        train = TrainSpec(rows=640, batch=64)
        trainee = Trainee(sae, self.spec.task.bind(None), train, derive(train, self.spec))
        before = sae.loss(x).total.item()
        for step in range(5):
            trainee.step({"": x}, step)
        assert sae.loss(x).total.item() < before
        assert sae.encode(x).values.min() > 0.1

    def test_families_list_their_members_only(self):
        assert {"relu", "topk", "stranger-above"} <= set(Sparsity.kinds())
        assert set(Constraint.kinds()) >= {"free", "unit-rows", "non-negative"}
        assert {"reconstruct", "transcode", "crosscode", "cross-layer", "end-to-end"} <= set(Task.kinds())
        assert "auxk" not in Penalty.kinds()
        assert AutoencoderSpec.kinds() == {}


class TestNearest:
    @pytest.mark.parametrize(
        ("name", "known", "said"),
        [
            ("latens", ["latents", "name"], "did you mean 'latents'?"),
            ("zzz", ["latents", "name"], "known: latents, name"),
            ("zzz", [], "none are known"),
            (3, ["latents"], "known: latents"),
        ],
    )
    def test_says_the_closest_names_or_all(self, name: object, known: list[str], said: str):
        assert nearest(name, known) == said
