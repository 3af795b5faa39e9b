"""Orders of passes of the schedules beyond 1F1B, and where a pass hands on to.

A block is what a stage runs without handing anything on in between: one pass, a backward pass with its weight gradient,
or under dualpipe a forward and a backward pass together. Pieces of zb-v: 0 on the way down the stages, 1 on the way
back up. Pieces of dualpipe: 0 for micro-batches that enter at the first stage, 1 for those that enter at the last;
each direction counts its own.
"""

from __future__ import annotations

from cosim.mapping.schedules import SPLIT

Pass = tuple[str, int, int]
"""(forward, backward or weight; piece; micro-batch)"""
Block = tuple[Pass, ...]
PERIOD = 6
"""Passes of a micro-batch on a stage under zb-v: two pieces, forward, backward, weight."""


def orders(schedule: str, stages: int, micro_batches: int) -> list[list[Block]]:
    """Blocks of every stage in the order it runs them. Raises ValueError for a schedule that has none here."""
    every = range(stages)
    if schedule == "gpipe":
        return [_gpipe(micro_batches) for _ in every]
    if schedule == "zb-h1":
        return [_zero_bubble(stages, micro_batches, stage) for stage in every]
    if schedule == "zb-v":
        return _filled(_shape_v(stages, micro_batches), 2 * stages)
    if schedule == "dualpipe":
        return [_Both(stages, micro_batches, stage).blocks() for stage in every]
    raise ValueError(f"no order of passes is known for {schedule}")


