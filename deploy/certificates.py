"""Keys of a federation: a CA, the server's certificate, the nodes' keys, and the list of nodes that are let in.

``python -m deploy.certificates --host fl.example.org --host 192.0.2.7 --nodes 4`` writes into ``deploy/keys``:

* ``ca.crt``, ``ca.key``: who signs; the key stays with whoever runs the federation;
* ``server.pem``, ``server.key``: the SuperLink's;
* ``nodes/NAME`` and ``nodes/NAME.pub``: one pair a SuperNode, ECDSA on P-384, for ``--auth-supernode-private-key``;
* ``allowed-nodes``: the public keys that ``python -m deploy.register`` makes known to the SuperLink;
* ``superexec.secret``: shared by the SuperLink and the SuperExec of its ServerApps, where they are two containers.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEYS = Path("deploy/keys")
HOSTS = ("localhost", "127.0.0.1", "::1", "superlink")
"""Names and addresses that every server certificate is good for; ``superlink`` is the service in docker-compose.yml."""

DAYS = 365
AUTHORITY_DAYS = 3650
"""The CA's certificate is on every node: it lasts longer than the server's, which ``make certificates`` renews."""

CLOCKS_DIFFER = datetime.timedelta(hours=1)


def make_certificates(directory: Path, hosts: Iterable[str] = (), nodes: Iterable[str] = (), days: int = DAYS) -> None:
    """Write what is missing into ``directory``; what is there stays, so that a node can be added later.

    ``hosts``: DNS names and IP addresses of the server beside ``HOSTS``; ``nodes``: names of the nodes' keys.
    A server certificate that lacks one of the hosts is made anew, for its own names and these. Raises
    ``ValueError`` for a node whose name is not a file name, and where a certificate is due that the CA cannot sign.
    """
    (directory / "nodes").mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    if not (directory / "ca.crt").exists():
        _make_authority(directory, max(days, AUTHORITY_DAYS))
    ca, path = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes()), directory / "server.pem"
    if ca.not_valid_after_utc < _tomorrow():
        raise ValueError(f"The CA in {directory} has expired: remove ca.crt, and give every node the new one.")
    wanted = list(dict.fromkeys(str(_general_name(host).value) for host in (*HOSTS, *_names(path), *hosts)))
    if not _covers(path, wanted, ca):
        _issue_server(directory, wanted, (_authority_key(directory), ca), days)
    for node in nodes:
        make_node_key(directory / "nodes", node)
    allowed = [path.read_text().strip() for path in sorted((directory / "nodes").glob("*.pub"))]
    _write(directory / "allowed-nodes", "".join(f"{line}\n" for line in allowed).encode(), 0o644)
    secret = directory / "superexec.secret"
    if not secret.exists():
        _write_private(secret, secrets.token_hex(32).encode())


def make_node_key(directory: Path, name: str) -> Path:
    """A node's key pair, if it has none yet; the private key's path."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError(f"{name!r} cannot name a node's key: expected a file name.")
    path, public = directory / name, directory / f"{name}.pub"
    if not path.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        _write_private(path, _private_pem(key, serialization.PrivateFormat.OpenSSH))
        public.unlink(missing_ok=True)
    if not public.exists():
        own = serialization.load_ssh_private_key(path.read_bytes(), None).public_key()
        text = own.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        _write(public, text + f" {name}\n".encode(), 0o644)
    return path


def _authority_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    path = directory / "ca.key"
    if not path.exists():
        raise ValueError(
            f"The server's certificate must be made anew, and {path} is not here to sign it: bring it back, or remove "
            "ca.crt to begin with a new CA, whose ca.crt every node then needs."
        )
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _make_authority(directory: Path, days: int) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("robust-fedrec CA")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
    )
    _write_private(directory / "ca.key", _private_pem(key, serialization.PrivateFormat.PKCS8))
    _write(directory / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _issue_server(
    directory: Path, hosts: list[str], authority: tuple[ec.EllipticCurvePrivateKey, x509.Certificate], days: int
) -> None:
    ca_key, ca = authority
    key = ec.generate_private_key(ec.SECP384R1())
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    certificate = (
        _builder(_name("robust-fedrec SuperLink"), ca.subject, key, days)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    _write_private(directory / "server.key", _private_pem(key, serialization.PrivateFormat.PKCS8))
    _write(directory / "server.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _names(path: Path) -> list[str]:
    """The names and addresses that a server's certificate is good for, if there is one."""
    if not path.exists():
        return []
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def _covers(path: Path, hosts: list[str], ca: x509.Certificate) -> bool:
    """Whether the certificate is the CA's and its key's, has a day left, and is good for all hosts."""
    if not path.exists():
        return False
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(ca)
        key_path = path.with_name("server.key")
        # It may have been moved to the server.
        if key_path.exists():
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            if key.public_key() != certificate.public_key():
                return False
    except Exception:
        return False
    return certificate.not_valid_after_utc > _tomorrow() and set(hosts) <= set(_names(path))


def _tomorrow() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _private_pem(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    """Never readable by others, not even for a moment."""
    _write(path, content, 0o600)


def _write(path: Path, content: bytes, mode: int) -> None:
    """There as a whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    partial.replace(path)


def main(arguments: list[str] | None = None) -> None:
    """``python -m deploy.certificates``."""
    parser = argparse.ArgumentParser(prog="robust-fedrec deploy certificates", description="Make a federation's keys.")
    parser.add_argument("--directory", type=Path, default=KEYS, help=f"where they go (default: {KEYS})")
    parser.add_argument("--host", action="append", default=[], help="a name or address of the server; may be repeated")
    parser.add_argument("--nodes", type=int, default=3, help="how many benign nodes: benign-0, benign-1, …")
    parser.add_argument("--attackers", type=int, default=1, help="how many attacker's nodes: attacker-0, …")
    parser.add_argument("--days", type=int, default=DAYS, help="how long certificates are good for")
    chosen = parser.parse_args(arguments)
    names = [f"benign-{index}" for index in range(chosen.nodes)]
    names += [f"attacker-{index}" for index in range(chosen.attackers)]
    try:
        make_certificates(chosen.directory, chosen.host, names, chosen.days)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    print(f"Keys of {len(names)} nodes and the server are in {chosen.directory}.")


if __name__ == "__main__":
    main()
