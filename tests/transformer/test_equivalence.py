"""The transformer computes what those of torch and Hugging Face do, where they coincide; its gradients are right."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from gossamer.transformer import Block, Layer, NoPositions, Sinusoidal
from gossamer.transformer.attention import CrossAttention, SelfAttention
from gossamer.transformer.layers import Dropout
from gossamer.transformer.vocabulary import PAD
from tests.transformer.conftest import SOURCE, TARGET, lively, sequences, spec_of

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Give one of our linear maps, or a norm, the weights of theirs."""
    ours.load_state_dict(theirs.state_dict())


def copy_attention(ours: SelfAttention | CrossAttention, theirs: nn.MultiheadAttention) -> None:
    width = theirs.embed_dim
    with torch.no_grad():
        if isinstance(ours, SelfAttention):
            ours.projection.weight.copy_(theirs.in_proj_weight)
            ours.projection.bias.copy_(theirs.in_proj_bias)
        else:
            ours.queries.weight.copy_(theirs.in_proj_weight[:width])
            ours.queries.bias.copy_(theirs.in_proj_bias[:width])
            ours.keys_values.weight.copy_(theirs.in_proj_weight[width:])
            ours.keys_values.bias.copy_(theirs.in_proj_bias[width:])
        copy(ours.output, theirs.out_proj)


def copy_layer(ours: Layer, theirs: nn.Module) -> None:
    """Give a layer the weights of torch's TransformerEncoderLayer or TransformerDecoderLayer."""
    copy_attention(ours.self_attention, theirs.self_attn)
    norms = [ours.self_attention_norm, ours.feed_forward_norm]
    if ours.cross_attention is not None:
        copy_attention(ours.cross_attention, theirs.multihead_attn)
        norms.insert(1, ours.cross_attention_norm)
    for number, norm in enumerate(norms, start=1):
        copy(norm, getattr(theirs, f"norm{number}"))
    copy(ours.feed_forward.wide, theirs.linear1)
    copy(ours.feed_forward.narrow, theirs.linear2)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_encoder_and_decoder_equal_those_of_torch_with_the_same_weights(norm: str):
    ours = lively(spec_of(block=Block(norm=norm, dropout=0.0)))
    theirs = nn.Transformer(
        24, 3, 2, 2, 40, dropout=0.0, batch_first=True, norm_first=norm == "pre", activation="relu"
    ).eval()
    for stack, other in ((ours.encoder, theirs.encoder), (ours.decoder, theirs.decoder)):
        for layer, their_layer in zip(stack.layers, other.layers, strict=True):
            copy_layer(layer, their_layer)
        if norm == "pre":
            copy(stack.norm, other.norm)
        else:
            other.norm = None  # torch normalizes once more after the last norm of its layers
    source, target = sequences(6, SOURCE, seed=1), sequences(6, TARGET, seed=2, start=True)
    x, y = (
        (stack.order(stack.embedding(ids) * math.sqrt(24))).detach()
        for stack, ids in ((ours.encoder, source), (ours.decoder, target))
    )
    hidden = nn.Transformer.generate_square_subsequent_mask(y.shape[1]).isinf()
    padding = source == PAD
    with torch.no_grad():
        expected = theirs(x, y, tgt_mask=hidden, src_key_padding_mask=padding, memory_key_padding_mask=padding)
        assert_close(ours(source, target), ours.output(expected), **TOLERANCE)


def test_layers_equal_those_of_bart():
    bart = pytest.importorskip("transformers.models.bart.modeling_bart")
    config = bart.BartConfig(
        d_model=24, encoder_attention_heads=3, decoder_attention_heads=3, encoder_ffn_dim=40, decoder_ffn_dim=40
    )
    config._attn_implementation = "eager"
    memory, x = torch.randn(2, 7, 24), torch.randn(2, 5, 24)
    theirs = bart.BartDecoderLayer(config).eval()
    ours = Layer(width=24, hidden=40, heads=3, block=Block(norm="post", activation="gelu"), cross=True).eval()
    with torch.no_grad():
        copy_bart(ours, theirs)
        expected = theirs(x, encoder_hidden_states=memory)
        assert_close(ours(x, None, memory), first(expected), **TOLERANCE)
    theirs = bart.BartEncoderLayer(config).eval()
    ours = Layer(width=24, hidden=40, heads=3, block=Block(norm="post", activation="gelu")).eval()
    with torch.no_grad():
        copy_bart(ours, theirs)
        assert_close(ours(x), first(theirs(x, attention_mask=None)), **TOLERANCE)


def copy_bart(ours: Layer, theirs: nn.Module) -> None:
    a = theirs.self_attn
    parts = [a.q_proj, a.k_proj, a.v_proj]
    ours.self_attention.projection.weight.copy_(torch.cat([part.weight for part in parts]))
    ours.self_attention.projection.bias.copy_(torch.cat([part.bias for part in parts]))
    copy(ours.self_attention.output, a.out_proj)
    copy(ours.self_attention_norm, theirs.self_attn_layer_norm)
    if ours.cross_attention is not None:
        a = theirs.encoder_attn
        copy(ours.cross_attention.queries, a.q_proj)
        ours.cross_attention.keys_values.weight.copy_(torch.cat([a.k_proj.weight, a.v_proj.weight]))
        ours.cross_attention.keys_values.bias.copy_(torch.cat([a.k_proj.bias, a.v_proj.bias]))
        copy(ours.cross_attention.output, a.out_proj)
        copy(ours.cross_attention_norm, theirs.encoder_attn_layer_norm)
    copy(ours.feed_forward.wide, theirs.fc1)
    copy(ours.feed_forward.narrow, theirs.fc2)
    copy(ours.feed_forward_norm, theirs.final_layer_norm)


