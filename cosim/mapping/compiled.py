"""What a compiler of networks makes of the ops of a device: fewer kernels, narrower tensors between them.

follows   sums and activations of what a product just made run inside it, tensors are joined where they are written:
          the other tensors are read, nothing else moves, no kernel is launched
narrow    tensors between layers are in the format of the products where that is narrower than 16 bits
quantise  no kernel of its own: whatever writes a tensor writes it narrow
"""

from __future__ import annotations

from dataclasses import replace

from cosim.dtypes import bytes_per_element
from cosim.mapping.device import ACTIVATION_BYTES, DeviceGraph, DeviceMatmul, DeviceVector


def compiled(device: DeviceGraph, dtype: str) -> DeviceGraph:
    """The same ops as a compiler of networks leaves them; `dtype` is the format of the products."""
    size = min(bytes_per_element(dtype), ACTIVATION_BYTES)
    return replace(
        device,
        matmuls=tuple(_written(op, dtype, size) for op in device.matmuls),
        vectors=tuple(_joined(op, size / ACTIVATION_BYTES) for op in device.vectors if not op.dram_paced),
    )


def _written(op: DeviceMatmul, dtype: str, size: float) -> DeviceMatmul:
    """A product in the plan's format writes that format; one of two tensors reads them as narrow as they are kept."""
    if op.activations and size < ACTIVATION_BYTES:
        return replace(op, dtype=dtype, output_bytes=size)
    return replace(op, output_bytes=size) if op.dtype == dtype else op


def _joined(op: DeviceVector, share: float) -> DeviceVector:
    """An elementwise kernel with tensors of `share` of 16 bits; one that follows a product reads what that left out."""
    read, written = (op.read_bytes - op.gathered_bytes) * share + op.gathered_bytes, op.write_bytes * share
    if not op.follows:
        return replace(op, read_bytes=read, write_bytes=written)
    # It reads what the product has in hand, of the size of what it writes, and writes what the product would have.
    return replace(op, read_bytes=read - written, write_bytes=0.0 * written, launched=False)
