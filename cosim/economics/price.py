"""What a token costs: chip price spread over its life, and the energy of the facility around it.

    cost per token = (price / (lifetime x rate)) + energy per token x energy price

Server, network and building capital are left out alike for every system: the chips decide the difference.
An unknown price stays unknown; what it may be at most to match a rival is the break-even price.
"""

from __future__ import annotations

from dataclasses import dataclass

SECONDS_PER_YEAR = 365.25 * 86400.0
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Serving:
    """One chip at work: tokens/s, facility energy per token [J], its price [USD] or None, energy price [USD/J]."""

    tokens_per_s: float
    energy_per_token_j: float
    price_usd: float | None
    energy_price_usd_per_j: float
    lifetime_years: float

    @property
    def life_tokens(self) -> float:
        """Tokens that one chip serves in its life at this rate."""
        return self.tokens_per_s * self.lifetime_years * SECONDS_PER_YEAR


def cost_per_million_tokens(serving: Serving) -> float | None:
    """USD per million tokens, None where the price of the chip is unknown."""
    if serving.price_usd is None:
        return None
    capital = serving.price_usd / serving.life_tokens
    return MILLION * (capital + energy_cost_per_token(serving))


def energy_cost_per_token(serving: Serving) -> float:
    """USD of facility energy per token."""
    return serving.energy_per_token_j * serving.energy_price_usd_per_j


def break_even_price(serving: Serving, rival_cost_per_million: float) -> float:
    """Chip price [USD] at which `serving` costs as much per token as the rival; below 0 energy alone costs more."""
    left = rival_cost_per_million / MILLION - energy_cost_per_token(serving)
    return left * serving.life_tokens