def entries(schedule: str, stages: int, micro_batches: int) -> list[tuple[int, Pass]]:
    """(stage, pass) of every forward pass that waits for nothing."""
    if schedule == "dualpipe":
        ends = ((0, 0), (stages - 1, 1))
        return [(stage, ("forward", piece, k)) for stage, piece in ends for k in range(micro_batches // 2)]
    return [(0, ("forward", 0, k)) for k in range(micro_batches)]


def following(schedule: str, stages: int, stage: int, done: Pass) -> tuple[int, Pass] | None:
    """Stage and pass that wait for a pass; None where none does. Weight gradients follow their pass on its stage."""
    kind, piece, micro = done
    if kind == "weight":
        return None
    down = (kind == "forward") == (piece == 0)
    end = stage == (stages - 1 if down else 0)
    if not end:
        return stage + (1 if down else -1), done
    if schedule == "zb-v" and (kind, piece) == ("forward", 0):
        return stage, ("forward", 1, micro)
    if schedule == "zb-v" and (kind, piece) == ("backward", 1):
        return stage, ("backward", 0, micro)
    return (stage, ("backward", piece, micro)) if kind == "forward" else None


def last_pass(schedule: str) -> str:
    """Kind of the pass that completes the gradients of a micro-batch."""
    return "weight" if schedule in SPLIT else "backward"


def _gpipe(micro_batches: int) -> list[Block]:
    """All forward, then all back."""
    return [((kind, 0, k),) for kind in ("forward", "backward") for k in range(micro_batches)]


def _zero_bubble(stages: int, micro_batches: int, stage: int) -> list[Block]:
    """1F1B; the weight gradient of a micro-batch waits for as many others as there are stages in front."""
    ahead = min(stages - 1 - stage, micro_batches)
    order: list[Block] = [(("forward", 0, k),) for k in range(ahead)]
    for k in range(micro_batches):
        if k + ahead < micro_batches:
            order.append((("forward", 0, k + ahead),))
        order.append((("backward", 0, k),))
        if k >= stage:
            order.append((("weight", 0, k - stage),))
    return order + [(("weight", 0, k),) for k in range(max(micro_batches - stage, 0), micro_batches)]


def _shape_v(stages: int, micro_batches: int) -> list[list[Pass]]:
    """Forward and backward passes of every stage in the order of a pattern that repeats after PERIOD equal passes.

    Passes on the way down the pipeline (forward of piece 0, backward of piece 1) lie one pass apart from stage to
    stage, those on the way up PERIOD - 1: on every stage the four kinds keep their distance, and never collide.
    """
    up = PERIOD - 1
    found: list[list[Pass]] = []
    for stage in range(stages):
        behind = stages - 1 - stage
        turned = stages + up * (stages - 1)  # forward of piece 1 on the first stage
        starts = {
            ("forward", 0): stage,
            ("forward", 1): stages + up * behind,
            ("backward", 1): turned + 1 + stage,
            ("backward", 0): turned + 1 + stages + up * behind,
        }
        when = [(t + PERIOD * k, (kind, piece, k)) for (kind, piece), t in starts.items() for k in range(micro_batches)]
        found.append([one for _, one in sorted(when)])
    return found


def _filled(order: list[list[Pass]], most: int) -> list[list[Block]]:
    """The order with weight gradients put where equal passes would leave a stage waiting.

    `most` pieces are live on a stage at once: a forward pass beyond that waits for a weight gradient.
    """
    stages = len(order)
    found: list[list[Block]] = [[] for _ in order]
    at, live, clock = [0] * stages, [0] * stages, 0
    kept: list[list[Pass]] = [[] for _ in order]
    ready = dict.fromkeys(entries("zb-v", stages, sum(one[:2] == ("forward", 0) for one in order[0])), 0)
    while any(at[s] < len(order[s]) or kept[s] for s in range(stages)):
        for s in range(stages):
            step = order[s][at[s]] if at[s] < len(order[s]) else None
            if step and (step[0] == "backward" or live[s] < most) and ready.get((s, step), clock + 1) <= clock:
                at[s] += 1
                live[s] += step[0] == "forward"
                if step[0] == "backward":
                    kept[s].append(("weight", *step[1:]))
                following_one = following("zb-v", stages, s, step)
                if following_one:
                    ready[following_one] = clock + 1
                found[s].append((step,))
            elif kept[s]:
                found[s].append((kept[s].pop(0),))
                live[s] -= 1
        clock += 1
    return found


class _Both:
    """The order of one stage under dualpipe: `own` micro-batches come from the nearer end, `other` from the far one."""

    def __init__(self, stages: int, micro_batches: int, stage: int) -> None:
        self.half, self.each, self.stages = stages // 2, micro_batches // 2, stages
        self.near = min(stage, stages - 1 - stage)
        own = 0 if stage < self.half else 1
        self.piece = {"own": own, "other": 1 - own}
        self.count = {(kind, of): 0 for kind in ("forward", "backward") for of in ("own", "other")}
        self.kept: list[Pass] = []
        self.order: list[Block] = []

    def blocks(self) -> list[Block]:
        """Passes in eight phases: fill, turn, main phase of pairs, and back."""
        behind = self.half - 1 - self.near
        for _ in range(2 * behind):
            self._run(self._next("forward", "own"))
        for _ in range(self.near + 1):
            self._run(self._next("forward", "own"))
            self._run(self._next("forward", "other"))
        for _ in range(behind):
            self._run(self._next("backward", "other"), later=True)
            self._weight()
            self._run(self._next("forward", "other"))
        for k in range(self.each - self.stages + self.near + 1):
            if k == 0 and behind == 0:
                # The two stages in the middle have nothing yet to run together.
                self._run(self._next("forward", "own"))
                self._run(self._next("backward", "other"))
            else:
                self._run(self._next("forward", "own"), self._next("backward", "other"))
            self._run(self._next("forward", "other"), self._next("backward", "own"))
        for _ in range(behind):
            self._run(self._next("backward", "other"))
            self._run(self._next("forward", "other"), self._next("backward", "own"))
        # The last half of what comes back leaves its weight gradients for the end.
        for k in range(2 * (self.near + 1)):
            self._run(self._next("backward", ("other", "own")[k % 2]), later=k > self.near)
        for _ in range(behind):
            self._weight()
            self._run(self._next("backward", "own"), later=True)
        while self.kept:
            self._weight()
        return self.order

    def _next(self, kind: str, of: str) -> Pass:
        micro = self.count[kind, of]
        self.count[kind, of] += 1
        return kind, self.piece[of], micro

    def _run(self, *passes: Pass, later: bool = False) -> None:
        """One block; a backward pass brings its weight gradient along unless that is for `later`."""
        weights = [("weight", *one[1:]) for one in passes if one[0] == "backward"]
        self.order.append(passes if later else (*passes, *weights))
        self.kept += weights if later else []

    def _weight(self) -> None:
        self.order.append((self.kept.pop(0),))
