"""Mamba-2 mixers of a hybrid when it serves: a state in place of a growing cache, as linear attention has one.

    prefill   the scan in chunks (`network_graph.scan_ops`), whose last states stay
    decode    one pass over the states: H = a H + (dt x) B^T, read by H C, all in one kernel (`_step`)

States are fp32. Every layer of a hybrid is one block behind one norm, fused with its residual (`blocks.norms`).
"""

from __future__ import annotations

from dataclasses import replace

from cosim.records import array
from cosim.workload.hybrid import mixer
from cosim.workload.mamba import MambaArrays
from cosim.workload.model import ModelArrays
from cosim.workload.ops import Attention, Graph
from cosim.workload.tokens import Tokens

SCAN = "scan."
"""What names of the scan's kernels begin with."""


def served_mixer(model: ModelArrays, mamba: MambaArrays, tokens: Tokens) -> Graph:
    """One mixer and the sum over tensor ranks; nothing is kept for a way back."""
    made, decodes = mixer(model, mamba, tokens), tokens.phase == "decode"
    # The scan owns A, D and the bias of dt, a number a head each; a step has no scan.
    owned = 3.0 * mamba.heads
    vectors = []
    for op in made.vectors:
        if op.name == "gated_norm":
            vectors.append(replace(op, parameters=op.parameters + owned))
        elif not op.name.startswith(SCAN):
            vectors.append(op)
        elif not decodes:
            vectors.append(replace(op, parameters=array(0.0)))
    matmuls = tuple(op for op in made.matmuls if not (decodes and op.name.startswith(SCAN)))
    attentions = (_step(mamba, tokens),) if decodes else ()
    return Graph(tokens.phase, matmuls, attentions, tuple(vectors), made.collectives)


def _step(mamba: MambaArrays, tokens: Tokens) -> Attention:
    """One token of each sequence against its states, which lie in DRAM: those of all layers fit no cache.

    As a kernel it is attention to `state` rows, whose elements are read and written at fp32, four of 16 bits. So told
    it counts 8 FLOP an element, where the rule has 5 (fade, product, sum, dot): its bytes bound it by far.
    """
    row = 2.0 * mamba.head_dim
    return Attention(
        "mamba_step",
        "layer",
        tokens.phase,
        tokens.sequences,
        tokens.query,
        mamba.state,
        mamba.heads,
        mamba.heads,
        row,
        array(0.0),
        cached_keys=False,
    )
