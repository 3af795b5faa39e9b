"""Tiers of a network as arrays: sizes from the number of nodes, constants of their collectives.

A tier joins `size` units of the tier below. Those between the first and the last are full or hold all nodes there are;
the last one joins what is left: nodes / product of the tiers between, rounded up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cosim.hardware.system import SWITCHED, System, Tier, closed, size_of
from cosim.records import Array, array


class Numbers(Protocol):
    """What reads the numbers of a description by path."""

    def si(self, path: str) -> Array:
        """SI value at `path`. Raises SpecError where there is none."""
        ...

    def maybe(self, path: str) -> Array | None:
        """SI value at `path`, or None where it is not known."""
        ...


@dataclass(frozen=True, slots=True)
class ProtocolArrays:
    """A protocol of collectives: start and hop [s], share of the reached bandwidth, whether its ranks copy."""

    name: str
    start: Array
    hop: Array
    share: Array
    copies: bool = True


@dataclass(frozen=True, slots=True)
class TierArrays:
    """A network tier: units that it joins, bandwidth of a chip beyond its unit [B/s], constants of its collectives."""

    name: str
    kind: str
    link: str
    size: Array
    """Units that it joins in this system."""
    bandwidth: Array
    protocols: tuple[ProtocolArrays, ...]
    algorithms: tuple[str, ...]
    most: Array | None = None
    """Units that it can join; None is any number."""
    shape: tuple[int, ...] = ()
    closed: tuple[bool, ...] = ()
    """Of each dimension of a torus, whether its ring closes."""
    efficiency: Array | None = None
    """Share of the wire that collectives reach; None is the chip's quality."""
    latency: Array = field(default_factory=lambda: array(0.0))
    """Of the way between two units, switches included, beyond the hop of the protocols [s]."""
    oversubscription: Array = field(default_factory=lambda: array(1.0))
    rails: bool = False
    """Chips of the same place in their units meet at one switch."""
    copy_share: Array | None = None
    send_share: Array = field(default_factory=lambda: array(0.0))
    in_network: Array = field(default_factory=lambda: array(0.0))
    """Share of link bandwidth that in-switch reduction reaches; 0 where there is none."""
    in_network_start: Array = field(default_factory=lambda: array(0.0))
    engine_rate: Array | None = None
    memory_traffic: Array = field(default_factory=lambda: array(0.0))
    """Bytes that pass a chip's memory for each byte sent."""


def lower_tiers(system: System, values: Numbers, links: Mapping[str, Array]) -> tuple[TierArrays, ...]:
    """Arrays of every tier, innermost first. Raises SpecError for what is unknown."""
    most = [_size(tier, values, index) for index, tier in enumerate(system.tiers)]
    sizes = spans(most, values.si("nodes"), system.node_tier)
    return tuple(
        _tier(tier, values, index, links, size, most[index])
        for index, (tier, size) in enumerate(zip(system.tiers, sizes, strict=True))
    )


def spans(most: Sequence[Array | None], nodes: Array, node_tier: int) -> list[Array]:
    """Units that each tier joins when the system has `nodes` nodes, `node_tier` the tier that makes one.

    Tiers inside a node are full; those beyond it, but the last, are full or hold all there are.
    """
    found, left = [], nodes
    for index, size in enumerate(most):
        if index <= node_tier:
            found.append(array(1.0) if size is None else size)
        elif index == len(most) - 1 or size is None:
            found.append(left)
        else:
            found.append(np.minimum(size, left))
            left = np.ceil(left / size)
    return found


def _size(tier: Tier, values: Numbers, index: int) -> Array | None:
    own = values.maybe(f"tiers.{index}.size")
    known = size_of(tier)
    if own is not None or known is None:
        return own
    return array(known)


def _tier(
    tier: Tier, values: Numbers, index: int, links: Mapping[str, Array], size: Array, most: Array | None
) -> TierArrays:
    at = f"tiers.{index}"
    constants = f"{at}.constants"
    own, efficiency = values.maybe(f"{at}.bandwidth"), values.maybe(f"{at}.efficiency")

    def one(name: str, absent: float) -> Array:
        value = values.maybe(name)
        return array(absent) if value is None else value

    over = one(f"{at}.oversubscription", 1.0)
    return TierArrays(
        name=tier.name,
        kind=tier.kind,
        link=tier.link,
        size=size,
        most=most,
        bandwidth=(links[tier.link] if own is None else own) / over,
        protocols=tuple(
            ProtocolArrays(
                name=name,
                start=values.si(f"{constants}.protocols.{name}.start"),
                hop=values.si(f"{constants}.protocols.{name}.hop"),
                share=values.si(f"{constants}.protocols.{name}.share"),
                copies=protocol.copies,
            )
            for name, protocol in tier.constants.protocols.items()
        ),
        algorithms=tier.constants.algorithms,
        shape=tier.shape,
        closed=closed(tier),
        efficiency=values.maybe(f"{constants}.reach") if efficiency is None else efficiency,
        latency=one(f"{at}.latency", 0.0) + _switches(tier) * one(f"{at}.switch_latency", 0.0),
        oversubscription=over,
        rails=tier.rails,
        copy_share=values.maybe(f"{constants}.copy_share"),
        send_share=one(f"{constants}.send_share", 0.0),
        in_network=one(f"{constants}.in_network_share", 0.0),
        in_network_start=one(f"{constants}.in_network_start", 0.0),
        engine_rate=values.maybe(f"{constants}.engine_rate"),
        memory_traffic=one(f"{constants}.memory_traffic", 0.0),
    )


def _switches(tier: Tier) -> float:
    """Switches between two neighbours of a ring that fills unit after unit: one, none where chips are wired up."""
    return 1.0 if tier.kind in SWITCHED else 0.0
