"""The forward graph of a training step: what serving runs, plus dropout and loss, and what is kept for the way back.

Every block lists the tensors that its gradients need. With them a layer of a GPT keeps, per token and
hidden element, 34 + 5 heads x length / hidden bytes, the count of Korthikanti et al. 2022, equation 1; nothing here
is that formula, which is a test. Attention is one fused kernel, or the five of an unfused stack.
"""

from __future__ import annotations

from dataclasses import replace

from cosim.records import Array, array
from cosim.workload.blocks import attention_block, feed_forward_block, joined
from cosim.workload.elementwise import norm_flop, norm_parameters
from cosim.workload.encoder import masked_loss
from cosim.workload.hybrid import hybrid_layers
from cosim.workload.model import ModelArrays
from cosim.workload.moe import UNIFORM, routed_block, routing_of
from cosim.workload.network import has_phase
from cosim.workload.network_training import network_training_graph
from cosim.workload.ops import Axis, Collective, Graph, Group, Matmul, Saved, Vector, whole
from cosim.workload.tokens import Tokens

HALF, MASK, FULL = 2.0, 1.0, 4.0
"""Bytes of an activation, of a dropout flag, of an fp32 number."""


def training_graph(
    model: ModelArrays, sequences: Array, length: Array, *, fused: bool, imbalance: Array = UNIFORM
) -> Graph:
    """Forward pass over `sequences` of `length` tokens with the loss of every token, and its saved tensors.

    Of a network of layers, `sequences` are items; its attention is fused whatever the software. Raises SpecError for
    what is not trained here.
    """
    if model.network:
        return network_training_graph(model.network, sequences, length)
    has_phase(model, "train")
    tokens = Tokens("train", sequences, length, length)
    attention = _attention(model, tokens) if fused else _unfused_attention(model, tokens)
    if model.mamba is not None:
        routed = _routed(model, tokens, imbalance) if model.is_moe else Graph("train")
        layers = hybrid_layers(model, model.mamba, tokens, attention, _feed_forward(model, tokens), routed)
        return joined("train", (_embedding(model, tokens), layers, _loss(model, tokens)))
    forward = _feed_forward(model, tokens) if not model.is_moe else _routed(model, tokens, imbalance)
    parts = (_embedding(model, tokens), attention, forward, _residuals(model, tokens))
    return joined("train", (*parts, _loss(model, tokens) if model.causal else masked_loss(model, tokens)))


def _attention(model: ModelArrays, tokens: Tokens) -> Graph:
    """The serving block, without cache; keeps query, keys, values, the output and a sum per row and head."""
    block = attention_block(model, tokens)
    heads = Axis(model.heads, array(1.0))
    saved = (
        *_projected(model, tokens),
        Saved("attention_sums", "layer", tokens.rows, (heads,), FULL, splits=True, core=True),
    )
    vectors = block.vectors if model.is_latent or model.position == "rotary" or model.qk_norm else ()
    return Graph("train", block.matmuls, block.attentions, vectors, block.collectives, saved)


def _unfused_attention(model: ModelArrays, tokens: Tokens) -> Graph:
    """Scores, softmax, dropout and context as kernels of their own, as Megatron ran them before fused attention.

    The scores are whole: a causal mask saves no work.
    """
    block = attention_block(model, tokens)
    rows, length = tokens.rows, tokens.query
    batch = Axis(model.heads, tokens.sequences)
    keys = whole(tokens.context)
    depth, value = _head_widths(model)
    scores = Matmul(
        "scores", "layer", length, (keys,), depth, "batch", "head", batch=batch, activations=True, core=True
    )
    context = Matmul(
        "context", "layer", length, (value,), keys, "batch", "head", batch=batch, activations=True, core=True
    )
    wide = (Axis(model.heads, tokens.context),)
    softmax = Vector("softmax", "layer", rows, wide, 1.0, 1.0, flop=6.0, special=1.0, splits=True, core=True)
    layout = Vector("context_layout", "layer", rows, (Axis(model.heads, value.size),), 1.0, 1.0, splits=True)
    dropped = Vector("score_dropout", "layer", rows, wide, 1.0, 1.0 + MASK / HALF, flop=3.0, splits=True, core=True)
    rotary = block.vectors if model.is_latent or model.position == "rotary" or model.qk_norm else ()
    vectors = (*rotary, softmax, *((dropped,) if model.dropout else ()), layout)
    saved = [*_projected(model, tokens), Saved("softmax", "layer", rows, wide, HALF, splits=True, core=True)]
    if model.dropout:
        saved.append(Saved("score_mask", "layer", rows, wide, MASK, splits=True, core=True))
        saved.append(Saved("dropped_scores", "layer", rows, wide, HALF, splits=True, core=True))
    return Graph("train", (*block.matmuls, scores, context), (), vectors, block.collectives, tuple(saved))


