"""Served requests: latencies, percentiles, goodput under limits, records on disk."""
