"""Keys from settings and files, and settings that would let everybody in, or nobody."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.tokens import KEYS, KID
from trio_stt.gateway.keys import AccessError, check_access, keys_of
from trio_stt.settings import Settings


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def settings(tmp_path, pem: bytes, **changes) -> Settings:
    (tmp_path / "key.pem").write_bytes(pem)
    return Settings(auth_key_files=f"new:{tmp_path / 'key.pem'}", **changes)


def test_the_kind_of_a_key_decides_its_algorithm(tmp_path):
    assert keys_of(Settings(auth_keys=KEYS))[KID].algorithm == "HS256"
    assert keys_of(settings(tmp_path, public_pem(Ed25519PrivateKey.generate())))["new"].algorithm == "EdDSA"
    assert keys_of(settings(tmp_path, public_pem(generate_rsa(65537, 2048))))["new"].algorithm == "RS256"


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (public_pem(generate_rsa(65537, 1024)), "at least 2048 bits"),
        (public_pem(generate_ec(SECP256R1())), "another kind of key"),
        (
            Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "a private one",
        ),
        (b"no key", "holds none"),
    ],
)
def test_other_keys_are_refused_with_the_file_named(tmp_path, pem, said):
    with pytest.raises(AccessError, match=said) as refused:
        keys_of(settings(tmp_path, pem))
    assert "key.pem" in str(refused.value)


def test_a_file_that_is_not_there_and_a_kid_that_is_there_twice_are_named(tmp_path):
    with pytest.raises(AccessError, match=r"none\.pem.* cannot be read"):
        keys_of(Settings(auth_key_files="new:none.pem"))
    with pytest.raises(AccessError, match="'k1' stands in AUTH_KEYS and in AUTH_KEY_FILES"):
        keys_of(Settings(auth_keys=KEYS, auth_key_files=f"{KID}:none.pem"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "token --new-key"),
        ({"auth_mode": "off", "server_host": "0.0.0.0"}, "SERVER_HOST=0.0.0.0"),
        ({"auth_mode": "off", "server_host": "::"}, "SERVER_HOST"),
        ({"auth_mode": "off", "server_host": "example.org"}, "SERVER_HOST"),
        ({"auth_mode": "off", "trusted_proxies": "127.0.0.1"}, "TRUSTED_PROXIES"),
    ],
)
def test_nobody_starts_a_server_that_is_open_to_all_or_to_none(changes, said):
    settings = Settings(**changes)
    with pytest.raises(AccessError, match=said):
        check_access(settings, keys_of(settings))


@pytest.mark.parametrize(
    "changes",
    [
        {"auth_keys": KEYS, "server_host": "0.0.0.0", "trusted_proxies": "10.0.0.0/8"},
        *({"auth_mode": "off", "server_host": host} for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")),
    ],
)
def test_tokens_open_to_the_world_and_loopback_needs_none(changes):
    settings = Settings(**changes)
    check_access(settings, keys_of(settings))


def test_no_secret_is_in_what_is_printed_of_a_key():
    settings = Settings(auth_keys=KEYS, access_token="token-of-mine")
    shown = repr(settings) + repr(keys_of(settings))
    assert "a secret of the tests" not in shown
    assert "token-of-mine" not in shown
