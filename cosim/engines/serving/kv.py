"""The KV cache of a replica in blocks: what is free, what a request holds, what a prefix cache keeps.

    capacity = free + blocks of requests of their own + nodes of the prefix tree x blocks of a node

A request's own blocks are those of its layout, usually ceil(cached tokens / block), less those that it shares. Nodes
that nobody holds are room as well: they go when it is needed. A node is what layers keep past their window: what they
keep inside of it, and a state, is everyone's own.
"""

from __future__ import annotations

from cosim.engines.serving.growth import EvenGrowth, Growth, UnevenGrowth
from cosim.engines.serving.prefix import PrefixTree
from cosim.engines.serving.request import Request
from cosim.engines.serving.settings import Scheduler


class Memory:
    """The cache of one replica."""

    def __init__(self, settings: Scheduler) -> None:
        self.capacity, self.block, self.layout = settings.kv_blocks, settings.block_tokens, settings.layout
        self.free = settings.kv_blocks
        self.lent = 0
        """Own blocks of requests whose cache is being moved elsewhere."""
        self.watermark = settings.watermark_blocks
        self.prefix_tokens = settings.prefix_tokens
        self.node_blocks = settings.prefix_tokens // settings.block_tokens * settings.layout.far
        self.tree = PrefixTree() if settings.prefix_tokens else None
        ahead = settings.verified - 1
        self.growth: Growth = (
            UnevenGrowth(self.block, ahead, self.layout) if ahead else EvenGrowth(self.block, self.layout)
        )

    @property
    def available(self) -> int:
        """Blocks that are free or can be made so."""
        return self.free if self.tree is None else self.free + self.tree.idle * self.node_blocks

    @property
    def used(self) -> int:
        """Blocks that requests hold."""
        return self.capacity - self.available

    def take(self, blocks: int) -> None:
        """Uses blocks that are available."""
        self.free -= blocks
        if self.free < 0 and self.tree is not None:
            self.free += self.tree.evict(-(self.free // self.node_blocks)) * self.node_blocks

    def admit(self, request: Request, tokens: int, reserve: int) -> bool:
        """Gives a request room for `tokens`, if `reserve` and the watermark stay free; says whether it did.

        What the prefix cache has of it is shared and needs no computing, but for the last token.
        """
        blocks = self.layout.blocks(tokens, self.block)
        node = None
        if self.tree is not None:
            most = 0 if request.stored else (request.target - 1) // self.prefix_tokens
            node = self.tree.find(request.blocks_of, most)
            self.tree.hold(node)
            request.shared = node.depth * self.node_blocks
        own = blocks - request.shared
        if own > self.available - reserve - self.watermark:
            if self.tree is not None and node is not None:
                self.tree.release(node)
                request.shared = 0
            return False
        request.node = node
        request.blocks = blocks
        if node is not None and not request.stored:
            request.done = node.depth * self.prefix_tokens
        self.take(own)
        return True

    def publish(self, request: Request, tokens: int) -> None:
        """Shares the full blocks of the first `tokens` of a request's text; what others had already is given back."""
        if self.tree is None or request.node is None:
            return
        deep = request.node.depth
        more = request.blocks_of[deep : tokens // self.prefix_tokens]
        if more:
            request.node, known = self.tree.extend(request.node, more)
            request.shared += len(more) * self.node_blocks
            self.free += known * self.node_blocks

    def release(self, request: Request) -> None:
        """Takes all blocks of a request back; nodes that it held stay while there is room."""
        self.free += request.blocks - request.shared
        if self.tree is not None and request.node is not None:
            self.tree.release(request.node)
        request.node, request.shared, request.blocks = None, 0, 0
