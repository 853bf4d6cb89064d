"""The command tree.

Commands import what they need when they run: ``doorward serve authorize`` must start without the parts of the
other planes, and every start is on somebody's watch.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from doorward import __version__
from doorward.cli.databroker import databroker_app
from doorward.cli.facts import grant_app, records_app
from doorward.cli.policy import policy_app

if TYPE_CHECKING:
    from doorward.cli.access import Access

app = typer.Typer(
    name="doorward",
    help="Identity-aware access proxy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
session_app = typer.Typer(help="Sessions: who is signed in, and ending it.", no_args_is_help=True)
account_app = typer.Typer(help="Service accounts: programs with an identity of their own.", no_args_is_help=True)
app.add_typer(account_app, name="service-account")
keys_app = typer.Typer(help="Keys of a deployment.", no_args_is_help=True)
app.add_typer(session_app, name="session")
directory_app = typer.Typer(help="Directories: who is in which group.", no_args_is_help=True)
app.add_typer(directory_app, name="directory")
app.add_typer(keys_app, name="keys")
app.add_typer(policy_app, name="policy")
app.add_typer(databroker_app, name="databroker")
app.add_typer(grant_app, name="grant")
app.add_typer(records_app, name="records")

Config = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]
Data = Annotated[Path, typer.Option("--data", help="Data folder: keys, certificates, store.")]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="Folder of the sockets; follows from --data by default.")
]
Where = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file, where the planes are at addresses.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

Life = Annotated[str, typer.Option("--life", help="How long a certificate lives, such as `30d`.")]
DEFAULT_LIFE = "30d"
DEFAULT_DATA = Path(".doorward")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Configuration file.")],
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    people: Annotated[
        Path | None, typer.Option("--people", help="File with people: warn of groups and claims that none of them has.")
    ] = None,
    directory: Annotated[
        bool, typer.Option("--directory", help="The same over everybody that the running deployment knows.")
    ] = False,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
) -> None:
    """Report everything wrong with a configuration; exit 1 if anything would not be served."""
    from doorward.cli.check import check_file  # noqa: PLC0415  # loaded by the command that needs it

    deployment = _access(data, run_dir, file) if directory else None
    raise typer.Exit(check_file(file, strict=strict, people=people, deployment=deployment))


@app.command()
def routes(config: Config, as_json: AsJson = False) -> None:
    """List routes with what another gateway must say when it asks about one."""
    from doorward.cli.routes import list_routes  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(list_routes(config, as_json=as_json))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, policies included, for editors."""
    import json  # noqa: PLC0415  # loaded by the command that needs it

    from doorward.config.schema import json_schema  # noqa: PLC0415  # loaded by the command that needs it

    print(json.dumps(json_schema(), indent=2))


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
    listen: Annotated[
        list[str] | None, typer.Option(help="SERVICE=HOST:PORT instead of the configured port; may be repeated.")
    ] = None,
    health: Annotated[str | None, typer.Option(help="HOST:PORT that answers probes; off by default.")] = None,
) -> None:
    """Run one plane."""
    from doorward.cli.serve import serve_plane  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(serve_plane(plane, config, data, run_dir, ready_fd, worker, listen or [], health))


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
    config: Where = None,
    as_json: AsJson = False,
) -> None:
    """Explain a decision: each criterion with its result and the value that it saw."""
    from doorward.cli.operate import explain_decision  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(explain_decision(decision_id, _access(data, run_dir, config), as_json=as_json))


@app.command()
def status(data: Data = DEFAULT_DATA, run_dir: RunDir = None, config: Where = None, as_json: AsJson = False) -> None:
    """Show databroker and authorizer: health, configuration generation, age of the data."""
    from doorward.cli.operate import show_status  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(show_status(_access(data, run_dir, config), as_json=as_json))


@session_app.command("list")
def session_list(
    user: Annotated[str | None, typer.Option(help="Only those of one user: address or id.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only those of this identity provider.")] = None,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
    as_json: AsJson = False,
) -> None:
    """List live sessions."""
    from doorward.cli.sessions import list_sessions  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(list_sessions(_access(data, run_dir, config), user, provider, as_json=as_json))


@session_app.command("show")
def session_show(
    session_id: Annotated[str, typer.Argument(help="Id of the session.")],
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
    as_json: AsJson = False,
) -> None:
    """Show one session: whose, since when, last used when, and the claims it came with."""
    from doorward.cli.sessions import show_session  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(show_session(session_id, _access(data, run_dir, config), as_json=as_json))


@session_app.command("revoke")
def session_revoke(
    session_id: Annotated[str | None, typer.Argument(help="Id of one session.")] = None,
    user: Annotated[str | None, typer.Option(help="Every session of one user: address or id.")] = None,
    provider: Annotated[str | None, typer.Option(help="Every session of this identity provider.")] = None,
    group: Annotated[str | None, typer.Option(help="Every session of a group's members: id, name or address.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every session there is.")] = False,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
    as_json: AsJson = False,
) -> None:
    """End sessions, and say when every authorizer has applied it; exit 3 while some have not."""
    from doorward.cli.sessions import revoke_sessions  # noqa: PLC0415  # loaded by the command that needs it

    access = _access(data, run_dir, config)
    raise typer.Exit(revoke_sessions(session_id, user, provider, group, access, everything=everything, as_json=as_json))


