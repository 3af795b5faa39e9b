"""Layers of networks that are no decoder transformer: what a description says of each, and their arrays.

Sizes are per item (an image, a sequence, a sample); the word `tokens` stands for scenario.context. Every layer is a
kernel that runs: what software folds into the kernel before it (a batch norm, a ReLU) is not listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from cosim.errors import SpecError
from cosim.records import Array, array
from cosim.schema import Frozen

MOST = 1_000_000_000_000
TOKENS = "tokens"


def _size(raw: object) -> int | str:
    """A positive whole number, or the word `tokens`. Raises SpecError."""
    if raw == TOKENS:
        return TOKENS
    if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 < raw <= MOST and raw == int(raw):
        return int(raw)
    raise SpecError("must be a positive whole number, or tokens", value=raw)


Size = Annotated[
    int | str,
    PlainValidator(_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"const": TOKENS}]}),
]
Few = Annotated[int, Field(ge=0, le=1000)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Padding = Literal["same", "none"]
"""same: ceil(size / stride) outputs; none: floor((size - kernel) / stride) + 1."""


class _Layer(Frozen):
    name: Name
    count: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """How many layers like this one there are, each with weights of its own."""
    turns: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Times that each runs, one after the other with the same weights: the steps of a loop."""


class _Windowed(_Layer):
    """A window that moves over `height` x `width`."""

    height: Size
    """Of the input."""
    width: Size | None = None
    """None is square."""
    kernel: Size
    kernel_width: Size | None = None
    """None is square."""
    stride: Size = 1
    padding: Padding = "same"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for side, kernel in ((self.height, self.kernel), (self.width, self.kernel_width)):
            known = isinstance(side, int) and isinstance(kernel, int) and self.padding == "none"
            if known and kernel > side:  # type: ignore[operator]  # both are numbers here
                raise SpecError("is more than the input has, which is not padded", field="kernel", value=kernel)
        return self


