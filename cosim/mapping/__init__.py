"""How work is laid over chips: plans, shards, stages, memory, placement on network tiers. No time here."""
