"""A file becomes settings, or every problem at once with file, line and column.

What is wrong inside one route breaks that route alone: it keeps its place and answers 503, because leaving it out would
hand its traffic to the next broader route. Anything else wrong keeps the whole file from being used.
"""

import dataclasses
import hashlib
import os
import re
import time
from pathlib import Path

from doorward.config.client_certificates import read_client_certificates
from doorward.config.directories import DirectoriesReader
from doorward.config.directory_settings import DirectorySettings
from doorward.config.document import Document, PlanesDocument
from doorward.config.endpoints import Address, PlaneAddresses, parse_address
from doorward.config.gateways import read_gateways
from doorward.config.grants import read_grants
from doorward.config.identity_providers import read_identity_providers
from doorward.config.named_policies import read_library
from doorward.config.references import SecretReader, no_secret, read_secret
from doorward.config.remembered import Remembered, digest_of
from doorward.config.route_checks import check_listed_issuers
from doorward.config.route_lists import RouteList, RouteReading, join
from doorward.config.routes import RouteReader, parse_origin
from doorward.config.settings import (
    ClientCertificateSettings,
    DecisionLogSettings,
    Loaded,
    Settings,
    StalenessLimits,
    TlsSettings,
    TracingSettings,
)
from doorward.config.sources import ROUTES_FOLDER, main_file, sources_of
from doorward.config.store import read_redis
from doorward.config.token_issuers import read_token_issuers
from doorward.config.validation import position_of, salvaged, validate
from doorward.errors import ConfigurationError
from doorward.route.route import CertificateUse
from doorward.source import Mapping, Node, Position, Problem, Problems, Sequence, read_yaml

LIMIT_BYTES = 64 * 1024 * 1024
_LISTEN = re.compile(r"(\[[0-9a-fA-F:]+\]|[0-9.]+|localhost):([0-9]{1,5})\Z", re.ASCII)
_OPAQUE = frozenset({"routes", "directories", "sets", "policies"})
_STAND_INS: dict[str, object] = {"version": 1, "authenticate_url": "", "routes": None}


def load_settings(
    path: Path, *, secrets: SecretReader = read_secret, store_secrets: SecretReader = no_secret
) -> Settings:
    """The settings in ``path``; broken routes are part of them and named in ``Settings.warnings``.

    ``secrets`` is ``no_secret`` in the planes that do not sign in at identity providers: they are not given their secrets.
    ``store_secrets`` is ``read_secret`` in the databroker alone.

    Raises:
        ConfigurationError: the file cannot be used; carries every problem.
    """
    loaded = load(path, secrets=secrets, store_secrets=store_secrets)
    if loaded.settings is None:
        errors = [problem for problem in loaded.problems if problem.severity == "error"]
        raise ConfigurationError([problem.render() for problem in errors])
    return loaded.settings


def load(
    path: Path,
    *,
    secrets: SecretReader = read_secret,
    store_secrets: SecretReader = no_secret,
    remembered: Remembered | None = None,
) -> Loaded:
    """Read ``path`` and report everything about it.

    ``secrets`` finds what the file refers to; who only looks at routes and policies needs none of it. With what is ``remembered``
    of an earlier reading, only files that have changed are read again.

    Raises:
        ConfigurationError: it cannot be read, or is no YAML at all.
    """
    began = time.time_ns()
    file = main_file(path)
    remembered = remembered or Remembered()
    text, node = _read(file, remembered)
    routes_folder = path / ROUTES_FOLDER if file != path else None
    loaded = _Loader(file, text, secrets, store_secrets, routes_folder, remembered).load(node)
    sources = sources_of([*loaded.files, *([path, path / ROUTES_FOLDER] if routes_folder else [])], began)
    settings = None if loaded.settings is None else dataclasses.replace(loaded.settings, sources=sources)
    return dataclasses.replace(loaded, settings=settings, sources=sources)


def _read(path: Path, remembered: Remembered) -> tuple[str, Mapping]:
    """The text and the tree of a configuration file.

    Raises:
        ConfigurationError: it cannot be read, or is no YAML mapping.
    """
    text = _text_of(path)
    node = remembered.tree(path, text, lambda: read_yaml(text, str(path)))
    if not isinstance(node, Mapping):
        start = Position(str(path), 1, 1)
        raise ConfigurationError([Problem(start, "expected a mapping with `version: 1` and `routes`").render()])
    return text, node


