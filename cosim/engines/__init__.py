"""From priced kernels to steps: in closed form over arrays of points, and as scheduled events."""