def _head_widths(model: ModelArrays) -> tuple[Axis, Axis]:
    """Width of a head's key and of its value."""
    if model.is_latent:
        return whole(model.head_dim + model.rope_dim), whole(model.value_dim)
    return whole(model.head_dim), whole(model.head_dim)


def _projected(model: ModelArrays, tokens: Tokens) -> tuple[Saved, ...]:
    """Input of the projections, latents; query, keys and values; input of the output projection."""
    rows, hidden = tokens.rows, (whole(model.hidden),)
    depth, value = _head_widths(model)
    query, out = Axis(model.heads, depth.size), Axis(model.heads, value.size)
    keys = (Axis(model.kv_heads, depth.size), Axis(model.kv_heads, value.size))
    latents = (whole(model.kv_latent + model.rope_dim), whole(model.query_latent))
    # The norm and the up-projection of a latent each keep their input.
    compressed = (Saved("latents", "layer", rows, latents, HALF, count=array(2.0)),) if model.is_latent else ()
    return (
        Saved("qkv_input", "layer", rows, hidden, HALF, sequence=True),
        *compressed,
        Saved("qkv", "layer", rows, (query, *keys), HALF, splits=True),
        Saved("attention_output", "layer", rows, (out,), HALF, splits=True),
    )


def _routed(model: ModelArrays, tokens: Tokens, imbalance: Array) -> Graph:
    """The serving block and the dense layers before it; keeps what each token's experts read and made."""
    block, rows = routed_block(model, tokens, imbalance), tokens.rows
    hidden, wide, two = whole(model.routed_width), whole(model.expert_ffn), 2 if model.gated else 1
    routing = routing_of(model, imbalance, "train")
    saved = [
        Saved("router_input", "moe", rows, (whole(model.hidden),), HALF, sequence=True),
        Saved("routed_input", "moe", rows, (hidden,), HALF, routed=routing),
        Saved("expert_activation_input", "moe", rows, (wide,) * two, HALF, splits=True, routed=routing),
        Saved("expert_activation_output", "moe", rows, (wide,), HALF, splits=True, routed=routing),
        Saved("routed_output", "moe", rows, (hidden,), HALF, routed=routing),
    ]
    if model.has_expert_latent:
        # What goes to the experts is kept with them; what comes back, by token.
        saved.append(Saved("latent_output", "moe", rows, (hidden,), HALF, sequence=True))
    if model.has_shared_experts:
        joint = whole(model.shared_experts * model.expert_ffn)
        saved.append(Saved("shared_activation_input", "moe", rows, (joint,) * two, HALF, splits=True))
        saved.append(Saved("shared_activation_output", "moe", rows, (joint,), HALF, splits=True))
    routed = Graph("train", block.matmuls, (), block.vectors, block.collectives, tuple(saved))
    return joined("train", (_feed_forward(model, tokens, "dense"), routed)) if model.has_dense_layers else routed


def _feed_forward(model: ModelArrays, tokens: Tokens, group: Group = "layer") -> Graph:
    """The serving block; keeps its input, the activation's inputs and its output.

    The gradient of a plain ReLU asks for its output alone. Where one norm feeds both blocks, attention has kept the
    input.
    """
    block = feed_forward_block(model, tokens, group)
    wide, rows = whole(model.ffn), tokens.rows
    into = (wide, wide) if model.gated else (wide,)
    saved = [Saved("activation_output", group, rows, (wide,), HALF, splits=True)]
    if model.gated or model.activation != "relu":
        saved.insert(0, Saved("activation_input", group, rows, into, HALF, splits=True))
    if model.parallel_norms != 1:
        saved.insert(0, Saved("ffn_input", group, rows, (whole(model.hidden),), HALF, sequence=True))
    return Graph("train", block.matmuls, (), block.vectors, block.collectives, tuple(saved))


