"""The command line: `cosim COMMAND`. Exit codes: 0 done, 2 bad input (one message), 1 internal error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cosim.cli import calibrate, collective, diff, estimate, goodput, imports, library, measure, runs, validate

app = typer.Typer(
    name="cosim",
    help="How fast, how hot and how dear is an accelerator on a workload, and what is the best way to map it?",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Options of cosim itself."""
    if version:
        import cosim

        print(cosim.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


app.command("list")(library.list_items)
app.command("show")(library.show)
app.command("schema")(library.schema)
app.command("estimate")(estimate.estimate_command)
app.command("goodput")(goodput.goodput_command)
app.command("collective")(collective.collective_command)
app.command("import")(imports.import_command)
app.command("run")(runs.run)
app.command("report")(runs.report)
app.command("validate")(validate.validate_command)
app.command("measure")(measure.measure_command)
app.command("calibrate")(calibrate.calibrate_command)
app.command("diff")(diff.diff)


def main() -> None:
    """Entry point: bad input becomes one message on standard error and exit code 2."""
    from cosim.errors import InfeasibleError, SpecError

    try:
        app()
    except (SpecError, InfeasibleError) as error:
        kind = "does not fit" if isinstance(error, InfeasibleError) else "error"
        print(f"{kind}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
