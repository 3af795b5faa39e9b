"""Requests of serving: when they come, how long they are, what of them is shared."""
