"""The page of a serving study: what serves best within the limits, latencies, rates, money, and what it rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosim.report.page import inline
from cosim.report.serve_figures import latency_figure, time_figure, users_figure
from cosim.report.serve_timeline import write_serve_timeline
from cosim.report.style import labelled, save
from cosim.report.tables import UNKNOWN
from cosim.units import format_si

FIGURES = {
    "latencies": "Share of requests within each latency, first seed. Dashed: the limits.",
    "over_time": "Sum over the replicas that decode, first seed.",
}
FRONT = {"front": "Front of the search, squares what the simulation saw of it; hollow where a limit is broken there."}
GOOD = "good_tokens_per_s_per_chip"
STATISTICS = ("p50", "p90", "p99", "mean")
LATENCIES = {
    "ttft_s": "first token",
    "tpot_s": "per output token after the first",
    "tpot_with_first_s": "per output token, the first among them",
    "itl_s": "between tokens",
    "e2e_s": "end to end",
    "queueing_s": "in the queue",
}
RATE_HEAD = [
    "deployment",
    "system",
    "plan",
    "replicas",
    "chips",
    "good requests/s",
    "within limits",
    "output tokens/s",
    "per chip",
    "good per chip",
    "mean batch",
    "cache in use",
    "cache hits",
    "preempted",
    "refused",
]
FRONT_HEAD = ["deployment", "per chip", "per user", "first token", "per token", "simulated: first token", "per token"]
COST_HEAD = ["deployment", "power per chip", "tokens/J chip", "tokens/J facility", "USD per M output tokens"]


def make_serve_report(folder: Path, run: dict[str, Any]) -> Path:
    """Figures (svg, png), timeline and report.html of a finished serving study in `folder`; returns the page."""
    figures = folder / "figures"
    save(latency_figure(run), figures, "latencies")
    save(time_figure(run), figures, "over_time")
    drawn = dict(FIGURES)
    if run["search"] is not None and run["search"]["front"]:
        save(users_figure(run["search"]), figures, "front")
        drawn |= FRONT
    write_serve_timeline(folder / "timeline.json.gz", _segments(folder))
    page = folder / "report.html"
    drawings = {name: inline(figures / f"{name}.svg") for name in drawn}
    page.write_text(render_serve(run, drawings), encoding="utf-8")
    return page


def _segments(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(folder / "segments.parquet").to_pylist()
    return rows


def render_serve(run: dict[str, Any], drawings: dict[str, str]) -> str:
    """The page as text; `drawings` are SVG elements by figure name."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).parent / "serve.html.j2").read_text(encoding="utf-8"))
    return template.render(
        run=run,
        limits=limits_text(run) or "none",
        sentences=sentences(run),
        tables=_tables(run),
        # Our own drawings, made a moment ago by matplotlib: the only text that is not escaped.
        figures=[(name, (FIGURES | FRONT)[name], Markup(drawing)) for name, drawing in drawings.items()],  # noqa: S704
    )


def limits_text(run: dict[str, Any]) -> str:
    """The limits in words."""
    return ", ".join(f"{name} {format_si(value, 's', 3)}" for name, value in run["limits"].items() if value is not None)


def headline(run: dict[str, Any]) -> str:
    """The deployment with most good tokens per second and chip, and those as good within the seeds, in one sentence."""
    best = max(run["deployments"], key=lambda each: each["summary"][GOOD] or 0.0)
    row = best["summary"]
    within = f" within {limits_text(run)}" if limits_text(run) else ""
    rate = row[GOOD]
    if not rate:
        return f"no deployment keeps {limits_text(run)} with any request"
    name = labelled(best["name"], best)
    alike = [labelled(each["name"], each) for each in run["deployments"] if each is not best and _alike(each, best)]
    if not alike:
        return f"{name} serves most for each chip: {rate:,.0f} output tokens/s{within}"
    together = " and ".join([name, *alike])
    return f"{together} serve most for each chip, alike within the spread of seeds: {rate:,.0f} output tokens/s{within}"


def _alike(each: dict[str, Any], best: dict[str, Any]) -> bool:
    """Whether the intervals of two deployments over the seeds meet; False where there are none."""
    high, low = each["summary"].get(f"{GOOD}.high"), best["summary"].get(f"{GOOD}.low")
    return high is not None and low is not None and bool(high >= low)


def sentences(run: dict[str, Any]) -> list[str]:
    """One sentence a deployment; those that cannot be say why."""
    lines = [_sentence(each, bool(limits_text(run))) for each in run["deployments"]]
    lines += [f"{each['name']}: cannot. {each['why']}" for each in run["infeasible"]]
    return lines if run["search"] is None else [*lines, searched(run["search"])]


def searched(found: dict[str, Any]) -> str:
    """What a search over deployments found, in one sentence."""
    text = f"search: {found['feasible']:,} of {found['size']:,} deployments are within its limits"
    best = found["holds"] or found["best"]
    if best is None:
        near = found["nearest"]
        return text + ("" if near is None else f"; the nearest, {near['plan']}, breaks {near['why']}")
    rate = best["tokens_per_s_per_chip"]
    text += f"; the best by {found['objective']}, {best['plan']}, has {rate:,.0f} output tokens/s for each chip"
    if found["holds"] is None and any(each["simulated"] for each in found["front"]):
        text += " in closed form, and none that was simulated keeps the limits"
    capacity = found["capacity"]
    return text + ("" if capacity is None else f"; it serves {capacity['requests_per_s']:.3g} requests/s within them")


