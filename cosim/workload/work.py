"""What a serving step works on: pieces of prompts and sequences that decode, in any mixture."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cosim.records import Array, array
from cosim.workload.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one step, leaves of shape () or (P,); a step of prompts alone has no decodes, and the other way round.

    `chunks` pieces of prompts of `chunk` tokens each, that have `past` tokens before them in the cache; `decodes`
    sequences that read `context` cached tokens and work on `each` new ones (1, or a draft and its check); `sampled`
    rows from which a token is drawn.
    """

    chunks: Array
    chunk: Array
    past: Array
    decodes: Array
    context: Array
    sampled: Array
    each: Array = field(default_factory=lambda: array(1.0))

    @property
    def new(self) -> Array:
        """Tokens of prompts that the step works on."""
        return self.chunks * self.chunk

    @property
    def tokens(self) -> Array:
        """All tokens that pass the layers."""
        return self.new + self.decodes * self.each

    @property
    def prompts(self) -> Tokens:
        """The pieces of prompts as attention sees them; where there are none one of one token, counted 0 times."""
        none = self.chunks <= 0.0
        chunk = np.where(none, 1.0, self.chunk)
        return Tokens("prefill", np.where(none, 1.0, self.chunks), chunk, np.where(none, 1.0, self.past + chunk))

    @property
    def answers(self) -> Tokens:
        """The decoding sequences as attention sees them, likewise."""
        none = self.decodes <= 0.0
        each, context = np.where(none, 1.0, self.each), np.where(none, 1.0, self.context)
        return Tokens("decode", np.where(none, 1.0, self.decodes), each, context)

    @property
    def prefills(self) -> Array:
        """1 where the step has pieces of prompts, else 0."""
        return np.where(self.chunks > 0.0, 1.0, 0.0)

    @property
    def decoding(self) -> Array:
        """1 where sequences decode in the step, else 0."""
        return np.where(self.decodes > 0.0, 1.0, 0.0)


def shared(work: Work, ranks: Array) -> Work:
    """The work of one of `ranks` that share out the sequences evenly."""
    return Work(
        work.chunks / ranks,
        work.chunk,
        work.past,
        work.decodes / ranks,
        work.context,
        work.sampled / ranks,
        work.each,
    )


def prefill_work(sequences: Array, prompt: Array) -> Work:
    """Whole prompts and nothing else."""
    zero = array(0.0)
    return Work(sequences, prompt, zero, zero, zero, sequences)


def decode_work(sequences: Array, context: Array) -> Work:
    """A token for each of `sequences`, against `context` cached tokens, and nothing else."""
    zero = array(0.0)
    return Work(zero, zero, zero, sequences, context, sequences)
