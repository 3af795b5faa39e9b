"""Serving as events: schedulers of replicas whose steps come from a table, and clusters of them on simpy."""
