"""Studies: spaces of plans and batches, the best of them under limits, rankings, stored runs."""
