"""Which module reads which kind of directory."""

import httpx

from doorward.clock import Clock
from doorward.config.directory_settings import (
    DirectorySettings,
    EntraConnection,
    GithubConnection,
    GoogleConnection,
    KeycloakConnection,
    LdapConnection,
    OktaConnection,
    ScimConnection,
)
from doorward_databroker.directory.port import Source
from doorward_databroker.directory.sources.entra import EntraSource
from doorward_databroker.directory.sources.github import GithubSource
from doorward_databroker.directory.sources.google import GoogleSource
from doorward_databroker.directory.sources.keycloak import KeycloakSource
from doorward_databroker.directory.sources.ldap import LdapSource
from doorward_databroker.directory.sources.okta import OktaSource


def make_source(settings: DirectorySettings, client: httpx.AsyncClient, clock: Clock) -> Source:
    """The source that reads ``settings``.

    Raises:
        ValueError: it is one that pushes.
    """
    match settings.connection:
        case LdapConnection() as connection:
            return LdapSource(settings, connection)
        case KeycloakConnection() as connection:
            return KeycloakSource(settings, connection, client, clock)
        case GithubConnection() as connection:
            return GithubSource(settings, connection, client, clock)
        case OktaConnection() as connection:
            return OktaSource(settings, connection, client, clock)
        case EntraConnection() as connection:
            return EntraSource(settings, connection, client, clock)
        case GoogleConnection() as connection:
            return GoogleSource(settings, connection, client, clock)
        case ScimConnection():
            raise ValueError("a directory that pushes is not read")
