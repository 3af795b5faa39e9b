"""Block builders: attention, feed-forward, norm, embedding and head as ops, fused as kernels fuse them."""

from __future__ import annotations

from dataclasses import replace

from cosim.records import Array, array
from cosim.workload.elementwise import activation_work, norm_flop, norm_parameters
from cosim.workload.latent import latent_block
from cosim.workload.model import ModelArrays
from cosim.workload.moe import routed_block
from cosim.workload.ops import Attention, Axis, Collective, Graph, Group, Matmul, Vector, whole
from cosim.workload.seq2seq import EncoderArrays, Listening, cross_block, renamed
from cosim.workload.tokens import Tokens


def attention_block(model: ModelArrays, tokens: Tokens, *, absorbed: bool = False) -> Graph:
    """Projections, rotary and cache write, fused attention, output projection, sum over tensor ranks.

    `absorbed` names the form of latent attention; other models have one.
    """
    if model.is_latent:
        return latent_block(model, tokens, absorbed=absorbed)
    return replace(attention_products(model, tokens), attentions=attention_ops(model, tokens))


def attention_products(model: ModelArrays, tokens: Tokens) -> Graph:
    """What stands around the fused kernel of ordinary attention."""
    rows, query = tokens.rows, Axis(model.heads, model.head_dim)
    keys = Axis(model.kv_heads, model.head_dim)
    gates = (query,) if model.output_gate else ()
    qkv = Matmul("qkv", "layer", rows, (query, *gates, keys, keys), whole(model.hidden), "n", bias=model.qkv_bias)
    out = Matmul("attention_out", "layer", rows, (whole(model.hidden),), query, "k", bias=model.output_bias)
    # Rotary and the cache write touch query and keys once; the kernel reads and writes them in place.
    rope_flop = 6.0 if model.position == "rotary" else 0.0
    scales = (2.0 * model.head_dim if model.qk_norm else array(0.0)) + (model.heads if model.sinks else 0.0)
    rope = Vector(
        "rotary_and_cache", "layer", rows, (query, keys, keys), 1.0, 1.0, flop=rope_flop, splits=True, parameters=scales
    )
    summed = Collective("attention_sum", "layer", "all_reduce", rows, model.hidden, into="qkv", out_of="attention_out")
    # Side by side, both blocks are summed at once: by the feed-forward's collective.
    sums = () if model.parallel_norms else (summed,)
    gate = Vector("output_gate", "layer", rows, (query,), 2.0, 1.0, flop=6.0, special=1.0, splits=True)
    vectors = (rope, gate) if model.output_gate else (rope,)
    return Graph(tokens.phase, (qkv, out), (), vectors, sums)


def feed_forward(model: ModelArrays, tokens: Tokens, imbalance: Array) -> Graph:
    """The feed-forward of every layer: dense, or routed with dense ones first; of a hybrid in its share of them."""
    if model.mamba is not None:
        dense = scaled(feed_forward_block(model, tokens), model.mamba.dense)
        return joined(tokens.phase, (dense, routed_block(model, tokens, imbalance))) if model.is_moe else dense
    if not model.is_moe:
        return feed_forward_block(model, tokens)
    routed = routed_block(model, tokens, imbalance)
    if not model.has_dense_layers:
        return routed
    return joined(tokens.phase, (feed_forward_block(model, tokens, "dense"), routed))


def feed_forward_block(model: ModelArrays, tokens: Tokens, group: Group = "layer") -> Graph:
    """Gated (two projections in, product, one out) or plain feed-forward, and the sum over tensor ranks."""
    wide, hidden = whole(model.ffn), whole(model.hidden)
    parts = (wide, wide) if model.gated else (wide,)
    into = Matmul("ffn_in", group, tokens.rows, parts, hidden, "n", bias=model.ffn_bias)
    out = Matmul("ffn_out", group, tokens.rows, (hidden,), wide, "k", bias=model.ffn_bias)
    reads = 2.0 if model.gated else 1.0
    flop, special = activation_work(model)
    act = Vector("activation", group, tokens.rows, (wide,), reads, 1.0, flop=flop, special=special, splits=True)
    summed = Collective("ffn_sum", group, "all_reduce", tokens.rows, model.hidden, into="ffn_in", out_of="ffn_out")
    return Graph(tokens.phase, (into, out), (), (act,), (summed,))


def cross_attention_block(model: ModelArrays, tokens: Tokens, heard: Array, unread: Array) -> Graph:
    """Attention of every decoder layer to `heard` tokens of an encoder, with its norm; see `seq2seq.cross_block`.

    `unread` are weights a layer that lie in memory and that this step does not use.
    """
    norm = replace(_norm(model, tokens, "cross_norm", 2.0, 2.0, 1.0), table=whole(unread))
    asks = Listening(tokens.phase, tokens.rows, tokens.sequences, tokens.query, heard)
    query, keys = Axis(model.heads, model.head_dim), Axis(model.kv_heads, model.head_dim)
    biases = (model.qkv_bias, model.output_bias)
    return cross_block(asks, query, keys, whole(model.hidden), biases=biases, norm=norm)


