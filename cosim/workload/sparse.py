"""The index of sparse latent attention (DSA): a small attention that leaves each query the keys worth attending to.

    query    from the compressed query, heads x index_dim        key    from the stream, one for all heads, cached
    score    sum over heads of weight x max(0, query . key), for every key before the query
    choice   the index_keys best of each query; attention reads those alone, wherever they lie

Attention then sees what a window of as many keys would show it. The cache keeps every token: any may be chosen.
Indexes are priced as attention without values. DeepSeek-V3.2-Exp report (2025), equations 1 and 2.
"""

from __future__ import annotations

from cosim.records import array
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Attention, Axis, Graph, Matmul, Vector, whole
from cosim.workload.tokens import Tokens

FP32 = 2.0
"""An fp32 number in elements of 16 bits."""


def index_block(model: ModelArrays, tokens: Tokens) -> Graph:
    """Projections of the index, its scores of all keys and the choice; whole on every tensor rank but the queries."""
    rows, heads, width = tokens.rows, whole(model.index_heads), whole(model.index_dim)
    query = Axis(model.index_heads, model.index_dim)
    matmuls = (
        Matmul("index_query", "layer", rows, (query,), whole(model.query_latent), "none"),
        Matmul("index_key", "layer", rows, (width,), whole(model.hidden), "none"),
        Matmul("index_weights", "layer", rows, (heads,), whole(model.hidden), "none", "head"),
    )
    scores = Attention(
        "index_scores",
        "layer",
        tokens.phase,
        tokens.sequences,
        tokens.query,
        tokens.context,
        model.index_heads,
        array(1.0),
        model.index_dim,
        array(0.0),
        value_dim=array(0.0),
    )
    # A norm of the key with a shift; the scores of a query written and read once for the choice.
    norm = Vector("index_norm", "layer", rows, (width,), 1.0, 1.0, flop=8.0, parameters=2.0 * model.index_dim)
    choice = Vector("index_choice", "layer", rows, (whole(tokens.context),), FP32, FP32, flop=4.0)
    return Graph(tokens.phase, matmuls, (scores,), (norm, choice))
