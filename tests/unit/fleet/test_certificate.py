"""`trio-stt cert` makes a pair that a client can be told to trust, and overwrites nothing."""

import ssl
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from trio_stt.fleet.certificate import cert


def test_a_client_that_is_told_of_it_trusts_it_for_its_names(tmp_path: Path) -> None:
    result = CliRunner().invoke(cert, ["--folder", str(tmp_path), "--host", "captions.test"])
    assert result.exit_code == 0, result.output
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    assert result.output == f"TLS_CERT={certificate}\nTLS_KEY={key}\n"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600

    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=certificate)
    for name in ("localhost", "127.0.0.1", "captions.test"):
        assert _shake_hands(server, client, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(server, client, "example.test")


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bool:
    """In memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return ends[1].getpeercert() is not None


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    assert CliRunner().invoke(cert, ["--folder", str(tmp_path)]).exit_code == 0
    before = (tmp_path / "key.pem").read_bytes()
    result = CliRunner().invoke(cert, ["--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert "key.pem: File exists" in result.output
    assert (tmp_path / "key.pem").read_bytes() == before


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(cert, ["--folder", str(tmp_path), "--host", "ümlaut.test"])
    assert result.exit_code == 2
    assert "--host" in result.output
    assert not list(tmp_path.iterdir())
