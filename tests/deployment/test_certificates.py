"""Keys that other tools accept, that cover what they should, and that nobody else can read."""

from __future__ import annotations

import datetime
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509

from deploy.certificates import main, make_certificates


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    make_certificates(directory, ["fl.example.org", "192.0.2.7", "2001:db8::7"], ["benign-0", "attacker-0"])
    return directory


def shake_hands(keys: Path, trusted: Path, name: str) -> None:
    """One TLS connection; raises where the client does not trust the server under this name."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(keys / "server.pem", keys / "server.key")
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server_context.wrap_socket(theirs, server_side=True) as channel:
                channel.recv(1)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client_context = ssl.create_default_context(cafile=str(trusted))
        with client_context.wrap_socket(ours, server_hostname=name) as channel:
            channel.sendall(b".")
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "::1", "superlink", "fl.example.org", "192.0.2.7", "2001:db8::7"]
)
def test_clients_trust_the_server_under_its_names_and_addresses(keys: Path, name: str) -> None:
    shake_hands(keys, keys / "ca.crt", name)


def test_clients_do_not_trust_another_name_or_another_ca(keys: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(keys, keys / "ca.crt", "elsewhere.example.org")
    make_certificates(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(keys, tmp_path / "ca.crt", "localhost")


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here")
def test_openssl_verifies_the_chain(keys: Path) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.crt", "server.pem"]
    done = subprocess.run(command, cwd=keys, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "server.pem: OK", done.stderr


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="there is no ssh-keygen here")
def test_ssh_keygen_derives_the_same_public_key(keys: Path) -> None:
    done = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(keys / "nodes" / "benign-0")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[:2] == (keys / "nodes" / "benign-0.pub").read_text().split()[:2]


def test_private_files_are_private(keys: Path) -> None:
    for path in [keys / "ca.key", keys / "server.key", keys / "superexec.secret", keys / "nodes" / "benign-0"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700


def test_the_allow_list_holds_every_nodes_public_key(keys: Path) -> None:
    lines = (keys / "allowed-nodes").read_text().splitlines()
    assert lines == [(keys / "nodes" / f"{name}.pub").read_text().strip() for name in ("attacker-0", "benign-0")]
    assert all(line.startswith("ecdsa-sha2-nistp384 ") for line in lines)


def test_adding_a_node_or_an_address_keeps_what_is_there(tmp_path: Path) -> None:
    make_certificates(tmp_path, nodes=["benign-0"])
    before = {path.name: path.read_bytes() for path in [tmp_path / "ca.crt", tmp_path / "server.pem"]}
    key = (tmp_path / "nodes" / "benign-0").read_bytes()
    main(["--directory", str(tmp_path), "--nodes", "2", "--attackers", "0"])
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert (tmp_path / "nodes" / "benign-0").read_bytes() == key
    assert len((tmp_path / "allowed-nodes").read_text().splitlines()) == 2
    main(["--directory", str(tmp_path), "--host", "192.0.2.9", "--nodes", "2", "--attackers", "0"])
    assert (tmp_path / "ca.crt").read_bytes() == before["ca.crt"]
    assert "192.0.2.9" in server_names(tmp_path)
    main(["--directory", str(tmp_path), "--host", "fl.example.org", "--nodes", "2", "--attackers", "0"])
    assert {"192.0.2.9", "fl.example.org", "localhost"} <= server_names(tmp_path)
    # However an address is written it is the same one.
    main(["--directory", str(tmp_path), "--host", "2001:DB8:0::7"])
    before = (tmp_path / "server.pem").read_bytes()
    main(["--directory", str(tmp_path), "--host", "2001:DB8:0::7"])
    assert (tmp_path / "server.pem").read_bytes() == before


def server_names(directory: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate((directory / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def test_without_the_cas_key_nodes_can_be_added_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_certificates(tmp_path, nodes=["benign-0"])
    (tmp_path / "ca.key").unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    main(["--directory", str(tmp_path), "--nodes", "2", "--attackers", "0"])
    assert (tmp_path / "nodes" / "benign-1").exists()
    with pytest.raises(SystemExit) as ended:
        main(["--directory", str(tmp_path), "--host", "fl.example.org"])
    assert ended.value.code == 1
    assert "ca.key is not here to sign it" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_a_cas_certificate_outlives_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certificates(tmp_path, days=30)
    ends = [
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes()).not_valid_after_utc
        for name in ("ca.crt", "server.pem")
    ]
    assert ends[0] > ends[1]
    monkeypatch.setattr("deploy.certificates._tomorrow", lambda: ends[0] + datetime.timedelta(days=1))
    with pytest.raises(ValueError, match=r"The CA in .* has expired"):
        make_certificates(tmp_path)


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="file name"):
        make_certificates(tmp_path, nodes=["../benign"])


def test_what_was_interrupted_is_mended_when_it_is_run_again(tmp_path: Path) -> None:
    make_certificates(tmp_path, nodes=["benign-0"])
    public = tmp_path / "nodes" / "benign-0.pub"
    before = public.read_text()
    # The private key was written and its public one was not; the server's new key, and not its certificate.
    public.unlink()
    make_certificates(tmp_path / "another")
    shutil.copy(tmp_path / "another" / "server.key", tmp_path / "server.key")
    make_certificates(tmp_path, nodes=["benign-0"])
    assert public.read_text() == before
    assert (tmp_path / "allowed-nodes").read_text() == before
    shake_hands(tmp_path, tmp_path / "ca.crt", "localhost")
