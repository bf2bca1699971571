"""The keys that access tokens are verified by. Each is bound to one algorithm, whatever a token says of itself."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from trio_stt.settings import KeyFile, Settings

LEAST_RSA_BITS = 2048
"""Shorter RSA keys are not taken (RFC 7518, section 3.3)."""


class AccessError(Exception):
    """The server would be open to everybody, or to nobody. The message says what to set."""


@frozen
class VerificationKey:
    """What a signature is checked by, and the one algorithm it is for (RFC 7518, RFC 8037)."""

    algorithm: str
    key: bytes | RSAPublicKey | Ed25519PublicKey = field(repr=False)


def keys_of(settings: Settings) -> Mapping[str, VerificationKey]:
    """All keys, by `kid`. Blocks: it reads files. Raises `AccessError` for a file that holds no public key."""
    found = {one.kid: VerificationKey("HS256", one.secret.text.encode()) for one in settings.auth_keys}
    for file in settings.auth_key_files:
        if file.kid in found:
            raise AccessError(
                f"The kid {file.kid!r} stands in AUTH_KEYS and in AUTH_KEY_FILES; each key needs its own."
            )
        found[file.kid] = _public_key(file)
    return found


def check_access(settings: Settings, keys: Mapping[str, VerificationKey]) -> None:
    """Raises `AccessError` where nobody could come in, or everybody could who is not meant to."""
    if settings.auth_mode == "required":
        if not keys:
            raise AccessError(
                "No keys for access tokens: set AUTH_KEYS (a new key: 'trio-stt token --new-key') or AUTH_KEY_FILES. "
                "For trying things out on this machine alone: AUTH_MODE=off."
            )
    elif settings.trusted_proxies:
        raise AccessError(
            "AUTH_MODE=off is for this machine alone, but TRUSTED_PROXIES is set: others may come through them. "
            "Set AUTH_MODE=required and AUTH_KEYS."
        )
    elif not _is_loopback(settings.server_host):
        raise AccessError(
            f"AUTH_MODE=off is for this machine alone, but others can reach SERVER_HOST={settings.server_host}. "
            "Set AUTH_MODE=required and AUTH_KEYS, or SERVER_HOST=127.0.0.1."
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _public_key(file: KeyFile) -> VerificationKey:
    expected = f"AUTH_KEY_FILES names {file.path} for {file.kid!r}: expected a public key, Ed25519 or RSA, in PEM"
    try:
        text = file.path.read_bytes()
    except OSError as error:
        raise AccessError(f"{expected}, but it cannot be read: {error.strerror or error}.") from error
    if b"PRIVATE KEY" in text:
        raise AccessError(f"{expected}, but it holds a private one, which belongs to whoever makes tokens.")
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise AccessError(f"{expected}, but it holds none.") from None
    if isinstance(key, Ed25519PublicKey):
        return VerificationKey("EdDSA", key)
    if isinstance(key, RSAPublicKey) and key.key_size >= LEAST_RSA_BITS:
        return VerificationKey("RS256", key)
    raise AccessError(f"{expected} (RSA of at least {LEAST_RSA_BITS} bits), but it holds another kind of key.")
