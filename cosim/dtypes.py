"""Number formats: bytes per element with their block scales, and how faithful each is.

A scaled format carries its scale in the element size: mxfp8 and mxfp4 one byte per 32 elements
(OCP Microscaling Formats v1.0), nvfp4 one byte per 16 (NVIDIA). 1 byte = 8 bits.
"""

from __future__ import annotations

from typing import Literal, get_args

Dtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "mxfp8", "int8", "fp6", "mxfp4", "nvfp4", "fp4", "int4", "fp64"]
DTYPES: tuple[str, ...] = get_args(Dtype)

_BYTES: dict[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "mxfp8": 1.0 + 1.0 / 32.0,
    "int8": 1.0,
    "fp6": 0.75,
    "mxfp4": 0.5 + 1.0 / 32.0,
    "nvfp4": 0.5 + 1.0 / 16.0,
    "fp4": 0.5,
    "int4": 0.5,
}

# Formats that a served model keeps its quality in without retraining, most faithful first.
# Plain fp4 and int4 without block scales are left out: they are asked for by name, never chosen.
SERVING_PRECISIONS: tuple[str, ...] = ("bf16", "fp8", "mxfp8", "int8", "nvfp4", "mxfp4")


# Formats that gradients are taken in: integers are for serving.
TRAINING_PRECISIONS: tuple[str, ...] = tuple(dtype for dtype in DTYPES if not dtype.startswith("int"))


EITHER: dict[str, tuple[str, ...]] = {"fp8-or-fp4": ("fp8", "nvfp4", "mxfp4", "fp4")}
"""Words of measured rows that leave the format open: they are answered by the faster of those that a chip has."""

Fp8Recipe = Literal["tensor", "block"]
FP8_RECIPES: tuple[str, ...] = get_args(Fp8Recipe)
"""What has a scale where products are trained in fp8: a tensor, or a block of it."""
Scales = tuple[float, float]
BLOCK = 128.0
"""Of the block recipe: so many neighbours along k of an activation or a gradient have one scale, and squares of so many
rows and columns of a weight (DeepSeek-V3 technical report, section 3.3.2) [unverified recollection]."""
SCALE_BYTES = 4.0
"""Of a scale: fp32."""
NATIVE_BLOCKS = "mxfp8"
"""A chip with a rate in this format multiplies by the scales of blocks in its matrix engine."""

WIDE_BYTES = 2.0
"""Bytes of an element from which a format is wide: see `is_wide`."""


def bytes_per_element(dtype: str) -> float:
    """Storage of one element of `dtype` [B], scales included. Raises KeyError on an unknown name."""
    return _BYTES[dtype]


def scale_bytes(dtype: str, recipe: str) -> Scales:
    """Bytes of scales per element of an activation and of a weight, beyond `bytes_per_element` [B]."""
    if recipe != "block" or dtype != "fp8":
        return 0.0, 0.0
    return SCALE_BYTES / BLOCK, SCALE_BYTES / BLOCK**2


def kv_dtype_for(dtype: str) -> str:
    """Format of the key/value cache that goes with weights in `dtype`: 8 bits at the least.

    Four-bit weights are served with an 8-bit cache; int8 chips keep it in int8.
    """
    if is_wide(dtype):
        return "bf16" if dtype in ("tf32", "fp32", "fp64") else dtype
    return "int8" if dtype in ("int8", "int4") else "fp8"


def is_wide(dtype: str) -> bool:
    """Whether the format has 16 bits or more, so that activations need no kernel that quantises them."""
    return bytes_per_element(dtype) >= WIDE_BYTES
