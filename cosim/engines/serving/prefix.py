"""A prefix cache: a tree over blocks of text whose leaves go when room is short, the least recently used first.

A node is one block of text after all blocks above it. It stays while a request holds it or any node below it; a held
node counts its own holders and those of its children that are held, so that a change climbs only as far as it matters.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

SPARE = 1000
"""Offers out of date that may lie about."""


class Node:
    """One block: the node above, those below by block, how many hold it, when it was last used."""

    __slots__ = ("above", "below", "block", "depth", "holders", "used")

    def __init__(self, block: int, above: Node | None) -> None:
        self.block, self.above = block, above
        self.below: dict[int, Node] = {}
        self.depth: int = 0 if above is None else above.depth + 1
        self.holders, self.used = 0, 0


class PrefixTree:
    """All blocks of text that a replica still has. `nodes` in all, `idle` of them that nobody holds."""

    def __init__(self) -> None:
        self.root = Node(-1, None)
        self.root.holders = 1
        self.nodes, self.idle = 0, 0
        self._ticks = 0
        self._leaves: list[tuple[int, int, Node]] = []
        self._serial = 0

    def find(self, blocks: Sequence[int], most: int) -> Node:
        """The deepest node on the way that `blocks` name, at most `most` deep."""
        node = self.root
        for block in blocks[:most]:
            below = node.below.get(block)
            if below is None:
                break
            node = below
        return node

    def hold(self, node: Node) -> None:
        """Keeps a node and all above it."""
        at: Node | None = node
        while at is not None:
            at.holders += 1
            if at.holders > 1:
                return
            self.idle -= 1
            at = at.above

    def release(self, node: Node) -> None:
        """Ends what `hold` began."""
        self._ticks += 1
        at: Node | None = node
        while at is not None:
            at.holders -= 1
            if at.holders:
                return
            self.idle += 1
            at.used = self._ticks
            self._offer(at)
            at = at.above

    def extend(self, node: Node, blocks: Sequence[int]) -> tuple[Node, int]:
        """Adds blocks below a held node and holds the last in its place; returns it and how many were there already."""
        at, known = node, 0
        for block in blocks:
            below = at.below.get(block)
            if below is None:
                below = Node(block, at)
                at.below[block] = below
                self.nodes += 1
                self.idle += 1
            else:
                known += 1
            at = below
        if at is not node:
            self.hold(at)
            self.release(node)
        return at, known

    def evict(self, wanted: int) -> int:
        """Drops up to `wanted` leaves that nobody holds; returns how many."""
        dropped = 0
        while dropped < wanted and self._leaves:
            used, _, node = heapq.heappop(self._leaves)
            above = node.above
            if above is None or node.holders or node.below or node.used != used:
                continue
            if above.below.get(node.block) is not node:
                continue
            del above.below[node.block]
            self.nodes -= 1
            self.idle -= 1
            dropped += 1
            if not above.holders:
                self._offer(above)
        return dropped

    def _offer(self, node: Node) -> None:
        """Puts a leaf up for eviction; what is there twice or out of date is passed over later."""
        if not node.below and node.above is not None:
            self._serial += 1
            heapq.heappush(self._leaves, (node.used, self._serial, node))
            if len(self._leaves) > 2 * self.nodes + SPARE:
                self._tidy()

    def _tidy(self) -> None:
        """Forgets offers that are out of date, so that they take no more room than the nodes."""
        now = {}
        for used, serial, node in self._leaves:
            above = node.above
            if above is None or node.holders or node.below or node.used != used:
                continue
            if above.below.get(node.block) is node:
                now[id(node)] = (used, serial, node)
        self._leaves = sorted(now.values(), key=lambda offer: offer[:2])
