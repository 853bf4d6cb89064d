"""The ``doorward grant`` and ``doorward records`` commands: facts about people that come from elsewhere than their sign-in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from doorward.cli.access import Access

grant_app = typer.Typer(help="Grants: access that somebody is given for a while.", no_args_is_help=True)
records_app = typer.Typer(help="External records: what other systems say of people.", no_args_is_help=True)

Data = Annotated[Path, typer.Option("--data", help="Data folder: keys, certificates, store.")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of the sockets; follows from --data by default.")
]
Where = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file, where the planes are at addresses.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
DEFAULT_DATA = Path(".doorward")


@grant_app.command("add")
def grant_add(
    name: Annotated[str, typer.Argument(help="The kind, as the configuration's `grants` call it.")],
    user: Annotated[str, typer.Option(help="Address or user id of whoever gets it.")],
    reason: Annotated[str, typer.Option(help="Why; it stays with the grant.")],
    life: Annotated[str, typer.Option("--for", help="How long, such as `2h`.")] = "1h",
    starts: Annotated[
        str | None, typer.Option("--from", help="From when, such as `2030-01-01T10:00:00Z`; now without it.")
    ] = None,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
    as_json: AsJson = False,
) -> None:
    """Give somebody a grant."""
    from doorward.cli.grants import add_grant  # noqa: PLC0415  # loaded by the command that needs it

    access = _access(data, run_dir, config)
    raise typer.Exit(add_grant(access, name, user, life, starts, reason, as_json=as_json))


@grant_app.command("list")
def grant_list(
    data: Data = DEFAULT_DATA, run_dir: RunDir = None, config: Where = None, as_json: AsJson = False
) -> None:
    """List the grants that have not ended."""
    from doorward.cli.grants import list_grants  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(list_grants(_access(data, run_dir, config), as_json=as_json))


@grant_app.command("end")
def grant_end(
    grant_id: Annotated[str, typer.Argument(help="Id of the grant.")],
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
) -> None:
    """End a grant now, and with it the streams that it held open."""
    from doorward.cli.grants import end_grant  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(end_grant(_access(data, run_dir, config), grant_id))


@records_app.command("put")
def records_put(
    file: Annotated[Path, typer.Argument(help="JSON lines, one person each; `-` is standard input.")],
    kind: Annotated[str, typer.Option("--type", help="Kind of record, such as `hr.example/employee`.")],
    join: Annotated[str, typer.Option(help="What lines are joined to people by: `subject` or `verified_email`.")],
    issuer: Annotated[str | None, typer.Option(help="The issuer whose subjects the lines name.")] = None,
    key: Annotated[
        str | None, typer.Option(help="The field that names the person; `subject` or `email` without it.")
    ] = None,
    stale_after: Annotated[
        str | None, typer.Option("--stale-after", help="When these records are no longer known, such as `36h`.")
    ] = None,
    accept_removals: Annotated[
        bool, typer.Option("--accept-removals", help="Also when more than a quarter of the records vanish.")
    ] = False,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
    as_json: AsJson = False,
) -> None:
    """Replace everything that is known of a kind of record by what stands in a file."""
    from doorward.cli.external_records import put_records  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(
        put_records(
            _access(data, run_dir, config),
            kind,
            file,
            join=join,
            issuer=issuer,
            key=key,
            stale_after=stale_after,
            accept_removals=accept_removals,
            as_json=as_json,
        )
    )


@records_app.command("list")
def records_list(
    data: Data = DEFAULT_DATA, run_dir: RunDir = None, config: Where = None, as_json: AsJson = False
) -> None:
    """List the kinds of records that are known."""
    from doorward.cli.external_records import list_sources  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(list_sources(_access(data, run_dir, config), as_json=as_json))


@records_app.command("remove")
def records_remove(
    kind: Annotated[str, typer.Argument(help="Kind of record.")],
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
) -> None:
    """Make a kind of record unknown, and delete its records."""
    from doorward.cli.external_records import remove_records  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(remove_records(_access(data, run_dir, config), kind))


def _access(data: Path, run_dir: Path | None, config: Path | None) -> "Access":
    from doorward.cli.access import Access  # noqa: PLC0415  # loaded by the command that needs it

    return Access(data=data, run_dir=run_dir, config=config)