def _text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    start = Position(str(path), 1, 1)
    try:
        if path.stat().st_size > LIMIT_BYTES:
            raise ConfigurationError([Problem(start, f"larger than {LIMIT_BYTES} bytes").render()])
        return path.read_text()
    except OSError as error:
        raise ConfigurationError([Problem(start, f"cannot be read: {error.strerror}").render()]) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([Problem(start, "not UTF-8 text").render()]) from error


def load_plane_addresses(path: Path) -> PlaneAddresses:
    """Where the planes are, and nothing else: for commands that have no use for routes and no right to secrets.

    Raises:
        ConfigurationError: the file cannot be read, or what it says about planes is wrong.
    """
    _, node = _read(main_file(path), Remembered())
    problems = Problems()
    written = node.get("planes")
    addresses = PlaneAddresses()
    if written is not None:
        document = (
            validate(PlanesDocument, written, problems, opaque=frozenset()) if isinstance(written, Mapping) else None
        )
        if document is None and not problems.has_errors:
            problems.error(written.position, "`planes` must be a mapping")
        if document is not None:
            addresses = _plane_addresses(document, node, problems)
    if problems.has_errors:
        raise ConfigurationError([problem.render() for problem in problems.all])
    return addresses


class _Loader:
    def __init__(
        self,
        file: Path,
        text: str,
        secrets: SecretReader,
        store_secrets: SecretReader,
        routes_folder: Path | None,
        remembered: Remembered,
    ) -> None:
        self._remembered = remembered
        self._routes_folder = routes_folder
        self._read_secret = secrets
        self._read_store_secret = store_secrets
        self._secret_files: list[Path] = []
        self._folder = file.parent
        self._files = [file]
        self._texts = {file: hashlib.sha256(text.encode())}
        """Hashes of the texts that were read."""
        self._fatal = Problems()
        self._contained = Problems()

    def load(self, node: Mapping) -> Loaded:
        settings = self._settings(node)
        problems = Problems()
        problems.extend(self._fatal.all)
        problems.extend(self._contained.all)
        # A named policy's warning is said once, not for each route that uses it.
        said = tuple(dict.fromkeys(problems.all))
        return Loaded(None if self._fatal.has_errors else settings, said, (*self._files, *self._secret_files))

    def _settings(self, node: Mapping) -> Settings | None:
        document = validate(Document, node, self._fatal, opaque=_OPAQUE)
        if document is None:
            # Not to be served; read on all the same, so that the operator hears of everything at once.
            document = salvaged(Document, node, opaque=_OPAQUE, stand_ins=_STAND_INS)
        origin = self._authenticate_origin(node)
        reading = self._routes(node, origin[0] if origin else "")
        if document is None:
            return None
        listen = self._listen(document, node)
        providers = read_identity_providers(
            document.identity_providers, self._folder, node, self._read_secret, self._fatal, self._secret_files
        )
        if reading is not None:
            self._remembered.checks.check(reading.routes, providers, self._contained)
        grants = read_grants(document, reading.routes if reading else (), node, self._fatal, self._contained)
        gateways = read_gateways(document, reading.routes if reading else (), node, self._fatal, self._contained)
        directories = self._directories(document, node)
        redis = read_redis(
            document.databroker, self._folder, node, self._read_store_secret, self._fatal, self._secret_files
        )
        certificates = self._client_certificates(document, node, reading)
        issuers = read_token_issuers(document.token_issuers, node, self._fatal)
        if reading is not None:
            check_listed_issuers(reading.routes, issuers, self._fatal)
        if listen is None or reading is None or origin is None:
            return None
        tls = document.tls
        return Settings(
            generation=self._generation(),
            secrets_digest=digest_of(self._secret_files),
            listen=listen,
            authenticate_host=origin[0],
            authenticate_port=origin[1],
            tls=TlsSettings(
                certificate_file=self._folder / tls.certificate if tls else None,
                key_file=self._folder / tls.key if tls else None,
            ),
            redis=redis,
            identity_providers=providers,
            directories=directories,
            scim_listen=self._scim_listen(document, node, directories),
            scim_tls=self._scim_tls(document),
            client_certificates=certificates,
            token_issuers=issuers,
            session_lifetime_seconds=document.session.lifetime,
            session_idle_seconds=document.session.idle_timeout,
            session_limit=document.session.max_concurrent,
            ask_provider_seconds=document.session.ask_provider_every,
            staleness=StalenessLimits(
                sensitive=min(document.databroker.sensitive_staleness_limit, document.databroker.staleness_limit),
                default=document.databroker.staleness_limit,
            ),
            planes=_plane_addresses(document.planes, node, self._fatal),
            decision_log=self._decision_log(document, node),
            tracing=None
            if document.tracing is None
            else TracingSettings(otlp_endpoint=document.tracing.otlp_endpoint, sample=document.tracing.sample),
            envoy_path=self._folder / document.envoy.path if document.envoy.path else None,
            authorize_workers=document.authorize.workers,
            envoy_concurrency=document.envoy.concurrency,
            max_streams=document.envoy.max_streams,
            max_connections=document.envoy.max_connections,
            max_heap_bytes=document.envoy.max_heap_megabytes * 1024 * 1024,
            grants=grants,
            gateways=gateways,
            routes=reading.routes,
            broken_hosts=reading.broken_hosts,
            warnings=self._contained.all,
        )

    def _decision_log(self, document: Document, node: Mapping) -> DecisionLogSettings:
        log = document.decision_log
        if log.mode == "audit-or-deny" and log.file == "-":
            self._fatal.error(
                position_of(node, ("decision_log", "mode")),
                "`audit-or-deny` needs a `file`",
                "what is written to standard output is on no disk when the answer goes out",
            )
        return DecisionLogSettings(
            file=None if log.file == "-" else self._folder / log.file,
            audit_or_deny=log.mode == "audit-or-deny",
            rotate_bytes=log.rotate_megabytes * 1024 * 1024,
            keep_files=log.keep_files,
            keep_seconds=log.keep_for,
            loggable=frozenset(log.loggable),
            otlp_endpoint=log.otlp_endpoint,
        )

    def _routes(self, node: Mapping, authenticate_host: str) -> RouteReading | None:
        """The routes of the main file, then those of each file in ``routes.d``, by the files' names."""
        reader = RouteReader(self._folder, authenticate_host, read_library(node, self._contained))
        self._remembered.begin((self._folder, authenticate_host, node.get("sets"), node.get("policies")))
        lists = []
        main, written = self._files[0], node.get("routes")
        if written is not None:
            digest = self._texts[main].hexdigest()
            lists.append(self._remembered.routes(main, digest, lambda: reader.read(written)))
        files = self._routes_files()
        for path in files or ():
            self._files.append(path)
            found = self._routes_in(path, reader)
            lists += [found] if found is not None else []
        if files is None and written is None:
            return None
        self._remembered.keep_only(self._files)
        reading = join(lists, self._remembered.places, self._fatal, self._contained)
        self._files.extend(reading.used_files)
        return reading

    def _routes_files(self) -> list[Path] | None:
        """The files in ``routes.d``, by their names; ``None`` where there is no such folder.

        What looks like one and is not read would be missing, and its requests would go to a broader route: that is an error.
        """
        folder = self._routes_folder
        if folder is None or not os.path.lexists(folder):
            return None
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            self._fatal.error(Position(str(folder), 1, 1), f"cannot be read: {error.strerror}")
            return []
        for path in found:
            if not path.name.endswith(".yaml") and path.name.lower().endswith((".yaml", ".yml")):
                self._fatal.error(Position(str(path), 1, 1), "is not read", "its name has to end with `.yaml`")
        return [path for path in found if path.name.endswith(".yaml")]

    def _routes_in(self, path: Path, reader: RouteReader) -> RouteList | None:
        """The routes in a file of ``routes.d``, or ``None`` after recording why it holds none."""
        start = Position(str(path), 1, 1)
        try:
            text = _text_of(path)
            self._texts[path] = hashlib.sha256(text.encode())
            return self._remembered.routes(
                path, self._texts[path].hexdigest(), lambda: _list_in(read_yaml(text, str(path)), start, reader)
            )
        except ConfigurationError as error:
            for problem in error.problems:
                self._fatal.error(start, problem.partition(": error: ")[2] or problem)
        return None

    def _authenticate_origin(self, node: Mapping) -> tuple[str, int] | None:
        written = node.get("authenticate_url")
        text = getattr(written, "value", None)
        origin = parse_origin(text) if isinstance(text, str) else None
        if written is not None and origin is None:
            self._fatal.error(
                written.position, f"`authenticate_url` is `{text}`", "expected `https://host[:port]` in lower case"
            )
        return origin

    def _listen(self, document: Document, node: Mapping) -> Address | None:
        return self._address(document.listen, position_of(node, ("listen",)))

    def _address(self, text: str, position: Position) -> Address | None:
        match = _LISTEN.match(text)
        if match is None or not 0 < int(match[2]) < 65536:
            self._fatal.error(position, f"`listen` is `{text}`", "expected an address such as `0.0.0.0:443`")
            return None
        host = "127.0.0.1" if match[1] == "localhost" else match[1].strip("[]")
        return Address(host=host, port=int(match[2]))

    def _directories(self, document: Document, node: Mapping) -> tuple[DirectorySettings, ...]:
        written = node.get("directories")
        if written is None:
            return ()
        reader = DirectoriesReader(self._folder, self._fatal, self._contained)
        return reader.read(written, document.identity_providers)

    def _scim_listen(
        self, document: Document, node: Mapping, directories: tuple[DirectorySettings, ...]
    ) -> Address | None:
        """Where to listen, when some directory pushes."""
        if not any(directory.pushes for directory in directories):
            return None
        scim = document.scim
        position = position_of(node, ("scim",))
        address = self._address(scim.listen, position_of(node, ("scim", "listen")))
        if (scim.certificate is None) != (scim.key is None):
            self._fatal.error(position, "`certificate` and `key` belong together")
        elif address is not None and scim.certificate is None and address.host not in {"127.0.0.1", "::1"}:
            self._fatal.error(
                position,
                "`scim` needs `certificate` and `key`",
                "its tokens and people must not cross a network in clear",
            )
        return address

    def _client_certificates(
        self, document: Document, node: Mapping, reading: RouteReading | None
    ) -> ClientCertificateSettings | None:
        written = document.client_certificates
        if written is not None:
            return read_client_certificates(written, self._folder, node, self._fatal, self._files)
        for item in reading.routes if reading is not None else ():
            if item.route.client_certificate is not CertificateUse.IGNORED:
                self._fatal.error(
                    item.policy.position,
                    f"`{item.route.name}` asks for a client certificate that nobody vouches for",
                    "add `client_certificates: {authorities: FILE}`",
                )
        return None

    def _scim_tls(self, document: Document) -> TlsSettings | None:
        scim = document.scim
        if scim.certificate is None or scim.key is None:
            return None
        return TlsSettings(certificate_file=self._folder / scim.certificate, key_file=self._folder / scim.key)

    def _generation(self) -> str:
        """Hash of the text and of every file that it refers to, but for secrets: not every plane has those."""
        main, *others = self._files
        digest = hashlib.sha256()
        for path in others:
            text = self._texts.get(path)
            digest.update(digest_of([path]).encode() if text is None else path.name.encode() + b"\0" + text.digest())
        return hashlib.sha256(f"{self._texts[main].hexdigest()}{digest.hexdigest()}".encode()).hexdigest()[:32]


