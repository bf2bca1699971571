"""How the bus gets to a real Redis: TLS, users, databases, permissions; and what it says when it does not."""

import datetime
from pathlib import Path

import pytest
import structlog
import trio
from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from structlog.testing import capture_logs

from tests.server.redis_server import redis_server
from trio_stt.sessions.bus import Call, Outcome
from trio_stt.sessions.redis_bus import RedisBus

CALL = Call("acme", "call")


@pytest.fixture(autouse=True)
def written_logs(quiet_logs):
    """These tests read what is logged."""
    structlog.reset_defaults()


@frozen
class Certificates:
    """Files: an authority, and what it has certified for the name localhost."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def redis_arguments(self) -> tuple[str, ...]:
        files = ("--tls-cert-file", self.certificate, "--tls-key-file", self.key, "--tls-ca-cert-file", self.authority)
        return tuple(map(str, files))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    authority_key, key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    authority = certificate_of("an authority", authority_key, "an authority", authority_key)
    certificate = certificate_of("localhost", key, "an authority", authority_key)
    made = Certificates(folder / "authority.pem", folder / "localhost.pem", folder / "localhost.key")
    made.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def certificate_of(
    name: str, key: EllipticCurvePrivateKey, issuer: str, issuer_key: EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    is_authority = name == issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(issuer_key, SHA256())


async def works(url: str) -> bool:
    """Whether a bus at that URL comes up and answers."""
    async with trio.open_nursery() as nursery:
        bus = RedisBus(url, ttl_s=60)
        await nursery.start(bus.run)
        with trio.fail_after(10):
            await bus.wait_up(0)
        taken = await bus.take_epoch(CALL, "s", 1)
        nursery.cancel_scope.cancel()
    return taken == 2


async def reason_for_being_down(url: str) -> str:
    """What a bus says that does not come up. Its password is always `secret`, which it must not say."""
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            bus = RedisBus(url, ttl_s=60)
            await nursery.start(bus.run)
            with trio.fail_after(10):
                while not (reasons := [line["reason"] for line in lines if line["event"] == "bus_down"]):
                    await trio.sleep(0.01)
            assert await bus.take_epoch(CALL, "s", 1) is Outcome.DOWN
            nursery.cancel_scope.cancel()
    assert not any(line["event"] == "bus_up" for line in lines)
    assert "secret" not in str(lines)
    return str(reasons[0])


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tls_redis(certificates):
    with redis_server(*certificates.redis_arguments, "--tls-auth-clients", "no", tls=True) as server:
        yield server


async def test_a_certificate_of_ones_own_authority_for_the_right_name_is_trusted(tls_redis, certificates):
    assert await works(f"rediss://localhost:{tls_redis.port}/0?ssl_ca_certs={certificates.authority}")


async def test_a_certificate_for_another_name_is_not(tls_redis, certificates):
    url = f"rediss://u:secret@127.0.0.1:{tls_redis.port}/0?ssl_ca_certs={certificates.authority}"
    reason = await reason_for_being_down(url)
    assert "certificate verify failed: IP address mismatch" in reason
    assert await works(url.replace("u:secret@", "") + "&ssl_check_hostname=false")


async def test_a_certificate_of_an_unknown_authority_is_not(tls_redis):
    reason = await reason_for_being_down(f"rediss://u:secret@localhost:{tls_redis.port}/0")
    assert "certificate verify failed: self-signed certificate in certificate chain" in reason
    assert await works(f"rediss://localhost:{tls_redis.port}/0?ssl_cert_reqs=none")


async def test_a_redis_without_tls_is_not_spoken_to_where_tls_was_asked_for():
    with redis_server() as redis:
        assert "no answer in time" in await reason_for_being_down(f"rediss://u:secret@127.0.0.1:{redis.port}/0")


async def test_redis_may_want_a_certificate_too(certificates):
    with redis_server(*certificates.redis_arguments, tls=True) as redis:
        url = f"rediss://localhost:{redis.port}/0?ssl_ca_certs={certificates.authority}"
        await reason_for_being_down(url)
        assert await works(f"{url}&ssl_certfile={certificates.certificate}&ssl_keyfile={certificates.key}")


# ── users, databases, sockets ────────────────────────────────────────────────────────────────────────────────────


async def test_a_password_with_any_characters_is_percent_encoded():
    with redis_server("--requirepass", "p@ss/w%rd #?") as redis:
        assert await works(f"redis://:p%40ss%2Fw%25rd%20%23%3F@127.0.0.1:{redis.port}/0")
        assert "Authentication" in await reason_for_being_down(f"redis://:secret@127.0.0.1:{redis.port}/0")


async def test_a_user_with_any_characters_is_percent_encoded():
    with redis_server("--user", "ann@home", "on", ">p@ss/word", "~trio-stt:*", "&trio-stt:*", "+@all") as redis:
        assert await works(f"redis://ann%40home:p%40ss%2Fword@127.0.0.1:{redis.port}/0")


async def test_a_user_without_channels_is_told_so():
    with redis_server("--user", "app", "on", ">secret", "~*", "resetchannels", "+@all") as redis:
        reason = await reason_for_being_down(f"redis://app:secret@127.0.0.1:{redis.port}/0")
        assert "AuthorizationError" in reason
        assert "channel" in reason


async def test_a_user_who_may_not_subscribe_leaves_the_bus_down():
    with redis_server("--user", "app", "on", ">secret", "~*", "&*", "+@all", "-subscribe") as redis:
        await reason_for_being_down(f"redis://app:secret@127.0.0.1:{redis.port}/0")


async def test_the_database_is_the_one_asked_for():
    with redis_server() as redis:
        assert await works(f"redis://127.0.0.1:{redis.port}/3?client_name=captions")
        assert "db3:" in redis.command("INFO", "keyspace")
        assert "db0:" not in redis.command("INFO", "keyspace")


async def test_a_redis_at_a_unix_socket(tmp_path):
    path = tmp_path / "redis socket"
    with redis_server("--unixsocket", str(path)):
        assert await works(f"unix://{str(path).replace(' ', '%20')}?db=1")
        assert "No such file" in await reason_for_being_down(f"unix://{tmp_path}/other")