def first(output: object) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def test_attention_equals_that_of_t5_without_its_bias_for_distances():
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    config = t5.T5Config(d_model=24, d_kv=8, num_heads=3, dropout_rate=0.0, is_decoder=False)
    theirs = t5.T5Attention(config, has_relative_attention_bias=False).eval()
    ours = SelfAttention(width=24, heads=3)
    with torch.no_grad():
        scaled = theirs.q.weight * math.sqrt(8)  # T5 does not divide by the root of the head's width
        ours.projection.weight.copy_(torch.cat([scaled, theirs.k.weight, theirs.v.weight]))
        ours.projection.bias.zero_()
        ours.output.weight.copy_(theirs.o.weight)
        ours.output.bias.zero_()
        x = torch.randn(2, 6, 24)
        assert_close(ours(x), first(theirs(x)), **TOLERANCE)


def test_sinusoids_are_those_of_marian_in_another_order():
    marian = pytest.importorskip("transformers.models.marian.modeling_marian")
    theirs = marian.MarianSinusoidalPositionalEmbedding(40, 24).create_weight()
    ours = Sinusoidal(longest=40).build(width=24, heads=3)(torch.zeros(1, 40, 24))[0]
    assert_close(torch.cat([ours[:, ::2], ours[:, 1::2]], dim=1), theirs, **TOLERANCE)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["gelu", "swish"])  # the corner of ReLU has no derivative
def test_gradients_are_right(norm: str, activation: str):
    layer = Layer(
        width=6, hidden=8, heads=2, block=Block(norm=norm, activation=activation, dropout=0.0), causal=True, cross=True
    ).double()
    generator = torch.Generator().manual_seed(0)
    x, memory = (torch.randn(2, n, 6, dtype=torch.float64, generator=generator) for n in (4, 3))
    mask = torch.tensor([[True, True, False], [True, True, True]])[:, None, None]
    x.requires_grad_()
    memory.requires_grad_()
    weights = [weight.requires_grad_() for weight in layer.parameters()]

    def function(x: Tensor, memory: Tensor, *_: Tensor) -> Tensor:
        return layer(x, None, memory, mask)

    assert torch.autograd.gradcheck(function, (x, memory, *weights))


def test_causal_attention_stays_causal_under_a_mask():
    attention = lively(spec_of()).decoder.layers[0].self_attention
    x = torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 3:] += 1
    mask = torch.ones(1, 1, 1, 5, dtype=torch.bool)
    with torch.no_grad():
        assert_close(attention(x, mask), attention(x), **TOLERANCE)
        assert torch.equal(attention(x, mask)[:, :3], attention(changed, mask)[:, :3])
        mask[..., 1] = False
        assert attention.weights(x, mask)[..., 1].abs().max() == 0
        assert not torch.allclose(attention(x, mask)[:, 2], attention(x)[:, 2])


def test_without_positions_the_order_of_the_source_changes_nothing_and_with_them_it_does():
    source = sequences(1, SOURCE, seed=4)
    order = torch.randperm(source.shape[1], generator=torch.Generator().manual_seed(0))
    for positions, alike in ((NoPositions(), True), (Sinusoidal(), False)):
        model = lively(spec_of(positions=positions))
        with torch.no_grad():
            states, moved = model.encode(source), model.encode(source[:, order])
        assert torch.allclose(states[:, order], moved, atol=1e-5) is alike


def test_rotary_scores_depend_on_distance_alone():
    attention = lively(spec_of("pre-rotary")).encoder.layers[0].self_attention
    x = torch.randn(1, 1, 24).expand(1, 30, 24)  # the same vector everywhere: only positions can tell them apart
    weights = attention.weights(x)[0]
    scores = weights.log() - weights.log().diagonal(dim1=1, dim2=2)[:, :, None]
    for distance in (1, 5):
        band = scores.diagonal(offset=distance, dim1=1, dim2=2)
        assert_close(band, band[:, :1].expand_as(band), rtol=0, atol=1e-4)
    assert scores.std() > 0.01


def test_attention_weights_are_those_that_the_fused_kernel_uses():
    layer = lively(spec_of()).decoder.layers[0]
    x, memory = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])[:, None, None]
    for attention, given in ((layer.self_attention, (x,)), (layer.cross_attention, (x, memory, mask))):
        with torch.no_grad():
            weights = attention.weights(*given)
            assert_close(weights.sum(dim=-1), torch.ones(2, 3, 5))
            if attention is layer.self_attention:
                values = attention.projection(x)[..., 48:]
            else:
                values = attention.keys_values(memory)[..., 24:]
            heads = values.unflatten(2, (3, 8)).transpose(1, 2)
            expected = attention.output((weights @ heads).transpose(1, 2).flatten(2))
            assert_close(attention(*given), expected, **TOLERANCE)


def test_dropout_drops_its_share_keeps_the_mean_and_does_nothing_outside_training():
    torch.manual_seed(0)
    part, x = Dropout(0.3), torch.ones(100_003)
    y = part.train()(x)
    assert abs(float((y == 0).float().mean()) - 0.3) < 0.006
    assert abs(float(y.mean()) - 1) < 0.01
    neighbors = (y[:-1] == 0) & (y[1:] == 0)
    assert abs(float(neighbors.float().mean()) - 0.09) < 0.005, "entries of one drawn number are not independent"
    assert torch.equal(part.eval()(x), x)
