"""`cosim diff`: where the difference between two points comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosim.cli.estimate import SetOption
from cosim.cli.library import JsonOption
from cosim.cli.output import emit, overrides


def diff(
    first: Annotated[str, typer.Argument(help="A run folder, or a system.")],
    a: Annotated[str, typer.Argument(help="Point id or system of the run; a second system; or path=value,...")],
    b: Annotated[str | None, typer.Argument(help="The other point; path=value,... of a system; base is as is.")] = None,
    phase: Annotated[str | None, typer.Option(help="train, prefill or decode (default); of systems.")] = None,
    workload: Annotated[str | None, typer.Option(help="A model of the library, or a file; of systems.")] = None,
    settings: SetOption = None,
    json_to: JsonOption = None,
) -> None:
    """Where the difference between two points comes from, component by component."""
    from cosim.cli.screen import difference_text
    from cosim.errors import SpecError
    from cosim.explore import difference_request as request

    common = overrides(settings or [])
    if (Path(first) / "run.json").is_file():
        if b is None:
            raise SpecError("needs two points of the run", field="diff", hint="name a second id or system")
        given = {"--set": common, "--workload": workload, "--phase": phase}
        for option, value in given.items():
            if value:
                raise SpecError("belongs to systems", field=option, hint="a run has its own")
        found = request.difference_of_run(Path(first), a, b)
    elif b is not None and Path(first).is_dir():
        raise SpecError("is not a run folder (it has no run.json)", file=first, hint="cosim run EXPERIMENT makes one")
    elif workload is None:
        raise SpecError("is missing", field="--workload", hint="two systems are compared on a workload")
    elif b is None:
        found = request.difference_of_systems(first, a, phase or "decode", workload, common)
    else:
        made = tuple({} if text == request.BASE else overrides(text.split(",")) for text in (a, b))
        variants = ({**common, **made[0]}, {**common, **made[1]})
        found = request.difference_of_variants(first, variants, (a, b), phase or "decode", workload)
    if not emit(found.as_json(), json_to):
        print(difference_text(found))
