"""How the goodput of a run looks on a terminal."""

from __future__ import annotations

from typing import Any

from cosim.cli.output import table

Row = dict[str, Any]
CAUSES = {
    "recomputed": "work done again",
    "detection": "until a failure is seen",
    "restart": "restarts",
    "checkpoint": "checkpoints",
    "waiting": "waiting for nodes",
    "stragglers": "slow chips",
    "shrunk": "fewer replicas",
}
DAY, HOUR, MINUTE = 86400.0, 3600.0, 60.0


def goodput_text(row: Row) -> str:
    """What was asked, goodput and time with their spread, where time goes, what fails."""
    expected = row["expected"]
    between = row["mean_between_failures_s"]
    spares = f"{row['spares']} spare" + (", elastic" if row["elastic"] else "")
    length = f"{row['steps']:,.0f} steps of {span(row['step_s'])}, {row['tokens']:.4g} tokens"
    stops = f"{row['checkpoint']}, {row['state_bytes'] / 1e12:.4g} TB, stops the job {span(row['checkpoint_s'])}"
    late = f", readable after {span(row['readable_after_s'])}" if row["readable_after_s"] else ""
    fails = "none" if between is None else f"one every {span(between)}"
    lines = [
        f"{row['workload']} on {row['system']}: {row['chips']:,.0f} chips on {row['nodes']:,} nodes ({spares})",
        f"  run          {length}, {span(row['work_s'])} without failures",
        f"  checkpoint   {stops}{late}, after every {span(row['interval_s'])} of work ({row['interval_rule']})",
        f"  failures     {fails}, restart {span(row['restart_s'])}",
        f"  goodput      {_shares(row['goodput'])}; closed form {expected['goodput']:.2%}",
        f"  effective training time {_shares(row['effective_training_time'])}",
        f"  time         {_spans(row['time_s'])}; closed form {span(expected['time_s'])}",
        f"  simulated    {row['seeds']} runs, seed {row['seed']}; ranges are 5 to 95 % of the runs",
        "",
    ]
    wall, sure = row["time_s"]["mean"], expected["time_s"]
    causes = [
        [CAUSES[name], span(time_s), f"{time_s / wall:.2%}", f"{expected['lost_s'][name] / sure:.2%}"]
        for name, time_s in row["lost_s"].items()
        if time_s > 0.0 or expected["lost_s"][name] > 0.0
    ]
    lines.append(table(["lost time", "mean", "of the run", "closed form"], causes))
    failed = [[name, f"{count:.1f}", f"{expected['failures'][name]:.1f}"] for name, count in row["failures"].items()]
    lines += ["", table(["component", "failures", "closed form"], failed)]
    if row["unverified"]:
        lines += ["", f"unverified recollection: {', '.join(row['unverified'])}"]
    return "\n".join(lines)


def span(time_s: float) -> str:
    """A time as people say it: 54.2 days, 2.9 h, 12.4 min, 4.1 s."""
    for unit, size in (("days", DAY), ("h", HOUR), ("min", MINUTE)):
        if time_s >= 2.0 * size:
            return f"{time_s / size:.4g} {unit}"
    return f"{time_s:.4g} s"


def _spans(found: Row) -> str:
    return f"{span(found['mean'])} ({span(found['p5'])} to {span(found['p95'])})"


def _shares(found: Row) -> str:
    return f"{found['mean']:.2%} ({found['p5']:.2%} to {found['p95']:.2%})"