def _list_in(tree: Node | None, start: Position, reader: RouteReader) -> RouteList:
    entries = tree.get("routes") if isinstance(tree, Mapping) and len(tree.entries) == 1 else tree
    if isinstance(entries, Sequence):
        return reader.read(entries)
    position = tree.position if tree is not None else start
    found = Problems()
    found.error(position, "expected a list of routes, or `routes:` with one and nothing else")
    return RouteList(fatal=found.all)


def _plane_addresses(document: PlanesDocument, node: Mapping, problems: Problems) -> PlaneAddresses:
    found: dict[str, tuple[Address, ...]] = {}
    for service, texts in document:
        addresses = []
        for index, text in enumerate(texts):
            address = parse_address(text)
            if address is None:
                position = position_of(node, ("planes", service, index))
                problems.error(position, f"`{text}` is no address", "expected `host:port`")
                continue
            addresses.append(address)
        if len(addresses) > 1 and not service.startswith("authorize") and not all(a.is_numeric for a in addresses):
            problems.error(
                position_of(node, ("planes", service)),
                f"`{service}` lists several names",
                "list numeric addresses, or one name that resolves to all of them",
            )
        if len(set(addresses)) != len(addresses):
            problems.error(position_of(node, ("planes", service)), f"`{service}` lists an address twice")
        found[service] = tuple(addresses)
    return PlaneAddresses(**found)
