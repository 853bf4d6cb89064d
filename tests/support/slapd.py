"""Debian's slapd on loopback, with TLS, `memberOf` and paging, on files of its own."""

import datetime as dt
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ldap3
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.support.deployment import free_port, short_folder, wait_for
from tests.support.rest_directory import Population

SUFFIX = "dc=example,dc=com"
ADMIN = f"cn=admin,{SUFFIX}"
PASSWORD = "ldap-secret"
_CONF = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {folder}/slapd.pid
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
sizelimit size.soft=100 size.hard=100 size.pr=none size.prtotal=unlimited
database mdb
maxsize 104857600
suffix "{suffix}"
rootdn "cn=root,{suffix}"
rootpw {password}
directory {folder}/db
overlay memberof
memberof-group-oc groupOfNames
limits dn.exact="{admin}" size.soft=100 size.hard=100 size.pr=50 size.prtotal=unlimited
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{admin}" read by * none
"""


def program() -> str:
    """Path of slapd; a missing one fails, it is never skipped."""
    found = shutil.which("slapd") or ("/usr/sbin/slapd" if Path("/usr/sbin/slapd").exists() else None)
    assert found is not None, "the tests need Debian's slapd; `make test` installs it"
    return found


@dataclass
class Slapd:
    """A running server."""

    folder: Path
    port: int
    tls_port: int

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"ldaps://localhost:{self.tls_port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    @contextmanager
    def connect(self) -> Iterator[ldap3.Connection]:
        server = ldap3.Server(self.url, get_info=ldap3.NONE)
        connection = ldap3.Connection(
            server, f"cn=root,{SUFFIX}", PASSWORD, auto_bind=True, raise_exceptions=True, check_names=False
        )
        try:
            yield connection
        finally:
            connection.unbind()


@contextmanager
def slapd() -> Iterator[Slapd]:
    """A server with the suffix, two branches and a reader; everything else is the test's."""
    with short_folder() as folder:
        server = Slapd(folder, free_port(), free_port())
        (folder / "db").mkdir()
        _write_certificates(folder)
        conf = folder / "slapd.conf"
        conf.write_text(_CONF.format(folder=folder, suffix=SUFFIX, password=PASSWORD, admin=ADMIN))
        command = [program(), "-d", "0", "-f", str(conf), "-h", f"{server.url} ldaps://127.0.0.1:{server.tls_port}"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(lambda: _answers(server), 15, what="slapd")
            with server.connect() as ldap:
                ldap.add(SUFFIX, ["dcObject", "organization"], {"o": "Example", "dc": "example"})
                for unit in ("people", "groups"):
                    ldap.add(f"ou={unit},{SUFFIX}", "organizationalUnit")
                ldap.add(ADMIN, ["organizationalRole", "simpleSecurityObject"], {"userPassword": PASSWORD})
            yield server
        finally:
            process.terminate()
            process.wait()


def _answers(server: Slapd) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


def _write_certificates(folder: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey, *, is_ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if not is_ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        return builder.sign(ca_key, SHA256())

    ca = certificate(name, ca_key.public_key(), is_ca=True)
    server = certificate(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key.public_key(), is_ca=False
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def publish(server: Slapd, known: Population) -> None:
    """Make slapd hold exactly ``known``; entries that stay keep their identity."""
    with server.connect() as ldap:
        for unit, wanted in (("groups", known.groups), ("people", known.people)):
            base = f"ou={unit},{SUFFIX}"
            for entry in list(
                ldap.extend.standard.paged_search(base, "(cn=*)", attributes=["cn", "uid"], paged_size=50)
            ):
                if unit == "groups" or entry["attributes"]["uid"][0] not in wanted:
                    ldap.delete(entry["dn"])
        for person, active in known.people.items():
            values = {
                "cn": person.title(), "sn": "Example", "mail": f"{person}@example.com", "uid": person,
                "employeeType": "staff" if active else "disabled",
            }  # fmt: skip
            name = f"uid={person},ou=people,{SUFFIX}"
            if _exists(ldap, name):
                ldap.modify(name, {"employeeType": [(ldap3.MODIFY_REPLACE, [values["employeeType"]])]})
            else:
                ldap.add(name, "inetOrgPerson", values)
        for group, name in known.groups.items():
            members = [f"UID={person}, ou=People,{SUFFIX}" for person in known.members.get(group, [])]
            members += [f"cn={known.groups[child]},ou=groups,{SUFFIX}" for child in known.nested.get(group, [])]
            ldap.add(f"cn={name},ou=groups,{SUFFIX}", "groupOfNames", {"member": members or [ADMIN]})


def _exists(ldap: ldap3.Connection, name: str) -> bool:
    try:
        return bool(ldap.search(name, "(objectClass=*)", ldap3.BASE))
    except ldap3.core.exceptions.LDAPNoSuchObjectResult:
        return False
