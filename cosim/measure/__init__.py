"""Measuring a device: grids of kernels, how one is timed, rows that survive a kill."""
