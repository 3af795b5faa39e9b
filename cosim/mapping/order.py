"""Which kinds of ranks lie next to each other: their order, innermost first, as Megatron writes it.

    tp-cp-dp-pp   tensor ranks, context ranks, data ranks, stages: what training does unless it is told

Tensor ranks lie inside the context and data ranks of their stage; the pipeline lies anywhere, outside all others or
innermost. Expert ranks are the inner ranks of a stage: `ep` may be written, between `tp` and `dp`, and says no more.
"""

from __future__ import annotations

from itertools import combinations, permutations

from cosim.errors import SpecError, nearest

KINDS = ("tp", "cp", "dp", "pp")
USUAL = "tp-cp-dp-pp"
ORDERS: tuple[str, ...] = tuple(
    "-".join(words) for words in permutations(KINDS) if words.index("tp") < min(words.index("cp"), words.index("dp"))
)
EXPERTS = "ep"


def checked_order(text: str) -> str:
    """An order without its expert ranks, one of ORDERS. Raises SpecError."""
    words = text.strip().lower().split("-")
    unknown = [word for word in words if word not in (*KINDS, EXPERTS)]
    if unknown:
        hint = f"{nearest(unknown[0], (*KINDS, EXPERTS))}; an order is written as {USUAL}"
        raise SpecError("is no kind of rank", value=unknown[0], hint=hint)
    if sorted(word for word in words if word != EXPERTS) != sorted(KINDS) or words.count(EXPERTS) > 1:
        hint = f"each of {', '.join(KINDS)} once, and ep or not"
        raise SpecError("is no order of ranks", value=text, hint=hint)
    if EXPERTS in words and not words.index("tp") < words.index(EXPERTS) < words.index("dp"):
        raise SpecError("has expert ranks in a wrong place", value=text, hint="ep lies between tp and dp")
    found = "-".join(word for word in words if word != EXPERTS)
    if found not in ORDERS:
        hint = f"tensor ranks lie inside the others of a stage: {', '.join(ORDERS)}"
        raise SpecError("is an order that is not modelled", value=text, hint=hint)
    return found


def swapped(one: str, other: str) -> tuple[tuple[str, str], ...]:
    """Pairs of kinds that two orders have the other way round: where none has two ranks of both, they are the same."""
    places = [{word: place for place, word in enumerate(order.split("-"))} for order in (one, other)]
    return tuple(
        (first, second)
        for first, second in combinations(KINDS, 2)
        if len({place[first] < place[second] for place in places}) > 1
    )
