"""How an estimate looks on a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cosim.cli.output import table
from cosim.mapping.order import USUAL
from cosim.units import format_si

if TYPE_CHECKING:
    from cosim.explore.difference import Difference

Row = dict[str, Any]


def estimate_text(row: Row) -> str:
    """The estimate as people read it: what was asked, the plan, speed, time, memory, energy."""
    tried = f" (best of {row['plans_tried']} plans on all chips)" if row["plans_tried"] else " (given)"
    defaults = ", ".join(f"{k}={v}" for k, v in row["defaults"].items() if k != "phase")
    taken = f"   (defaults taken: {defaults})" if defaults else ""
    degrees = " x ".join(f"{name} {row[f'plan.{name}_parallel']}" for name in ("tensor", "pipeline", "data"))
    trains = row["phase"] == "train"
    formats = _training_plan(row) if trains else _serving_formats(row)
    at_chip, at_server = row["tokens_per_j_chip"], row["tokens_per_j_server"]
    joint = " " if trains else ", "
    experts = f" x experts {row['plan.expert_parallel']}" if row["plan.expert_parallel"] > 1 else ""
    wide = row["plan.expert_tensor_parallel"]
    experts += f" of {wide} ranks each" if wide is not None else ""
    energy = f"{format_si(row['energy_j'], 'J')}, {format_si(row['power_w'], 'W', 3)} per chip"
    if row["clock"] < 1.0:
        energy += f" (throttles to {row['clock']:.0%} of its clock)"
    facts = {
        "asked": f"{_asked(row)}{taken}",
        "plan": f"{degrees}{experts}, micro-batches {row['plan.micro_batches']}{joint}{formats}{tried}",
        "time": f"{format_si(row['time_s'], 's')}{_spread(row)}   bottleneck {row['bottleneck']}, MFU {row['mfu']:.1%}",
        **_uses(row),
        "speed": _speed(row),
        "energy": f"{energy}, {at_chip:.3g} tokens/J at the chip, {at_server:.3g} at the server",
        "breakdown": _shares(row, "breakdown_s.", row["time_s"], "s"),
        "memory": _shares(row, "memory_bytes.", row["memory_bytes.total"], "B"),
        **_host_memory(row),
        "silicon": _silicon(row),
        "confidence": row["confidence"],
    }
    lines = [f"{row['phase']} of {row['workload']} on {row['system']}, {_chips(row)}"]
    lines += [f"  {name:<11} {text}" for name, text in facts.items()]
    return "\n".join(lines)


def _uses(row: Row) -> Row:
    """MFU of a training step under each of the definitions in use; a network of layers has one."""
    if row["mfu.model_6n"] is None:
        return {}
    words = {
        "model_6n": "6 N a token",
        "causal": "with attention under its mask",
        "full": "with attention of all pairs",
        "hardware": "with what runs again",
    }
    return {"MFU": ", ".join(f"{row[f'mfu.{name}']:.1%} {text}" for name, text in words.items())}


def _host_memory(row: Row) -> Row:
    """What lies in the host's memory, where anything does."""
    held = row["memory_bytes.host"]
    return {"host memory": f"{format_si(held, 'B', 3)} of a chip offloaded"} if held else {}


def _asked(row: Row) -> str:
    """The batch and, where there are tokens, their number."""
    if row["phase"] == "train":
        updates = {
            "all": "",
            "adapters": f", updates adapters of rank {row['scenario.adapter_rank']}",
            "nothing": ", updates nothing",
        }[row["scenario.updates"]]
        long = "" if row["scenario.context"] is None else f", length {row['scenario.context']:g}"
        sample = row["scenario.bytes_per_sample"]
        read = "" if sample is None else f", {format_si(sample, 'B')} a sample"
        return f"global batch {row['scenario.global_batch']}{long}{updates}{read}"
    context = row["scenario.context"]
    return f"batch {row['scenario.batch']}" + ("" if context is None else f", context {context:g}")


def _serving_formats(row: Row) -> str:
    """Format of the products, of their weights where it is another, and of the cache where there is one."""
    cache, stored = row["plan.kv_dtype"], row["plan.weights_dtype"]
    formats = f"{row['plan.dtype']}, weights {stored}" if stored else str(row["plan.dtype"])
    return f"{formats}, KV {cache}" if cache else formats


def _speed(row: Row) -> str:
    """Tokens a second, a user's in serving, and items a second of what keeps no cache."""
    chip, user = row["tokens_per_s_per_chip"], row["tokens_per_s_per_user"]
    per_user = "" if row["phase"] == "train" else f", {user:,.4g} tokens/s/user"
    trains = row["phase"] == "train"
    fixed = trains and row["scenario.context"] is None
    items = row["items_per_s"] if trains or not row["plan.kv_dtype"] else None
    # A network whose items have one size counts each of them as a token.
    tokens = f"{chip:,.4g} items/s/chip" if fixed else f"{chip:,.4g} tokens/s/chip{per_user}"
    return tokens + ("" if items is None or (trains and not fixed) else f", {items:,.4g} items/s")


def _silicon(row: Row) -> str:
    """Area and TDP that follow from the chip's structure."""
    if row["area_mm2"] is None:
        return "area and TDP unknown: the structure or the node of the chip is not known"
    return f"dies of {row['area_mm2']:,.0f} mm2 by their components, TDP {format_si(row['tdp_w'], 'W', 3)}"


def _chips(row: Row) -> str:
    """Chips that the plan takes, and of how many where it leaves some idle."""
    there = row.get("system_chips", row["chips"])
    return f"{row['chips']} chips" if there <= row["chips"] else f"{row['chips']} of {there} chips"


