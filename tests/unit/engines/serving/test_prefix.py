"""The tree of shared prefixes against a plain set of paths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cosim.engines.serving.prefix import SPARE, Node, PrefixTree

PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=5)


def nodes(tree: PrefixTree) -> list[Node]:
    found, todo = [], [tree.root]
    while todo:
        node = todo.pop()
        todo += node.below.values()
        found += [node] if node.above else []
    return found


def held(node: Node, holders: dict[Node, int]) -> bool:
    return holders.get(node, 0) > 0 or any(held(below, holders) for below in node.below.values())


@given(st.lists(st.tuples(PATHS, st.sampled_from(["add", "release", "evict", "evict all"])), max_size=40))
def test_counts_are_those_of_the_tree(moves: list[tuple[list[int], str]]) -> None:
    tree = PrefixTree()
    holders: dict[Node, int] = {}
    for path, move in moves:
        if move == "add":
            at = tree.find(path, len(path))
            assert at.depth <= len(path)
            tree.hold(at)
            deep, known = tree.extend(at, path[at.depth :])
            assert (deep.depth, known) == (len(path), 0)
            holders[deep] = holders.get(deep, 0) + 1
        elif move == "release" and any(holders.values()):
            node = next(node for node, count in holders.items() if count)
            tree.release(node)
            holders[node] -= 1
        elif move.startswith("evict"):
            before, idle = tree.nodes, tree.idle
            dropped = tree.evict(1 if move == "evict" else 1000)
            assert dropped == min(1 if move == "evict" else 1000, idle)
            assert tree.nodes == before - dropped
        everything = nodes(tree)
        assert tree.nodes == len(everything)
        assert tree.idle == sum(not held(node, holders) for node in everything)


def test_the_least_recently_used_leaf_goes_first() -> None:
    tree = PrefixTree()
    for path in ([1, 2, 3], [1, 4], [5]):
        tree.hold(tree.root)
        tree.release(tree.extend(tree.root, path)[0])
    again = tree.find([1, 2], 2)
    tree.hold(again)
    tree.release(again)
    gone = []
    for _ in range(5):
        before = {id(node): node.block for node in nodes(tree)}
        assert tree.evict(1) == 1
        gone.append(before.popitem()[1] if len(before) == 1 else _lost(before, tree))
    assert gone == [3, 4, 5, 2, 1]
    assert (tree.evict(1), tree.nodes, tree.idle) == (0, 0, 0)


def _lost(before: dict[int, int], tree: PrefixTree) -> int:
    left = {id(node) for node in nodes(tree)}
    return next(block for key, block in before.items() if key not in left)


def test_two_that_compute_the_same_share_it() -> None:
    tree = PrefixTree()
    tree.hold(tree.root)
    tree.hold(tree.root)
    first, known = tree.extend(tree.root, [1, 2])
    second, known_again = tree.extend(tree.root, [1, 2, 3])
    assert (known, known_again, tree.nodes, tree.idle) == (0, 2, 3, 0)
    assert first is second.above
    tree.release(second)
    assert tree.idle == 1


def test_find_stops_where_it_is_told() -> None:
    tree = PrefixTree()
    tree.hold(tree.root)
    tree.extend(tree.root, [7, 8, 9])
    assert [tree.find([7, 8, 9], most).depth for most in (0, 1, 3, 9)] == [0, 1, 3, 3]
    assert tree.find([8], 5) is tree.root


def test_old_offers_do_not_pile_up() -> None:
    tree = PrefixTree()
    tree.hold(tree.root)
    node, _ = tree.extend(tree.root, [1, 2])
    for _ in range(5 * SPARE):
        tree.release(node)
        tree.hold(node)
    assert len(tree._leaves) <= SPARE + 10
    tree.release(node)
    assert tree.evict(5) == 2
