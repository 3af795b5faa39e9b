"""The heads of an encoder as BERT has them (Devlin et al. 2018): to fill in masked tokens, and as it is served.

masked tokens   product, activation, norm, logits over the vocabulary, cross entropy, for `predicted_share` of the
                positions: all where software computes them all, masked ones alone where it picks them
next sentence   product on the first token of each sequence and tanh; its two classes are left out
embedding       a norm of its own (layers have theirs after each block, as many as a decoder)
served          that product on the first token and tanh, and nothing else: what the sequence means
"""

from __future__ import annotations

from cosim.records import array
from cosim.workload.elementwise import norm_flop, norm_parameters
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Collective, Graph, Matmul, Saved, Vector, whole
from cosim.workload.tokens import Tokens

HALF, FULL = 2.0, 4.0
"""Bytes of an activation, of an fp32 number."""


def pooled(model: ModelArrays, tokens: Tokens) -> Graph:
    """The norm of the embedding, and of each sequence its first token as the pooler makes it."""
    hidden, scales = whole(model.hidden), norm_parameters(model)
    matmul = Matmul("pooler", "head", tokens.sequences, (hidden,), hidden, "none", "head", bias=1)
    vectors = (
        Vector("embedding_norm", "embed", tokens.rows, (hidden,), 1.0, 1.0, flop=norm_flop(model), parameters=scales),
        Vector("pooler_tanh", "head", tokens.sequences, (hidden,), 1.0, 1.0, flop=6.0, special=1.0),
    )
    return Graph(tokens.phase, (matmul,), (), vectors)


def masked_loss(model: ModelArrays, tokens: Tokens) -> Graph:
    """Head and loss of a micro-batch, and the norm of the embedding."""
    rows, hidden, vocab = tokens.rows * model.predicted_share, whole(model.hidden), whole(model.vocab)
    width, scales, flop = (hidden,), norm_parameters(model), norm_flop(model)
    matmuls = (
        Matmul("masked_transform", "head", rows, (hidden,), hidden, "none", "head", bias=1),
        Matmul("logits", "head", rows, (vocab,), hidden, "n", "head", bias=1, owns_weights=not model.tied_embeddings),
        Matmul("pooler", "head", tokens.sequences, (hidden,), hidden, "none", "head", bias=1),
    )
    vectors = (
        Vector("embedding_norm", "embed", tokens.rows, width, 1.0, 1.0, flop=flop, parameters=scales, scales=True),
        Vector("masked_activation", "head", rows, width, 1.0, 1.0, flop=6.0, special=1.0),
        Vector("masked_norm", "head", rows, width, 1.0, 1.0, flop=flop, parameters=scales, scales=True),
        Vector("pooler_tanh", "head", tokens.sequences, width, 1.0, 1.0, flop=6.0, special=1.0),
        Vector("cross_entropy", "head", rows, (vocab,), 1.0, 2.0, flop=4.0, special=1.0, splits=True),
    )
    collectives = (Collective("loss_sums", "head", "all_reduce", rows, array(FULL / HALF), array(3.0)),)
    saved = (
        Saved("embedding_norm_input", "embed", tokens.rows, width, HALF, boundary=True),
        Saved("masked_input", "head", rows, width, HALF, boundary=True),
        Saved("masked_activation_input", "head", rows, width, HALF, boundary=True),
        Saved("masked_norm_input", "head", rows, width, HALF, boundary=True),
        Saved("logits_input", "head", rows, width, HALF, boundary=True),
        Saved("probabilities", "head", rows, (vocab,), FULL, splits=True, boundary=True),
    )
    return Graph("train", matmuls, (), vectors, collectives, saved)