class Conv(_Windowed):
    """A convolution, over `height` x `width`, a volume (`depth`) or (width and kernel_width 1) a sequence."""

    kind: Literal["conv"]
    depth: Size = 1
    """Of the input: slices of a volume."""
    kernel_depth: Size = 1
    inputs: Size
    """Channels."""
    outputs: Size
    groups: Size = 1
    """As many as inputs: depthwise, which runs as vector work."""
    bias: bool = False
    norm: bool = False
    """A batch norm folded into it: two numbers a channel."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        for name in ("inputs", "outputs"):
            channels, groups = getattr(self, name), self.groups
            if isinstance(channels, int) and isinstance(groups, int) and channels % groups:
                raise SpecError(f"must divide {name}", field="groups", value=groups)
        return self


class Linear(_Layer):
    """A fully connected layer on `rows` rows of an item."""

    kind: Literal["linear"]
    inputs: Size
    outputs: Size
    rows: Size = 1
    bias: bool = True
    tied: bool = False
    """Its weights are the table of a gather: counted there, kept at 16 bits."""


class Product(_Layer):
    """`products` matrix products [rows, depth] x [depth, columns] of an item, both made by other layers."""

    kind: Literal["product"]
    rows: Size
    columns: Size
    depth: Size
    products: Size = 1


class NetworkAttention(_Layer):
    """Fused attention: queries of `tokens`, keys of `context` (None: the same tokens; else cross-attention)."""

    kind: Literal["attention"]
    heads: Size
    kv_heads: Size | None = None
    """None is heads."""
    head_dim: Size
    tokens: Size
    context: Size | None = None
    causal: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        heads, shared = self.heads, self.heads if self.kv_heads is None else self.kv_heads
        if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
            raise SpecError("must divide heads", field="kv_heads", value=shared)
        known = isinstance(self.tokens, int) and isinstance(self.context, int)
        if self.causal and self.context is not None and (not known or self.context < self.tokens):  # type: ignore[operator]
            hint = "a causal mask is over the tokens' own keys: leave context out"
            raise SpecError("is less than tokens, or not known to be as many", field="context", hint=hint)
        return self


class Elementwise(_Layer):
    """Tensors of `rows` x `width` read and written by one kernel."""

    rows: Size = 1
    width: Size
    reads: Few = 1
    writes: Few = 1


class Norm(Elementwise):
    """A norm of rows; with a residual stream it reads two and writes two, a group norm reads twice."""

    kind: Literal["norm"]
    style: Literal["layer", "rms", "group"] = "layer"
    affine: bool = True
    """With scales (rms), or scales and shifts."""


class Activation(Elementwise):
    """A function of every element; a gated one reads two."""

    kind: Literal["activation"]
    exponential: bool = True
    """GELU, SiLU, sigmoid, tanh; false is ReLU or a product."""


class Softmax(Elementwise):
    """Softmax of rows as a kernel of its own."""

    kind: Literal["softmax"]


class Add(Elementwise):
    """A sum of tensors; `parameters` are numbers that it owns, such as learned positions."""

    kind: Literal["add"]
    reads: Few = 2
    parameters: Annotated[int, Field(ge=0, le=MOST)] = 0


class Copy(Elementwise):
    """A tensor moved: what joins, splits or turns tensors around."""

    kind: Literal["copy"]


class Pool(_Windowed):
    """Pooling; a kernel of the whole input without padding is global."""

    kind: Literal["pool"]
    channels: Size


class Upsample(_Layer):
    """Each pixel repeated `factor` times in both directions."""

    kind: Literal["upsample"]
    channels: Size
    height: Size
    width: Size | None = None
    factor: Size = 2


class Gather(_Layer):
    """Rows read at random from tables of `table_rows` in all; `outputs` rows are written, sums where they are fewer."""

    kind: Literal["gather"]
    lookups: Size
    width: Size
    table_rows: Size
    outputs: Size | None = None
    """None is lookups."""
    sharded: bool = False
    """In training its tables are shared out over all replicas, and rows travel; serving holds them whole."""

    @model_validator(mode="after")
    def _sums(self) -> Self:
        if isinstance(self.outputs, int) and isinstance(self.lookups, int) and self.outputs > self.lookups:
            raise SpecError("is more than lookups", field="outputs", value=self.outputs)
        return self


class Scan(_Layer):
    """A state-space scan of Mamba-2 in its chunked form: `heads` x `head_dim` wide, `state` numbers deep."""

    kind: Literal["scan"]
    tokens: Size
    heads: Size
    head_dim: Size
    state: Size
    groups: Size = 1
    """Heads of a group share B and C."""
    chunk: Size = 256

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if isinstance(self.heads, int) and isinstance(self.groups, int) and self.heads % self.groups:
            raise SpecError("must divide heads", field="groups", value=self.groups)
        return self


class Lstm(_Layer):
    """A recurrent layer (LSTM) over `tokens` steps, one after the other: four gates of `outputs` cells."""

    kind: Literal["lstm"]
    tokens: Size
    inputs: Size
    outputs: Size


Layer = Annotated[
    Conv
    | Linear
    | Product
    | NetworkAttention
    | Norm
    | Activation
    | Softmax
    | Add
    | Copy
    | Pool
    | Upsample
    | Gather
    | Scan
    | Lstm,
    Field(discriminator="kind"),
]
SAME_AS = {"width": "height", "kernel_width": "kernel", "kv_heads": "heads", "context": "tokens", "outputs": "lookups"}
"""What a size that is left open equals."""


@dataclass(frozen=True, slots=True)
class LayerArrays:
    """A layer as the engines see it: sizes of shape () or (P,), those that are the number of tokens by name."""

    name: str
    kind: str
    count: Array
    sizes: Mapping[str, Array]
    of_tokens: tuple[str, ...]
    choices: Mapping[str, str | bool]
    turns: Array = field(default_factory=lambda: array(1.0))

    def at(self, tokens: Array) -> Mapping[str, Array]:
        """Its sizes for so many tokens."""
        return {**self.sizes, **dict.fromkeys(self.of_tokens, tokens)}