@account_app.command("create")
def account_create(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    group: Annotated[list[str] | None, typer.Option(help="A group that it is in; may be repeated.")] = None,
    life: Annotated[str, typer.Option(help="How long it lives, such as `90d`.")] = "90d",
    owner: Annotated[
        str | None, typer.Option(help="Who answers for it: user id or address. It is refused when they are.")
    ] = None,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
    as_json: AsJson = False,
) -> None:
    """Make a service account and print its token, this once."""
    from doorward.cli.service_accounts import create_account  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(create_account(_access(data, run_dir, config), name, group or [], life, owner, as_json=as_json))


@account_app.command("list")
def account_list(
    data: Data = DEFAULT_DATA, run_dir: RunDir = None, config: Where = None, as_json: AsJson = False
) -> None:
    """List live service accounts."""
    from doorward.cli.service_accounts import list_accounts  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(list_accounts(_access(data, run_dir, config), as_json=as_json))


@account_app.command("revoke")
def account_revoke(
    account_id: Annotated[str, typer.Argument(help="Id of the account.")],
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
) -> None:
    """End a service account."""
    from doorward.cli.service_accounts import revoke_account  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(revoke_account(_access(data, run_dir, config), account_id))


@directory_app.command("sync")
def directory_sync(
    directory: Annotated[str | None, typer.Argument(help="Id of one directory; all of them without it.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Read now, and show how it goes.")] = False,
    accept_removals: Annotated[bool, typer.Option(help="Believe that so many have gone.")] = False,
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
    as_json: AsJson = False,
) -> None:
    """Read directories now instead of at their next time; exit 1 if one was not read."""
    from doorward.cli.directories import sync_directories  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(
        sync_directories(
            directory, _access(data, run_dir, config), now=now, accept_removals=accept_removals, as_json=as_json
        )
    )


@directory_app.command("token")
def directory_token(as_json: AsJson = False) -> None:
    """Make a bearer token for a client that pushes, and the hash of it that goes into the file of `tokens`."""
    from doorward.cli.directories import make_token  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(make_token(as_json=as_json))


@directory_app.command("status")
def directory_status(
    data: Data = DEFAULT_DATA, run_dir: RunDir = None, config: Where = None, as_json: AsJson = False
) -> None:
    """Show how old each directory's word is, and what keeps it from being read; exit 1 if anything does."""
    from doorward.cli.directories import show_directories  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(show_directories(_access(data, run_dir, config), as_json=as_json))


@keys_app.command("init")
def keys_init(
    data: Data = DEFAULT_DATA,
    planes: Annotated[
        bool, typer.Option("--planes", help="Also an authority and a certificate for each plane.")
    ] = False,
    life: Life = DEFAULT_LIFE,
) -> None:
    """Make every key that the data folder lacks; keep what is there."""
    from doorward.cli.keys import init_keys  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(init_keys(data, planes=planes, life=life))


@keys_app.command("gateway")
def keys_gateway(
    name: Annotated[str, typer.Argument(help="As `gateways` in the configuration calls it.")],
    data: Data = DEFAULT_DATA,
    life: Life = DEFAULT_LIFE,
) -> None:
    """Make the certificate by which another gateway asks authorizers; `keys renew` renews it with the others."""
    from doorward.cli.keys import issue_gateway  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(issue_gateway(name, data, life=life))


@keys_app.command("renew")
def keys_renew(
    data: Data = DEFAULT_DATA,
    life: Life = DEFAULT_LIFE,
    watch: Annotated[bool, typer.Option("--watch", help="Go on renewing until ended.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what is not due.")] = False,
) -> None:
    """Renew the planes' certificates that are two thirds through their life; running planes take them over."""
    from doorward.cli.keys import renew_certificates  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(renew_certificates(data, life=life, watch=watch, all_of_them=everything))


@keys_app.command("rotate")
def keys_rotate(
    purpose: Annotated[
        str, typer.Argument(help="session-handle, flow, records, and so on: the name of the key's file.")
    ],
    data: Data = DEFAULT_DATA,
    run_dir: RunDir = None,
    config: Where = None,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Let running planes confirm before a key signs.")] = True,
) -> None:
    """Do the next step of changing a key: add one, let it sign, drop the old one; exit 3 while planes lack it."""
    from doorward.cli.keys import rotate_key  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(rotate_key(purpose, data, _access(data, run_dir, config) if ask else None))


@keys_app.command("revoke")
def keys_revoke(
    purpose: Annotated[str, typer.Argument(help="The name of the key's file.")],
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `status --json` shows it.")],
    data: Data = DEFAULT_DATA,
) -> None:
    """Drop one key at once, and say what that ends."""
    from doorward.cli.keys import revoke_key  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(revoke_key(purpose, key_id, data))


@keys_app.command("export")
def keys_export(
    plane: Annotated[str, typer.Argument(help="authenticate, authorize, proxy, databroker, operator or gateway/NAME.")],
    target: Annotated[Path, typer.Argument(help="Folder that becomes the plane's data folder.")],
    data: Data = DEFAULT_DATA,
) -> None:
    """Write what one plane is given, and nothing else: its certificate and the keys that it is entitled to."""
    from doorward.cli.keys import export_plane  # noqa: PLC0415  # loaded by the command that needs it

    raise typer.Exit(export_plane(plane, data, target))


def _access(data: Path, run_dir: Path | None, config: Path | None) -> "Access":
    from doorward.cli.access import Access  # noqa: PLC0415  # loaded by the commands that need it

    return Access(data=data, run_dir=run_dir, config=config)


def main() -> None:
    """Entry point of the ``doorward`` script."""
    try:
        app()
    except Exception as error:
        from doorward.cli.failures import report_failure  # noqa: PLC0415  # keeps `doorward --help` instant

        status = report_failure(error)
        if status is None:
            raise
        sys.exit(status)


if __name__ == "__main__":
    main()
