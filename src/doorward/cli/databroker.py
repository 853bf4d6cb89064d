"""The ``doorward databroker`` commands."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from doorward.cli.access import Access

databroker_app = typer.Typer(help="The record store: its state, backups, keys.", no_args_is_help=True)

Data = Annotated[Path, typer.Option("--data", help="Data folder: keys, certificates, store.")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of the sockets; follows from --data by default.")
]
Where = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file, where the planes are at addresses.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
DEFAULT_DATA = Path(".doorward")


@databroker_app.command("status")
def databroker_status(
    data: Data = DEFAULT_DATA, run_dir: RunDir = None, config: Where = None, as_json: AsJson = False
) -> None:
    """Show the store's server, history, records and keys; exit 1 when it takes no writes or something does not open."""
    from doorward.cli.store import show_store  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(show_store(_access(data, run_dir, config), as_json=as_json))


@databroker_app.command("backup")
def databroker_backup(
    file: Annotated[Path, typer.Argument(help="File to write.")],
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
) -> None:
    """Write everything that is stored to a file; it stays sealed under the deployment's keys."""
    from doorward.cli.store import back_up  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(back_up(_access(data, run_dir, config), file))


@databroker_app.command("restore")
def databroker_restore(
    file: Annotated[Path, typer.Argument(help="File that `backup` wrote.")],
    keep_sessions: Annotated[
        bool, typer.Option("--keep-sessions", help="Also bring back sessions: one may have been signed out since.")
    ] = False,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
) -> None:
    """Bring back what the store lacks or has older; deletions are merged, sessions end."""
    from doorward.cli.store import restore  # noqa: PLC0415  # loaded by the command that needs it

    access = _access(data, run_dir, config)
    raise typer.Exit(restore(access, file, keep_sessions=keep_sessions))


@databroker_app.command("export")
def databroker_export(
    types: Annotated[list[str] | None, typer.Argument(help="Record types; all that may be shown without any.")] = None,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
) -> None:
    """Print records in the clear, one JSON object a line; never tokens or secrets."""
    from doorward.cli.store import export  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(export(_access(data, run_dir, config), types or ()))


@databroker_app.command("rekey")
def databroker_rekey(data: Data = DEFAULT_DATA, run_dir: RunDir = None, config: Where = None) -> None:
    """Seal everything under the newest key now; exit 1 if something does not open under any key."""
    from doorward.cli.store import reseal  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(reseal(_access(data, run_dir, config)))


@databroker_app.command("discard")
def databroker_discard(
    record_type: Annotated[
        str | None, typer.Argument(metavar="[TYPE]", help="Record type, as `status` names it.")
    ] = None,
    record_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Record id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that `status` names as damaged.")] = False,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
) -> None:
    """Delete a record that does not open; one that opens is left alone. Nothing brings it back but a backup."""
    from doorward.cli.store import discard  # noqa: PLC0415  # loaded by the command that needs it

    access = _access(data, run_dir, config)
    raise typer.Exit(discard(access, record_type, record_id, everything=everything))


def _access(data: Path, run_dir: Path | None, config: Path | None) -> "Access":
    from doorward.cli.access import Access  # noqa: PLC0415  # loaded by the commands that need it

    return Access(data=data, run_dir=run_dir, config=config)
