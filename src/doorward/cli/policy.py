"""``doorward policy``: test, explain and ask policies. Reads files; changes nothing anywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from doorward.cli.access import Access
    from doorward.cli.policy_access import Output

Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration file, or a file with one policy.")]
Data = Annotated[Path, typer.Option("--data", help="Data folder of a running deployment, without --people.")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of the sockets; follows from --data by default.")
]
People = Annotated[Path | None, typer.Option("--people", help="File with people and their facts.")]
Url = Annotated[str | None, typer.Option("--url", help="`https://host/path`; finds the route.")]
Method = Annotated[str | None, typer.Option("--method", "-X", help="HTTP method.")]
RequestPath = Annotated[str | None, typer.Option("--path", help="Path of the request.")]
Header = Annotated[list[str] | None, typer.Option("--header", "-H", help="`name: value`; may be repeated.")]
Address = Annotated[str | None, typer.Option("--from", help="Address of the client.")]
At = Annotated[str | None, typer.Option("--at", help="Time, as `2030-03-01 22:00 Europe/Madrid` or ISO 8601.")]
DEFAULT_CONFIG = Path("doorward.yaml")
DEFAULT_DATA = Path(".doorward")

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


@policy_app.command("explain")
def explain(
    route: Annotated[str | None, typer.Argument(help="Name of the route; not needed with --url.")] = None,
    config: Config = DEFAULT_CONFIG,
    principal: Annotated[
        str | None, typer.Option("--as", help="A name from --people, or facts: `{email: a@b.c, groups: [x]}`.")
    ] = None,
    people: People = None,
    email: Annotated[str | None, typer.Option(help="Verified e-mail address.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="A group; may be repeated.")] = None,
    claim: Annotated[list[str] | None, typer.Option(help="`name=value`; may be repeated.")] = None,
    url: Url = None,
    method: Method = None,
    path: RequestPath = None,
    header: Header = None,
    address: Address = None,
    at: At = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Explain what would be decided; exit 0 when it lets in, 1 when it does not. Without --as nobody is signed in."""
    from doorward.cli.policy_explain import explain_question  # noqa: PLC0415  # loaded by the command that needs it
    from doorward.cli.policy_question import Question  # noqa: PLC0415  # loaded by the command that needs it

    question = Question(
        route=route,
        principal=principal,
        email=email,
        groups=tuple(group or ()),
        claims=tuple(claim or ()),
        url=url,
        method=method,
        path=path,
        headers=tuple(header or ()),
        address=address,
        time=at,
    )
    raise typer.Exit(explain_question(question, config, people, as_json=as_json))


@policy_app.command("who-can")
def who_can(
    route: Annotated[str | None, typer.Argument(help="Name of the route; not needed with --url.")] = None,
    config: Config = DEFAULT_CONFIG,
    people: People = None,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    url: Url = None,
    method: Method = None,
    path: RequestPath = None,
    header: Header = None,
    address: Address = None,
    at: At = None,
    output: Annotated[str, typer.Option("--output", "-o", help="text, csv or json.")] = "text",
    everybody: Annotated[bool, typer.Option("--all", help="Also those who may not.")] = False,
) -> None:
    """List who may use a route. What is not said about the request is left open, and conditions are named."""
    from doorward.cli.policy_access import who_can as ask  # noqa: PLC0415  # loaded by the command that needs it
    from doorward.cli.policy_question import Question  # noqa: PLC0415  # loaded by the command that needs it

    question = Question(
        route=route, url=url, method=method, path=path, headers=tuple(header or ()), address=address, time=at
    )
    raise typer.Exit(
        ask(question, config, people, _deployment(data, run_dir, config), output=_output(output), everybody=everybody)
    )


@policy_app.command("what-can")
def what_can(
    user: Annotated[str, typer.Argument(help="Name in --people, or e-mail address or user id in the databroker.")],
    config: Config = DEFAULT_CONFIG,
    people: People = None,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    method: Method = None,
    header: Header = None,
    address: Address = None,
    at: At = None,
    output: Annotated[str, typer.Option("--output", "-o", help="text, csv or json.")] = "text",
    everything: Annotated[bool, typer.Option("--all", help="Also what they may not use.")] = False,
) -> None:
    """List what somebody may use. What is not said about the request is left open, and conditions are named."""
    from doorward.cli.policy_access import what_can as ask  # noqa: PLC0415  # loaded by the command that needs it
    from doorward.cli.policy_question import Question  # noqa: PLC0415  # loaded by the command that needs it

    question = Question(method=method, headers=tuple(header or ()), address=address, time=at)
    raise typer.Exit(
        ask(
            user,
            question,
            config,
            people,
            _deployment(data, run_dir, config),
            output=_output(output),
            everything=everything,
        )
    )


def _deployment(data: Path, run_dir: Path | None, config: Path) -> "Access":
    from doorward.cli.access import Access  # noqa: PLC0415  # loaded by the command that needs it

    return Access(data=data, run_dir=run_dir, config=config)


def _output(text: str) -> "Output":
    from doorward.cli.policy_access import Output  # noqa: PLC0415  # loaded by the command that needs it

    try:
        return Output(text)
    except ValueError as error:
        raise typer.BadParameter(f"`{text}` is none of {', '.join(Output)}", param_hint="--output") from error
