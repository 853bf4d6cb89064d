"""The command tree.

Commands import what they need when they run: ``doorward serve authorize`` must start without the parts of the
other planes, and every start is on somebody's watch.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from doorward import __version__
from doorward.cli.policy import policy_app

app = typer.Typer(
    name="doorward",
    help="Identity-aware access proxy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
session_app = typer.Typer(help="Sessions: who is signed in, and ending it.", no_args_is_help=True)
keys_app = typer.Typer(help="Keys of a deployment.", no_args_is_help=True)
app.add_typer(session_app, name="session")
app.add_typer(keys_app, name="keys")
app.add_typer(policy_app, name="policy")

Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
Data = Annotated[Path, typer.Option("--data", help="Data folder: keys, certificates, store.")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of the sockets; follows from --data by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

DEFAULT_DATA = Path(".doorward")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Configuration file.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
) -> None:
    """Report everything wrong with a configuration; exit 1 if anything would not be served."""
    from doorward.cli.check import check_file  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(check_file(file, strict=strict))


@app.command()
def run(config: Config, data: Data = DEFAULT_DATA) -> None:
    """Run all planes, the store and Envoy on this machine."""
    from doorward.cli.run import run_deployment  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(run_deployment(config, data))


@app.command()
def serve(
    plane: Annotated[str, typer.Argument(help="authenticate, authorize, proxy or databroker.")],
    config: Config,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    worker: Annotated[int, typer.Option(min=0, max=63, help="Number of this worker among those of its plane.")] = 0,
) -> None:
    """Run one plane."""
    from doorward.cli.serve import serve_plane  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(serve_plane(plane, config, data, run_dir, ready_fd, worker))


@app.command()
def demo(
    data: Data = DEFAULT_DATA,
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTPS port; 0 takes a free one.")] = 8443,
) -> None:
    """Run a complete demo on loopback: identity provider, sample upstreams, all planes."""
    from doorward.cli.demo import run_demo  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(run_demo(data, port))


@app.command()
def explain(
    decision_id: Annotated[str, typer.Argument(help="The id on a denial page or in the decision log.")],
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Explain a decision: each criterion with its result and the value that it saw."""
    from doorward.cli.operate import explain_decision  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(explain_decision(decision_id, data, run_dir, as_json=as_json))


@app.command()
def status(data: Data = DEFAULT_DATA, run_dir: RunDir = None, as_json: AsJson = False) -> None:
    """Show databroker and authorizer: health, configuration generation, age of the data."""
    from doorward.cli.operate import show_status  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(show_status(data, run_dir, as_json=as_json))


@session_app.command("list")
def session_list(
    user: Annotated[str | None, typer.Option(help="Only those of the user with this id.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only those of this identity provider.")] = None,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """List live sessions."""
    from doorward.cli.sessions import list_sessions  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(list_sessions(data, run_dir, user, provider, as_json=as_json))


@session_app.command("show")
def session_show(
    session_id: Annotated[str, typer.Argument(help="Id of the session.")],
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Show one session: whose, since when, last used when, and the claims it came with."""
    from doorward.cli.sessions import show_session  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(show_session(session_id, data, run_dir, as_json=as_json))


@session_app.command("revoke")
def session_revoke(
    session_id: Annotated[str | None, typer.Argument(help="Id of one session.")] = None,
    user: Annotated[str | None, typer.Option(help="Every session of the user with this id.")] = None,
    provider: Annotated[str | None, typer.Option(help="Every session of this identity provider.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every session there is.")] = False,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """End sessions, and say when every authorizer has applied it; exit 3 while some have not."""
    from doorward.cli.sessions import revoke_sessions  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(revoke_sessions(session_id, user, provider, data, run_dir, everything=everything, as_json=as_json))


@keys_app.command("init")
def keys_init(data: Data = DEFAULT_DATA) -> None:
    """Make every key that the data folder lacks; keep what is there."""
    from doorward.cli.keys import init_keys  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(init_keys(data))


def main() -> None:
    """Entry point of the ``doorward`` script."""
    from doorward.errors import DoorwardError  # noqa: PLC0415  # keeps `doorward --help` instant

    try:
        app()
    except DoorwardError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
