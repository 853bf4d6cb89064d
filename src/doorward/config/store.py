"""Where the records are stored, as the configuration says it."""

import re
from pathlib import Path

from doorward.config.document import DatabrokerDocument
from doorward.config.references import SecretReader
from doorward.config.settings import RedisSettings
from doorward.config.validation import position_of
from doorward.source import Mapping, Problems

_ADDRESS = re.compile(r"(?:unix:///[!-~]+|rediss?(?:\+sentinel|\+cluster)?://[^\s@]+)\Z", re.ASCII)


def read_redis(
    written: DatabrokerDocument,
    folder: Path,
    node: Mapping,
    secrets: SecretReader,
    fatal: Problems,
    secret_files: list[Path],
) -> RedisSettings | None:
    """The store, or ``None`` for the embedded one; what is wrong goes to ``fatal``.

    Files are looked for in ``folder``, and that of the password is added to ``secret_files``.
    """
    if written.redis == "embedded":
        return None
    position = position_of(node, ("databroker", "redis"))
    if not _ADDRESS.match(written.redis):
        fatal.error(
            position,
            "not the address of a Redis",
            "`embedded`, `redis://host:port`, `rediss://…`, `unix:///path`, `redis+sentinel://…/service` or "
            "`redis+cluster://…`; user and password go into `redis_username` and `redis_password`",
        )
    elif "+sentinel" in written.redis and "/" not in written.redis.partition("://")[2].strip("/"):
        fatal.error(position, "no service named", "behind sentinels: `redis+sentinel://host:port/service`")
    password = None
    if written.redis_password is not None:
        place = position_of(node, ("databroker", "redis_password"))
        password = secrets(folder, written.redis_password, place, fatal, secret_files)
    if written.redis_username is not None and written.redis_password is None:
        place = position_of(node, ("databroker", "redis_username"))
        fatal.error(place, "a user without a password", "add `redis_password`")

    def file(name: str | None) -> Path | None:
        return None if name is None else folder / name

    return RedisSettings(
        url=written.redis,
        username=written.redis_username,
        password=password,
        ca_file=file(written.redis_ca),
        certificate_file=file(written.redis_certificate),
        key_file=file(written.redis_key),
        replicas=written.redis_replicas,
    )
