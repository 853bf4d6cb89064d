"""Whose certificates count for clients: the authorities, and what they have taken back.

Envoy checks a certificate once, when a connection begins; what is here lets authorize check its dates and the lists again at every
decision, for connections live long.
"""

import re
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from doorward.config.document import ClientCertificatesDocument
from doorward.config.references import read_text
from doorward.config.settings import ClientCertificateSettings
from doorward.config.validation import position_of
from doorward.source import Mapping, Position, Problems

_LIST = re.compile(r"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\s*", re.DOTALL)


def read_client_certificates(
    document: ClientCertificatesDocument, folder: Path, node: Mapping, problems: Problems, used_files: list[Path]
) -> ClientCertificateSettings | None:
    """The settings, or ``None`` after recording what is wrong."""
    place = position_of(node, ("client_certificates", "authorities"))
    text = read_text(folder, document.authorities, place, problems, used_files)
    authorities = _authorities(text, place, problems) if text is not None else None
    if text is None or authorities is None:
        return None
    if document.revocation_lists is None:
        return ClientCertificateSettings(authorities_pem=text, intermediates=document.intermediates)
    place = position_of(node, ("client_certificates", "revocation_lists"))
    pem = read_text(folder, document.revocation_lists, place, problems, used_files)
    lists = _lists(pem, authorities, place, problems) if pem is not None else None
    if pem is None or lists is None:
        return None
    return ClientCertificateSettings(
        authorities_pem=text,
        revocation_pem=pem,
        intermediates=document.intermediates,
        revoked=frozenset((found.issuer.public_bytes(), entry.serial_number) for found in lists for entry in found),
        lists_end_at=min(found.next_update_utc.timestamp() for found in lists if found.next_update_utc is not None),
    )


def _authorities(text: str, place: Position, problems: Problems) -> list[x509.Certificate] | None:
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        problems.error(place, "not a PEM file of certificates", "the authorities that vouch for clients")
        return None
    for certificate in found:
        if not _is_authority(certificate):
            problems.error(
                place,
                f"`{certificate.subject.rfc4514_string()}` is no authority",
                "expected certificates that may sign others (`CA:TRUE`)",
            )
            return None
    return found


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _lists(
    text: str, authorities: list[x509.Certificate], place: Position, problems: Problems
) -> list[x509.CertificateRevocationList] | None:
    """The lists in ``text``: each signed by one of ``authorities``, one for each of them, all with an end."""
    try:
        found = [x509.load_pem_x509_crl(part.encode()) for part in _LIST.findall(text)]
    except (ValueError, UnsupportedAlgorithm):
        found = []
    if not found:
        problems.error(place, "not a PEM file of certificate revocation lists")
        return None
    without = {id(authority): authority for authority in authorities}
    for item in found:
        signers = [authority for authority in authorities if _signed(item, authority)]
        if not signers:
            problems.error(
                place, f"the list of `{item.issuer.rfc4514_string()}` is not signed by any of the authorities"
            )
            return None
        if item.next_update_utc is None:
            problems.error(place, f"the list of `{item.issuer.rfc4514_string()}` does not say when it runs out")
            return None
        for signer in signers:
            without.pop(id(signer), None)
    for authority in without.values():
        problems.error(
            place,
            f"there is no list of `{authority.subject.rfc4514_string()}`",
            "none of its certificates could be checked; add its list, or leave `revocation_lists` out",
        )
    return None if without else found


def _signed(item: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    if item.issuer != authority.subject or not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        return False
    try:
        return item.is_signature_valid(key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
