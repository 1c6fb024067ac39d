"""What is wrong with files of dictionary_learning, Gemma Scope, OpenAI and llamascopium is said, and in which file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gossamer.interop import dictionary_learning, gemma_scope, llamascopium, openai

FIXTURES = Path(__file__).parent / "fixtures"

Table = dict[str, Any]


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """Copy the model of a case, such as "openai/topk", to where it can be spoilt."""

    def copy(case: str) -> Path:
        shutil.copytree(FIXTURES / case, tmp_path / "model")
        return tmp_path / "model"

    return copy


def change_json(path: Path, change: Callable[[Table], object]) -> None:
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def change_torch(path: Path, change: Callable[[Table], object]) -> None:
    table = torch.load(path, weights_only=True)
    change(table)
    torch.save(table, path)


def change_tensors(path: Path, change: Callable[[Table], object]) -> None:
    table = load_file(path)
    change(table)
    save_file({name: tensor.contiguous() for name, tensor in table.items()}, path)


def change_arrays(path: Path, change: Callable[[Table], object]) -> None:
    table = dict(np.load(path, allow_pickle=False).items())
    change(table)
    np.savez(path, **table)


def rename(table: Table, old: str, new: str) -> None:
    table[new] = table.pop(old)


def swap(table: Table, one: str, other: str) -> None:
    table[one], table[other] = table[other], table[one]


def spoil(table: Table, name: str) -> None:
    table[name][(0,) * table[name].ndim] = float("nan")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: rename(t, "encoder.bias", "encoder.bais"), "'encoder.bais'; did you mean 'encoder.bias'"),
        (lambda t: t.pop("b_dec"), "lacks the tensor 'b_dec'"),
        (lambda t: swap(t, "encoder.weight", "decoder.weight"), r"shape \(32, 64\), expected \(64, 32\)"),
        (lambda t: t.update({"b_dec": torch.zeros(31)}), r"b_dec has shape \(31,\)"),
        (lambda t: t.update({"b_dec": torch.zeros(32, dtype=torch.long)}), "dtype torch.int64"),
        (lambda t: spoil(t, "encoder.weight"), "encoder.weight holds NaN"),
        (lambda t: t.update({"k": torch.tensor(7)}), "trainer.k is 40, but ae.pt says 7"),
        (lambda t: t.update({"k": "40"}), "'k', which is no tensor"),
    ],
)
def test_tensors_of_dictionary_learning(copied: Callable[[str], Path], change: Callable[[Table], object], said: str):
    folder = copied("dictionary_learning/topk")
    change_torch(folder / "ae.pt", change)
    with pytest.raises(ValueError, match=said) as caught:
        dictionary_learning.read(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["trainer"].update(dict_class="AutoEncoderTopk"), "did you mean 'AutoEncoderTopK'"),
        (lambda t: t["trainer"].update(dict_class=["AutoEncoderTopK"]), "dict_class is a text"),
        (lambda t: t["trainer"].pop("dict_size"), "dict_size is a whole number"),
        (lambda t: t.update(trainer="TopKTrainer"), "trainer is an object"),
        (lambda t: t["trainer"].update(k=65), "more than the 64 latents"),
    ],
)
def test_configurations_of_dictionary_learning(
    copied: Callable[[str], Path], change: Callable[[Table], object], said: str
):
    folder = copied("dictionary_learning/topk")
    change_torch(folder / "ae.pt", lambda table: table.pop("k"))
    change_json(folder / "config.json", change)
    with pytest.raises(ValueError, match=said) as caught:
        dictionary_learning.read(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: rename(t, "threshold", "treshold"), "'treshold'; did you mean 'threshold'"),
        (lambda t: swap(t, "W_enc", "W_dec"), r"b_enc has shape \(64,\), expected \(32,\)"),
        (lambda t: spoil(t, "threshold"), "threshold holds NaN"),
        (lambda t: t.update(W_dec=t["W_dec"][0]), r"w_dec is a matrix, got \(32,\)"),
        (lambda t: t.pop("W_enc"), "w_enc is a matrix, got none"),
        (lambda t: t.update(b_dec=np.zeros(32, np.int32)), "dtype torch.int32"),
        (lambda t: t.update(scaling_factor=np.full(64, 2, np.float32)), "scaling_factor"),
    ],
)
def test_arrays_of_gemma_scope(copied: Callable[[str], Path], change: Callable[[Table], object], said: str):
    folder = copied("gemma_scope/compressed")
    change_arrays(folder / "params.npz", change)
    with pytest.raises(ValueError, match=said) as caught:
        gemma_scope.read(folder)
    assert str(folder) in str(caught.value)


def test_a_scaling_by_one_is_none(copied: Callable[[str], Path]):
    folder = copied("gemma_scope/compressed")
    change_arrays(folder / "params.npz", lambda t: t.update(scaling_factor=np.ones(64, np.float32)))
    assert gemma_scope.read(folder).sae.spec.latents == 64


def test_folders_of_gemma_scope_say_layer_and_l0():
    known = gemma_scope.read(FIXTURES / "gemma_scope/arrays/layer_12/width_16k/average_l0_82").sae.provenance
    assert known.site == "layer 12" and known.metrics == {"l0": 82}
    known = gemma_scope.read(FIXTURES / "gemma_scope/second").sae.provenance
    assert known.model == "gemma-v3-270m" and known.metrics == {"l0": 20}
    assert known.target == "model.layers.7.post_feedforward_layernorm.output"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(activation="Topk"), "did you mean 'TopK'"),
        (lambda t: t.update(activation=3), "activation 3 is not known"),
        (lambda t: t["activation_state_dict"].update(k=65), "whole number from 1 to 64, got 65"),
        (lambda t: t["activation_state_dict"].update(postact_fn="GELU"), "postact_fn is 'GELU'"),
        (lambda t: t.pop("encoder.weight"), "no matrix named 'encoder.weight'"),
        (lambda t: rename(t, "pre_bias", "b_pre"), "unexpected tensor 'b_pre'"),
        (lambda t: spoil(t, "latent_bias"), "latent_bias holds NaN"),
    ],
)
def test_checkpoints_of_openai(copied: Callable[[str], Path], change: Callable[[Table], object], said: str):
    path = copied("openai/topk") / "7.pt"
    change_torch(path, change)
    with pytest.raises(ValueError, match=said) as caught:
        openai.read(path)
    assert str(path) in str(caught.value)


def test_several_checkpoints_of_openai_are_found(tmp_path: Path):
    for name in ("6.pt", "layers/7.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(FIXTURES / "openai" / "relu" / "7.pt", tmp_path / name)
    torch.save({"optimizer": torch.zeros(1)}, tmp_path / "state.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK")
    assert openai.FORMAT.members(tmp_path) == ["6.pt", "layers/7.pt"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.update(sae_type="lorsa"), "reads the whole sequence"),
        (lambda t: t.update(sae_type="seo"), "did you mean 'sae'"),
        (lambda t: t.update(act_fn="tanh"), "act_fn 'tanh' is not known here"),
        (lambda t: t.update(act_fn="layertopk"), "for cross-layer transcoders only"),
        (lambda t: t.update(norm_activation="batch-wise"), "depend on its neighbours"),
        (lambda t: t.update(norm_activation="token-wise"), "not known when it is reconstructed"),
        (lambda t: t.update(hook_point_in="elsewhere"), "lacks the mean norm of the rows of 'elsewhere'"),
        (lambda t: t.update(expansion_factor=4.0), r"expected \(128,\)|expected \(32, 128\)"),
        (lambda t: t.update(use_decoder_bias=False), "unexpected tensor 'b_D'"),
        (lambda t: t.update(use_glu_encoder=True), "second encoder"),
    ],
)
def test_configurations_of_llamascopium(copied: Callable[[str], Path], change: Callable[[Table], object], said: str):
    folder = copied("llamascopium/transcoder")
    change_json(folder / "config.json", change)
    with pytest.raises(ValueError, match=said) as caught:
        llamascopium.read(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: rename(t, "W_E", "W_e"), "'W_e'; did you mean 'W_E'"),
        (lambda t: swap(t, "W_E", "W_D"), r"expected \(32, 64\)"),
        (lambda t: spoil(t, "b_D"), "b_D holds NaN"),
        (lambda t: t["dataset_average_activation_norm.blocks.3.hook_mlp_out"].zero_(), "is 0.0; it is damaged"),
    ],
)
def test_tensors_of_llamascopium(copied: Callable[[str], Path], change: Callable[[Table], object], said: str):
    folder = copied("llamascopium/transcoder")
    change_tensors(folder / "sae_weights.safetensors", change)
    with pytest.raises(ValueError, match=said) as caught:
        llamascopium.read(folder)
    assert str(folder) in str(caught.value)


def test_mean_norms_that_are_not_used_may_be_anything(copied: Callable[[str], Path]):
    """llamascopium writes what happens to be in memory where rows are not scaled by them."""
    folder = copied("llamascopium/jumprelu_inference")
    name = "dataset_average_activation_norm.blocks.3.hook_resid_mid"
    change_tensors(folder / "sae_weights.safetensors", lambda t: t[name].fill_(float("nan")))
    llamascopium.read(folder)


def test_weights_of_llamascopium_may_be_a_file_of_torch_save(copied: Callable[[str], Path]):
    folder = copied("llamascopium/relu")
    tensors = load_file(folder / "sae_weights.safetensors")
    expected = llamascopium.read(folder).sae.state_dict()
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        llamascopium.read(folder)
    torch.save({"sae": tensors, "version": "2.0"}, folder / "sae_weights.pt")
    found = llamascopium.read(folder).sae.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_fold_that_overflows_is_refused(copied: Callable[[str], Path]):
    folder = copied("llamascopium/jumprelu_plain")
    name = "activation_function.log_jumprelu_threshold"
    change_tensors(folder / "sae_weights.safetensors", lambda t: t[name].fill_(1e4))
    with pytest.raises(ValueError, match="threshold holds NaN or infinite"):
        llamascopium.read(folder)


def test_what_is_folded_is_said():
    notes = llamascopium.read(FIXTURES / "llamascopium" / "topk").notes
    assert len(notes) == 1 and "norms of its decoder rows" in notes[0]
    assert (
        "norms of the decoder's rows"
        in dictionary_learning.read(FIXTURES / "dictionary_learning/standard_april").notes[0]
    )
    assert not dictionary_learning.read(FIXTURES / "dictionary_learning" / "standard").notes


def test_where_a_model_of_dictionary_learning_comes_from_is_known():
    known = dictionary_learning.read(FIXTURES / "dictionary_learning" / "topk").sae.provenance
    assert known.model == "EleutherAI/pythia-70m" and known.site == "layer 3" and known.seed == 0
    assert json.loads(known.other["k"]) == 40