def encoder_layers(model: ModelArrays, encoder: EncoderArrays, sequences: Array) -> Graph:
    """All layers of an encoder over its tokens and its last norm, counted a layer of the decoder."""
    tokens = Tokens("prefill", sequences, encoder.tokens, encoder.tokens)
    seen = replace(model, causal=False, sinks=False)
    parts = (norms(seen, tokens), attention_block(seen, tokens), feed_forward_block(seen, tokens))
    layers, one = joined(tokens.phase, parts), encoder.layers / model.layers
    last = _norm(seen, tokens, "norm_out", 1.0, 1.0, 1.0)
    last = replace(last, count=1.0 / model.layers)
    return renamed(joined(tokens.phase, (scaled(layers, one), Graph(tokens.phase, (), (), (last,), ()))))


def uncached(model: ModelArrays, block: Graph) -> Graph:
    """The block of an encoder: keys come from the layer before, and where nothing is rotated no kernel touches them."""
    vectors = block.vectors if model.position == "rotary" or model.qk_norm else ()
    return replace(block, vectors=vectors, attentions=tuple(replace(op, cached_keys=False) for op in block.attentions))


def scaled(graph: Graph, share: Array) -> Graph:
    """The graph in `share` of the layers."""
    return Graph(
        graph.phase,
        tuple(replace(op, count=op.count * share) for op in graph.matmuls),
        tuple(replace(op, count=op.count * share) for op in graph.attentions),
        tuple(replace(op, count=op.count * share) for op in graph.vectors),
        tuple(replace(op, count=op.count * share) for op in graph.collectives),
        tuple(replace(op, count=op.count * share) for op in graph.saved),
    )


def norms(model: ModelArrays, tokens: Tokens) -> Graph:
    """The two norms of a layer, each fused with its residual: read stream and branch, write stream and norm.

    A layer of a hybrid is one block and has one.

    Blocks side by side have one such kernel: it reads the stream and both branches and writes the stream and each norm.
    Norms after the blocks are kernels of their own.
    """
    beside = float(model.parallel_norms)
    each = beside or 1.0
    norm = _norm(model, tokens, "norm_and_residual", 3.0 if beside else 2.0, 1.0 + each, each)
    norm = replace(norm, count=array(1.0 if beside or model.mamba is not None else 2.0))
    after = replace(_norm(model, tokens, "post_norm", 1.0, 1.0, 1.0), count=array(2.0))
    return Graph(tokens.phase, (), (), (norm, after) if model.post_norms else (norm,), ())


def _norm(model: ModelArrays, tokens: Tokens, name: str, reads: float, writes: float, norms_made: float) -> Vector:
    """A kernel that makes `norms_made` norms of its rows, each with its own scales."""
    return Vector(
        name,
        "layer",
        tokens.rows,
        (whole(model.hidden),),
        reads=reads,
        writes=writes,
        flop=norm_flop(model) * norms_made,
        parameters=norm_parameters(model) * norms_made,
    )


def embedding(model: ModelArrays, tokens: Tokens) -> Graph:
    """Rows gathered from the table; the vocabulary is split over tensor ranks, so their sum follows.

    Learned positions are kept whole on every rank.
    """
    table = Axis(model.vocab, model.hidden)
    positions = model.max_positions * model.hidden if model.position == "learned" else array(0.0)
    width = (whole(model.hidden),)
    gather = Vector("embedding", "embed", tokens.rows, width, 1.0, 1.0, parameters=positions, table=table)
    summed = Collective("embedding_sum", "embed", "all_reduce", tokens.rows, model.hidden)
    return Graph(tokens.phase, (), (), (gather,), (summed,))


def head(model: ModelArrays, tokens: Tokens) -> Graph:
    """Last norm, logits of the last token of each sequence, their gathering, and the choice of a token."""
    rows, vocab = tokens.sequences, whole(model.vocab)
    scales = norm_parameters(model)
    norm = Vector("final_norm", "head", rows, (whole(model.hidden),), 1.0, 1.0, flop=5.0, parameters=scales)
    logits = Matmul(
        "logits", "head", rows, (vocab,), whole(model.hidden), "n", "head", owns_weights=not model.tied_embeddings
    )
    gathered = Collective("logits_gather", "head", "all_gather", rows, model.vocab)
    sample = Vector("sampling", "head", rows, (vocab,), 1.0, 0.0, flop=3.0, special=1.0)
    return Graph(tokens.phase, (logits,), (), (norm, sample), (gathered,))


def joined(phase: str, parts: tuple[Graph, ...]) -> Graph:
    """The parts as one graph, in the order given."""
    return Graph(
        phase,
        tuple(op for part in parts for op in part.matmuls),
        tuple(op for part in parts for op in part.attentions),
        tuple(op for part in parts for op in part.vectors),
        tuple(op for part in parts for op in part.collectives),
        tuple(op for part in parts for op in part.saved),
    )


def attention_ops(model: ModelArrays, tokens: Tokens) -> tuple[Attention, ...]:
    """One op for layers with full attention and one for those with a window, by their share of the layers."""

    def op(name: str, share: Array, *, windowed: bool) -> Attention:
        return Attention(
            name,
            "layer",
            tokens.phase,
            tokens.sequences,
            tokens.query,
            tokens.context,
            model.heads,
            model.kv_heads,
            model.head_dim,
            model.window,
            windowed,
            model.causal,
            share,
        )

    if not model.has_window:
        return (op("attention", array(1.0), windowed=False),)
    share = model.windowed_layers / model.layers
    return (
        op("attention", 1.0 - share, windowed=False),
        op("attention_window", share, windowed=True),
    )
