"""Silicon: die area by component, power that a package must supply, and the limits that bind a design."""