def _training_plan(row: Row) -> str:
    """What a training plan has beyond its degrees."""
    pieces = f", {row['plan.virtual_pipeline']} pieces a stage" if row["plan.virtual_pipeline"] > 1 else ""
    if row["plan.context_parallel"] > 1:
        pieces += f", context {row['plan.context_parallel']} by {row['plan.context_exchange']}"
    if row["plan.order"] != USUAL:
        pieces += f", order {row['plan.order']}"
    if row["plan.schedule"] != "1f1b":
        pieces = f", schedule {row['plan.schedule']}{pieces}"
    sharing = ", sequence parallel" if row["plan.sequence_parallel"] and row["plan.tensor_parallel"] > 1 else ""
    zero = f"zero {row['plan.zero']}" + (f" over {row['plan.shard']}" if row["plan.shard"] else "")
    blocks = " in blocks" if row["plan.fp8_recipe"] == "block" else ""
    return (
        f"of {row['plan.micro_batch']}{pieces}{sharing}, {zero}, recompute {_again(row)}, "
        f"{row['plan.dtype']}{blocks}, {row['plan.software']}{_update(row)}{_offloaded(row)}"
    )


def _again(row: Row) -> str:
    """What the backward pass computes again, and of how many layers."""
    modules, layers = row["plan.recompute_modules"], row["plan.recompute_layers"]
    named = [row["plan.recompute"], *(modules.split(",") if modules else [])]
    again = " and ".join(name for name in named if name != "none") or "none"
    return again + ("" if layers is None else f" of {layers} layers a stage")


def _update(row: Row) -> str:
    """The optimizer that the plan asks for."""
    return f", {row['plan.optimizer']} in {row['plan.optimizer_dtype']}" if row["plan.optimizer"] else ""


def _offloaded(row: Row) -> str:
    """Shares that lie in the host's memory."""
    shares = {name: row[f"plan.offload_{name}"] for name in ("activations", "weights", "optimizer")}
    named = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share)
    return f", offloads {named}" if named else ""


def operators_text(operators: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the operator table."""
    head = ["operator", "count", "shape", "dtype", "tiling", "bound", "DRAM", "on chip", "use", "time"]
    return head, [_operator(op) for op in operators]


def _operator(op: Row) -> list[str]:
    return [
        op["name"],
        f"{op['count']:g}",
        _shape(op),
        op["dtype"],
        "x".join(f"{t:g}" for t in op["tiling"]) if any(op["tiling"]) else "-",
        op["bound"],
        format_si(op["dram_bytes"], "B", 3),
        format_si(op["on_chip_bytes"], "B", 3),
        "-" if op["utilisation"] is None else f"{op['utilisation']:.0%}",
        format_si(op["time_s"], "s", 3),
    ]


def _spread(row: Row) -> str:
    """Best and worst time over the ranges of the chip's software, where it has any."""
    best, worst = row.get("time_s_best"), row.get("time_s_worst")
    if best is None or worst is None:
        return ""
    return f" ({format_si(best, 's', 3)} to {format_si(worst, 's', 3)} over the ranges of its kernels)"


def _shape(op: Row) -> str:
    """Dimensions of a product or of attention; bytes in and out of an elementwise kernel."""
    if op["kind"] == "vector":
        return " > ".join(format_si(size, "B", 3) for size in op["shape"])
    return " x ".join(f"{d:g}" for d in op["shape"])


def _shares(row: Row, prefix: str, total: float, unit: str) -> str:
    parts = [(value, name.removeprefix(prefix)) for name, value in row.items() if name.startswith(prefix) and value]
    # What lies in the host's memory is no share of the chip's.
    others = ("total", "host") if unit == "B" else ()
    named = sorted(((value, name) for value, name in parts if name not in others), reverse=True)
    return ", ".join(f"{name} {format_si(v, unit, 3)} ({v / total:.0%})" for v, name in named)


def difference_text(found: Difference) -> str:
    """Headlines, parts of the time, operators and factors of the machine, as tables."""
    from cosim.explore.difference import COMPONENTS

    lines = [f"from a to b: tokens/s per chip x {found.ratio:.3g}"]
    lines += [f"  {name}  {label}: {asked}" for name, label, asked in zip("ab", found.labels, found.asked, strict=True)]
    lines.append("")
    rows = [[name, _shown(one), _shown(two), _ratio(one, two)] for name, (one, two) in found.headlines.items()]
    lines += [table(["", "a", "b", "b / a"], rows), ""]
    for title, pairs in (("time of a step", found.parts), ("operators, all layers", found.operators)):
        whole = sum(two - one for one, two in pairs.values())
        moved = sorted(pairs.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
        shown = [
            [name, _shown(one * 1e3), _shown(two * 1e3), f"{(two - one) * 1e3:+.3g}", _share(two - one, whole)]
            for name, (one, two) in moved
            if one or two
        ]
        lines += [table([f"{title} [ms]", "a", "b", "b - a", "of it"], shown), ""]
    rows = [
        [" + ".join(COMPONENTS[part] for part in name.split(" + ")), f"x {factor:.3g}"]
        for name, factor in sorted(found.factors.items(), key=lambda item: -abs(math.log(item[1])))
    ]
    lines.append(table(["what the machine's components bring to tokens/s per chip", "factor"], rows))
    lines.append(f"their product is x {found.ratio:.3g}; a factor is the mean over all orders of exchanging components")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _ratio(one: float | None, two: float | None) -> str:
    return "" if not one or two is None else f"x {two / one:.3g}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole + 0.0:.0%}".replace("-0%", "0%") if whole else ""