def _residuals(model: ModelArrays, tokens: Tokens) -> Graph:
    """Norms and two sums with the residual stream (with dropout), each a kernel; rows split under SP.

    Two norms before the blocks, or as many as blocks side by side have, which all read the layer's input; a norm
    after a block keeps what the block made.
    """
    rows, width, two = tokens.rows, (whole(model.hidden),), array(2.0)
    before = model.parallel_norms or 2
    norm = Vector(
        "norm",
        "layer",
        rows,
        width,
        1.0,
        1.0,
        flop=norm_flop(model),
        parameters=norm_parameters(model),
        count=array(before),
        sequence=True,
        scales=True,
    )
    norms = (norm, replace(norm, name="post_norm", count=two)) if model.post_norms else (norm,)
    mask = MASK / HALF if model.dropout else 0.0
    add = Vector("residual", "layer", rows, width, 2.0, 1.0 + mask, flop=3.0, count=two, sequence=True)
    saved = [Saved("layer_input", "layer", rows, width, HALF, sequence=True, boundary=True)]
    if not model.parallel_norms:
        saved.append(Saved("second_norm_input", "layer", rows, width, HALF, sequence=True))
    if model.post_norms:
        saved.append(Saved("post_norm_input", "layer", rows, width, HALF, sequence=True, count=two))
    if model.dropout:
        saved.append(Saved("residual_mask", "layer", rows, width, MASK, sequence=True, count=two))
    return Graph("train", (), (), (*norms, add), (), tuple(saved))


def _embedding(model: ModelArrays, tokens: Tokens) -> Graph:
    """Rows gathered from the table, their sum over tensor ranks, positions and dropout."""
    table = Axis(model.vocab, model.hidden)
    positions = model.max_positions * model.hidden if model.position == "learned" else array(0.0)
    width = (whole(model.hidden),)
    gather = Vector("embedding", "embed", tokens.rows, width, 1.0, 1.0, parameters=positions, table=table)
    summed = Collective("embedding_sum", "embed", "all_reduce", tokens.rows, model.hidden)
    mask = (Saved("embedding_mask", "embed", tokens.rows, width, MASK, sequence=True, boundary=True),)
    return Graph("train", (), (), (gather,), (summed,), mask if model.dropout else ())


def _loss(model: ModelArrays, tokens: Tokens) -> Graph:
    """Last norm, logits of every token, cross entropy over the split vocabulary in fp32."""
    rows, vocab, width = tokens.rows, whole(model.vocab), (whole(model.hidden),)
    scales = norm_parameters(model)
    norm = Vector("final_norm", "head", rows, width, 1.0, 1.0, flop=5.0, parameters=scales, sequence=True, scales=True)
    logits = Matmul("logits", "head", rows, (vocab,), width[0], "n", "head", owns_weights=not model.tied_embeddings)
    # Logits are read as 16 bits and kept as fp32 probabilities; maximum, sum and target are summed over ranks.
    loss = Vector("cross_entropy", "head", rows, (vocab,), 1.0, 2.0, flop=4.0, special=1.0, splits=True)
    three = Collective("loss_sums", "head", "all_reduce", rows, array(FULL / HALF), array(3.0))
    gathered = Collective("logits_gather", "head", "sequence_gather", rows, model.hidden, into="logits")
    saved = (
        Saved("final_norm_input", "head", rows, width, HALF, sequence=True, boundary=True),
        Saved("logits_input", "head", rows, width, HALF, sequence=True, boundary=True),
        Saved("probabilities", "head", rows, (vocab,), FULL, splits=True, boundary=True),
    )
    return Graph("train", (logits,), (), (norm, loss), (three, gathered), saved)
