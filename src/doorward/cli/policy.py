"""``doorward policy``: test, explain and ask policies. Reads files; changes nothing anywhere."""

from pathlib import Path
from typing import Annotated

import typer

policy_app = typer.Typer(help="Policies: test them, explain a decision, ask who may.", no_args_is_help=True)


@policy_app.command("test")
def run_tests(
    paths: Annotated[list[Path] | None, typer.Argument(help="Test files, or folders with `*.test.yaml`.")] = None,
    mutation: Annotated[bool, typer.Option(help="Change each criterion and see whether a test notices.")] = True,
    min_coverage: Annotated[float, typer.Option(min=0, max=100, help="Percent of branches that tests must take.")] = 0,
    min_mutants: Annotated[float, typer.Option(min=0, max=100, help="Percent of changes that must be noticed.")] = 0,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit's XML to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every test, branch and mutant.")] = False,
) -> None:
    """Run the tests beside the policies; exit 1 when one fails, 2 when a file cannot be used."""
    from doorward.cli.policy_test import run_policy_tests  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(
        run_policy_tests(
            paths or [Path()],
            mutation=mutation,
            as_json_output=as_json,
            junit=junit,
            minimum_coverage=min_coverage,
            minimum_mutants=min_mutants,
            verbose=verbose,
        )
    )
