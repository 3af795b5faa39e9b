"""Figures of a serving study: distributions of latencies, batch and cache over time, the front of its search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cosim.report.style import COLOURS, colour_of, labelled, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {"ttft_s": ("time to first token", "ttft"), "tpot_s": ("time per output token", "tpot")}
OVER_TIME = {"decodes": "sequences in a step", "kv": "share of the cache", "waiting": "requests that wait"}
MILLI = 1e3


def latency_figure(run: dict[str, Any]) -> Figure:
    """Share of requests within each latency: first token and time per output token; the limits are dashed."""
    figure, panels = new_figure(10.0, 3.8, len(CURVES))
    colours = _colours(run)
    for axes, (name, (title, limit)) in zip(panels, CURVES.items(), strict=True):
        for each in run["deployments"]:
            values = np.array(each["distributions"][name]) * MILLI
            if len(values):
                shares = np.linspace(0.0, 1.0, len(values))
                axes.plot(values, shares, color=colours[each["name"]], label=labelled(each["name"], each))
        bound = run["limits"][limit]
        if bound is not None:
            axes.axvline(bound * MILLI, color="#555555", linestyle="--", linewidth=1.0)
        axes.set_xscale("log")
        for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            axis("{x:g}")
        axes.tick_params(axis="x", which="minor", labelsize=6)
        axes.set_xlabel(f"{title} [ms]", fontsize=9)
        axes.set_ylabel("share of requests", fontsize=9)
        axes.set_ylim(0.0, 1.02)
    _legend(panels[0])
    return figure


def time_figure(run: dict[str, Any]) -> Figure:
    """What all replicas of a deployment do over time, first seed: sequences that decode, cache in use, queue."""
    figure, panels = new_figure(10.0, 7.2, len(OVER_TIME), across=1)
    colours = _colours(run)
    for axes, (name, title) in zip(panels, OVER_TIME.items(), strict=True):
        for each in run["deployments"]:
            series, time = each["series"], np.array(each["series"]["time_s"])
            axes.step(
                time,
                _followed(each, series, name),
                where="post",
                color=colours[each["name"]],
                linewidth=1.0,
                label=labelled(each["name"], each),
            )
        axes.set_ylabel(title, fontsize=9)
        axes.set_ylim(bottom=0.0)
    panels[-1].set_xlabel("time [s]", fontsize=9)
    _legend(panels[0])
    return figure


def users_figure(found: dict[str, Any]) -> Figure:
    """Front of a search: tokens/s of a chip against tokens/s of a user, those that were simulated joined to what the
    simulation saw, the best of them that holds starred.
    """
    figure, (axes,) = new_figure(6.4, 4.2, 1)
    front = sorted(found["front"], key=lambda each: each["tokens_per_s_per_user"])
    closed = [(each["tokens_per_s_per_user"], each["tokens_per_s_per_chip"]) for each in front]
    axes.plot(*zip(*closed, strict=True), "o-", color=COLOURS[0], markersize=3, linewidth=1.0, label="closed form")
    checked = [each for each in front if each["simulated"]]
    label = "simulated"
    for each in checked:
        seen = each["simulated"]
        there = (1.0 / seen["tpot_s"], seen["tokens_per_s_per_chip"])
        start = (each["tokens_per_s_per_user"], each["tokens_per_s_per_chip"])
        axes.plot(*zip(start, there, strict=True), color="#999999", linewidth=0.8)
        fill = "none" if seen["broken"] else "full"
        axes.plot(*there, "s", color=COLOURS[1], fillstyle=fill, markersize=5, label=label)
        label = "_again"
    holds = found["holds"]
    if holds is not None and holds["simulated"]:
        seen = holds["simulated"]
        there = (1.0 / seen["tpot_s"], seen["tokens_per_s_per_chip"])
        axes.plot(*there, "*", color=COLOURS[2], markersize=13, label="best that keeps the limits")
    axes.set_xlabel("output tokens/s of a user", fontsize=9)
    axes.set_ylabel("output tokens/s of a chip", fontsize=9)
    axes.set_ylim(bottom=0.0)
    _legend(axes)
    return figure


def _followed(each: dict[str, Any], series: dict[str, Any], name: str) -> Any:  # noqa: ANN401  # an array or a list
    if name != "kv":
        return series[name]
    summary = each["summary"]
    return np.array(series["blocks"]) / (summary["scheduler.kv_blocks"] * max(summary["mean_replicas_decoding"], 1.0))


def _colours(run: dict[str, Any]) -> dict[str, str]:
    return colour_of([each["name"] for each in run["deployments"]])


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=8, frameon=False)
