"""cosim: hardware/software co-design performance simulator for AI accelerators."""

__version__ = "0.1.0"
