"""What a system costs: capital, energy, cost per token, break-even price."""