def _sentence(each: dict[str, Any], limited: bool) -> str:
    row = each["summary"]
    chips = f"{_of(row['chips'], '.4g')} chip" + ("" if row["chips"] == 1 else "s")
    first, after = (f"{_time(row[f'{name}.p50'])} (p99 {_time(row[f'{name}.p99'])})" for name in ("ttft_s", "tpot_s"))
    text = (
        f"{labelled(each['name'], each)}: {_of(row['output_tokens_per_s'], ',.0f')} output tokens/s on {chips}, "
        f"first token {first}, per token {after}"
    )
    if limited:
        text += f", {_of(row['good_share'], '.1%')} of the requests within the limits"
    cost = row["usd_per_million_tokens"]
    text += "" if cost is None else f", {cost:.3g} USD per million output tokens"
    return text + (f"; {row['refused']:,.0f} refused ({_refused(each)})" if row["refused"] else "")


def _refused(each: dict[str, Any]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in each["refused"].items()) or "in other seeds"


def _tables(run: dict[str, Any]) -> list[tuple[str, str, list[str], list[list[str]]]]:
    deployments = run["deployments"]
    seeds = run["seeds"]
    note = "Means over seeds, with the half of Student's 95 % interval." if seeds > 1 else "One seed: no interval."
    exact = all(not each["summary"]["percentile_error"] for each in deployments)
    note += "" if exact else " Percentiles of so many requests are within 0.5 %."
    head = ["deployment", *(f"{name}" for name in STATISTICS)]
    found = [("Rates", "Good requests keep every limit.", RATE_HEAD, [_rates(each) for each in deployments])]
    for name, title in LATENCIES.items():
        lines = [
            [labelled(each["name"], each), *(_spread(each, f"{name}.{s}") for s in STATISTICS)] for each in deployments
        ]
        found.append((f"Time {title}", note, head, lines))
    about = "Chips spread over the lifetime of the facility and its energy; no server, network or building."
    found.append(("Power and money", about, COST_HEAD, [_costs(each) for each in deployments]))
    if run["search"] is not None:
        lines = [_member(each) for each in run["search"]["front"]]
        note = (
            "No other deployment has more of both; closed form, and what the simulation of it saw where it was asked."
        )
        found.append(("Search: tokens/s of a chip against tokens/s of a user", note, FRONT_HEAD, lines))
    taken = [[each["name"], _completed(each)] for each in deployments if each["completed"]]
    if taken:
        found.append(("What was left open", "Completed by the stack and the chip.", ["deployment", "taken"], taken))
    return found


def _rates(each: dict[str, Any]) -> list[str]:
    row = each["summary"]
    before = f" + {row['prefill_replicas']:.0f} prefill" if row["prefill_replicas"] else ""
    return [
        labelled(each["name"], each),
        row["system"],
        plan_text(row),
        f"{row['replicas']:.0f}{before}",
        _of(row["chips"], ".4g"),
        _of(row["good_requests_per_s"], ".3g"),
        _of(row["good_share"], ".1%"),
        _of(row["output_tokens_per_s"], ",.0f"),
        _of(row["output_tokens_per_s_per_chip"], ",.0f"),
        _of(row["good_tokens_per_s_per_chip"], ",.0f"),
        _of(row["mean_batch"], ".3g"),
        _of(row["kv_occupancy"], ".1%"),
        _of(row["hit_rate"], ".1%"),
        _of(row["preemptions"], ",.0f"),
        _of(row["refused"], ",.0f"),
    ]


def plan_text(row: dict[str, Any]) -> str:
    """The plan of a replica in short: TP8 bf16."""
    names = {"TP": "tensor", "PP": "pipeline", "EP": "expert"}
    degrees = [f"{short}{row[f'plan.{name}_parallel']:.0f}" for short, name in names.items()]
    shown = [degree for degree in degrees if not degree.endswith("P1") or degree == "TP1"]
    split = f" + {row['feed_forward.chips']:.0f} feed-forward" if row["feed_forward.chips"] else ""
    if split and row["plan.data_parallel"] > row["replicas"]:
        shown.insert(0, f"DP{row['plan.data_parallel'] / row['replicas']:.0f}")
    return " ".join([*shown, row["plan.weights_dtype"]]) + split


def _costs(each: dict[str, Any]) -> list[str]:
    row = each["summary"]
    power, cost = row["power_w"], row["usd_per_million_tokens"]
    return [
        labelled(each["name"], each),
        UNKNOWN if power is None else format_si(power, "W", 3),
        _of(row["tokens_per_j_chip"], ".3g"),
        _of(row["tokens_per_j_facility"], ".3g"),
        _of(cost, ".3g"),
    ]


def _member(each: dict[str, Any]) -> list[str]:
    """A deployment of the front of a search."""
    seen = each["simulated"] or {}
    return [
        each["plan"],
        _of(each["tokens_per_s_per_chip"], ",.0f"),
        _of(each["tokens_per_s_per_user"], ",.0f"),
        _time(each["ttft_s"]),
        _time(each["tpot_s"]),
        "" if not seen else _time(seen["ttft_s"]),
        "" if not seen else _time(seen["tpot_s"]),
    ]


def _completed(each: dict[str, Any]) -> str:
    return ", ".join(f"{path} {value}" for path, value in each["completed"].items())


def _spread(each: dict[str, Any], name: str) -> str:
    row = each["summary"]
    low, high = row.get(f"{name}.low"), row.get(f"{name}.high")
    text = _time(row[name])
    return text if low is None or high is None else f"{text} ± {_time((high - low) / 2.0)}"


def _time(value: float | None) -> str:
    return UNKNOWN if value is None else format_si(value, "s", 3)


def _of(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)
