"""Energy of a run: of every step beyond idle, of attention by request, and of chips that stand by.

    steps      linear(tokens) + head(rows), by the tokens of each run of steps
    drafts     of a model that drafts: its own steps and attention, once for each draft of a decoding sequence
    attention  prompt tokens not in a cache x prefill(mean keys) + (output - 1) x decode(prompt + output / 2)
    idle       power of idle chips x the time that replicas were paid for

What is computed twice after a preemption counts in the steps and not in attention.
"""

from __future__ import annotations

import numpy as np

from cosim.engines.serving.replica import Segment
from cosim.engines.serving.result import SEGMENT
from cosim.engines.serving.steps import StepEnergy
from cosim.explore.serving.records import Served
from cosim.records import Array, array


class Joules:
    """Sums the energy of a pool's steps and of the attention of its requests [J].

    A decoding sequence puts `verified` tokens into a step and takes `step_tokens` from it on average; `draft` is the
    model that makes all but one of them, None where nothing does.
    """

    def __init__(
        self, energy: StepEnergy, verified: int = 1, step_tokens: float = 1.0, draft: StepEnergy | None = None
    ) -> None:
        self.energy, self.verified, self.step_tokens, self.draft = energy, verified, step_tokens, draft
        self.steps_j = self.attention_j = 0.0

    def add_steps(self, rows: list[Segment]) -> None:
        """Counts runs of steps of the pool's replicas."""
        if not rows:
            return
        columns = dict(zip(SEGMENT, array(rows).T, strict=True))
        steps, prompts = columns["steps"], columns["prefill_tokens"]
        decoding = columns["decodes"] * self.verified
        # Prompts are told of a whole run, which has one step where there are any.
        new = prompts / steps + decoding
        drawn = decoding + (prompts > 0.0)
        each = _over(self.energy.tokens, self.energy.linear_j, new)
        each = each + _over(self.energy.tokens, self.energy.head_j, drawn)
        if self.draft is not None:
            sequences = columns["decodes"]
            one = _over(self.draft.tokens, self.draft.linear_j, sequences)
            each = each + (self.verified - 1) * (one + _over(self.draft.tokens, self.draft.head_j, sequences))
        self.steps_j += float((each * steps).sum())

    def add_prompts(self, served: Served) -> None:
        """Counts attention of prompts."""
        own = served.prompt_tokens - served.cached_tokens
        keys = served.cached_tokens + (own + 1.0) / 2.0
        self.attention_j += float((own * np.interp(keys, self.energy.contexts, self.energy.prefill_j)).sum())

    def add_answers(self, served: Served) -> None:
        """Counts attention of answers: a step for each token after the first."""
        keys = served.prompt_tokens + served.output_tokens / 2.0
        each = np.interp(keys, self.energy.contexts, self.energy.decode_j)
        if self.draft is not None:
            each = each + (self.verified - 1) * np.interp(keys, self.draft.contexts, self.draft.decode_j)
        self.attention_j += float(((served.output_tokens - 1.0) / self.step_tokens * each).sum())

    def total_j(self, replica_s: float) -> float:
        """All of it, with chips that idle so many seconds of replicas."""
        return self.steps_j + self.attention_j + self.energy.idle_w * replica_s


def _over(points: Array, values: Array, at: Array) -> Array:
    """Straight lines between points from 0 at none, nothing of no token."""
    found: Array = np.where(at > 0.0, np.interp(at, points, values), 0.0)
    return found
