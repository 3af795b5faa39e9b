"""Steps of an answer with drafts: their law, their mean."""

from __future__ import annotations

import numpy as np
import pytest

from cosim.engines.serving.settings import Speculation
from cosim.engines.serving.speculation import DRAWN, Drafts
from cosim.errors import SpecError


def test_drawn_tokens_follow_the_law() -> None:
    drafts = Drafts(Speculation((0.8, 0.5, 0.9)), np.random.default_rng(1))
    tokens = np.concatenate([drafts._drawn() for _ in range(20)])
    share = np.bincount(tokens, minlength=5) / len(tokens)
    expected = [0.0, 0.2, 0.8 * 0.5, 0.8 * 0.5 * 0.1, 0.8 * 0.5 * 0.9]
    error = 4.0 / np.sqrt(20 * DRAWN)
    np.testing.assert_allclose(share, expected, atol=error)
    assert tokens.mean() == pytest.approx(drafts.mean, rel=5 * error)


def test_steps_draw_until_the_answer_is_whole() -> None:
    drafts = Drafts(Speculation((0.7, 0.4)), np.random.default_rng(2))
    drafts._tokens = [1, 1, 3, 2, 1]
    assert [drafts.steps(3), drafts.steps(4), drafts._tokens] == [2, 2, [1]]
    mean = np.mean([drafts.steps(600) for _ in range(300)])
    assert mean == pytest.approx(600 / drafts.mean, rel=0.02)


def test_chances_of_nothing_and_of_all() -> None:
    never, always = (Drafts(Speculation((chance,) * 3), np.random.default_rng(0)) for chance in (0.0, 1.0))
    assert never.steps(12) == 12
    assert always.steps(12) == 3


def test_by_the_mean() -> None:
    drafts = Drafts(Speculation((0.8, 0.5), expected=True), None)
    assert drafts.mean == pytest.approx(1 + 0.8 + 0.4)
    assert [drafts.steps(tokens) for tokens in (1, 2, 3, 22)] == [1, 1, 2, 10]


def test_chance_needs_a_generator() -> None:
    with pytest.raises(SpecError, match="needs a generator"):
        Drafts(Speculation((0.5,)), None)
