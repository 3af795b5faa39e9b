"""Small models that the workload tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cosim.overrides import Varied, vary
from cosim.schema import validated
from cosim.workload.model import Model, ModelArrays, lower_model

SMALL: dict[str, Any] = {
    "name": "small",
    "title": "Small",
    "source": "a test",
    "layers": 6,
    "hidden": 64,
    "ffn": 96,
    "heads": 8,
    "kv_heads": 2,
    "head_dim": 16,
    "vocab": 100,
    "gated": True,
    "norm": "rms",
    "position": "rotary",
    "max_positions": 512,
}
PLAIN: dict[str, Any] = {
    "gated": False,
    "norm": "layer",
    "position": "learned",
    "tied_embeddings": True,
    "qkv_bias": True,
    "output_bias": True,
    "ffn_bias": True,
}

ROUTED: dict[str, Any] = {"experts": 8, "experts_per_token": 2, "expert_ffn": 32}
LATENT: dict[str, Any] = {
    "kv_heads": 8,
    "query_latent": 24,
    "kv_latent": 40,
    "rope_dim": 4,
    "value_dim": 12,
}


@pytest.fixture(scope="session")
def describe() -> Callable[..., Model]:
    """A gated model of six layers with some fields changed."""

    def build(**changes: Any) -> Model:
        return validated(Model, {**SMALL, **changes})

    return build


@pytest.fixture(scope="session")
def lowered(describe: Callable[..., Model]) -> Callable[..., ModelArrays]:
    """The same as arrays; a list or an array among the changes varies along the points axis."""

    def build(**changes: Any) -> ModelArrays:
        varied = {name: value for name, value in changes.items() if hasattr(value, "__len__") and name in SMALL}
        varied = {name: value for name, value in varied.items() if not isinstance(value, str)}
        fixed = {name: value for name, value in changes.items() if name not in varied}
        return lower_model(vary(Varied(describe(**fixed)), varied))

    return build


@pytest.fixture(scope="session")
def plain_choices() -> dict[str, Any]:
    """The choices of the GPT-2 family: plain feed-forward, layer norm, learned positions, tied, biased."""
    return dict(PLAIN)


@pytest.fixture(scope="session")
def routed_choices() -> dict[str, Any]:
    """Two of eight experts of width 32 in every layer."""
    return dict(ROUTED)


@pytest.fixture(scope="session")
def latent_choices() -> dict[str, Any]:
    """Eight heads with keys of 16 + 4 and values of 12, from latents of 40 (keys and values) and 24 (queries)."""
    return dict(LATENT)
