"""`clacks cert` and `clacks user certify`: what they write, what they refuse."""

from __future__ import annotations

import json
import os
import ssl
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from clacks.agent.users import read_users
from clacks.cli.main import clacks


def typed(*arguments: str, standard_input: str = "") -> Result:
    return CliRunner().invoke(clacks, arguments, input=standard_input)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_ca_a_server_and_a_client(folder: Path) -> None:
    authority = folder / "data/clacks"
    assert typed("cert", "ca").output.startswith(f"made: {authority}/ca.pem and its key {authority}/ca.key\n")
    result = typed("cert", "server", "bus.example.net", "192.0.2.7", "*.example.net", "--out", "etc")
    assert f'certificate = "{folder}/etc/bus.example.net.pem"\n    key = "{folder}/etc/bus.example.net.key"\n' in result.output
    result = typed("cert", "client", "anna", "--days", "7")
    assert "clacks user certify anna CN=anna\n" in result.output
    assert f"export CLACKS_CERT_FILE={folder}/anna.pem CLACKS_KEY_FILE={folder}/anna.key\n" in result.output
    files = [path for path in folder.rglob("*") if path.suffix in (".pem", ".key")]
    assert len(files) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    server = x509.load_pem_x509_certificate((folder / "etc/bus.example.net.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["bus.example.net", "*.example.net"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    client = x509.load_pem_x509_certificate((folder / "anna.pem").read_bytes())
    assert client.subject.rfc4514_string() == "CN=anna"
    assert (client.not_valid_after_utc - client.not_valid_before_utc).days == 7
    for certificate in ("etc/bus.example.net", "anna"):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"{certificate}.pem", f"{certificate}.key")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["client", "anna"], "there is no CA with its key here. `clacks cert ca` makes one"),
        (["ca", "--ca", "here"], "here/ca.pem: it exists"),
        (["server", "bus", "--ca", "here"], "bus.key: it exists"),
        (["client", "a/b", "--ca", "here"], "a/b: a user's name has"),
        (["client", "anonymous", "--ca", "here"], "the name of whoever has none"),
        (["server", "bücher.example", "--ca", "here"], "Check the names"),
        (["ca", "--ca", "file/x"], "Check the folder"),
    ],
)
def test_refused(folder: Path, arguments: list[str], said: str) -> None:
    assert typed("cert", "ca", "--ca", "here").exit_code == 0
    (folder / "bus.key").write_text("precious")
    (folder / "file").write_text("")
    result = typed("cert", *arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert (folder / "bus.key").read_text() == "precious"
    assert {path.name for path in folder.rglob("*.pem")} == {"ca.pem"}


def test_a_name_in_a_certificate_stands_for_one_user(folder: Path) -> None:
    place = ("--users-file", str(folder / "users.toml"))
    users = folder / "users.toml"
    assert typed("user", "certify", "robot", "CN=robot", "DNS:r.example.net", *place).exit_code == 0
    assert read_users(users)["robot"].certificates == {"CN=robot", "DNS:r.example.net"}
    assert read_users(users)["robot"].verifier is None
    assert typed("user", "list", *place).output.split("\n")[1] == "robot          CN=robot, DNS:r.example.net"
    [listed] = json.loads(typed("user", "list", "--json", *place).output)
    assert listed == {"name": "robot", "groups": [], "certificates": ["CN=robot", "DNS:r.example.net"]}
    assert typed("user", "add", "anna", "--password-stdin", *place, standard_input="x\n").exit_code == 0
    result = typed("user", "certify", "anna", "CN=robot", *place)
    assert (result.exit_code, "CN=robot stands for robot" in result.output) == (2, True)
    assert typed("user", "certify", "anna", "anna", *place).exit_code == 2
    assert typed("user", "certify", "nobody", *place).exit_code == 2
    assert typed("user", "certify", "robot", *place).exit_code == 2, "it has no password"
    assert typed("user", "certify", "anna", "email:anna@example.net", *place).exit_code == 0
    before = read_users(users)["anna"]
    assert typed("user", "passwd", "anna", "--password-stdin", *place, standard_input="y\n").exit_code == 0
    after = read_users(users)["anna"]
    assert after.certificates == before.certificates == {"email:anna@example.net"}
    assert after.verifier != before.verifier
    assert typed("user", "certify", "anna", *place).exit_code == 0
    assert not read_users(users)["anna"].certificates


def test_a_key_goes_nowhere_but_into_its_file(folder: Path) -> None:
    """Somebody else may write to the folder, and guess what a file is called before it has its name."""
    typed("cert", "ca")
    (folder / f".robot.key.{os.getpid()}").symlink_to(folder / "elsewhere")
    assert typed("cert", "client", "robot").exit_code == 0
    assert not (folder / "elsewhere").exists()
    key = (folder / "robot.key").lstat()
    assert stat.S_ISREG(key.st_mode)
    assert stat.S_IMODE(key.st_mode) == 0o600
    assert {path.name for path in folder.iterdir()} >= {"robot.pem", "robot.key"}
