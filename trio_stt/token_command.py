"""`trio-stt token`: makes access tokens for tests and operators, and keys."""

from __future__ import annotations

import re
import secrets
import time
from pathlib import Path

import click
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from trio_stt.dialects.request import NAME
from trio_stt.gateway.auth import ANYONE
from trio_stt.settings import KID, LEAST_SECRET_BYTES, Settings, SettingsError, load

ADMINS_TENANT = "operators"
"""The tenant in an administrator's token where none is given."""

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)")


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> int:
    given = _DURATION.fullmatch(value)
    if given is None or not int(given[1]):
        raise click.BadParameter(f"{value!r} is not a duration such as 90s, 15m, 1h or 30d")
    return int(given[1]) * _UNITS_S[given[2]]


def _check_names(*names: str) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise click.UsageError(f"{name!r} is not a name: 1 to 128 characters of A-Z a-z 0-9 . _ : @ -")


@click.command("token")
@click.option("--tenant", help="Whose calls.  [required, unless --admin]")
@click.option(
    "--session",
    "sessions",
    multiple=True,
    metavar="ID",
    help="Which call; may be given several times.  [default: *, all of the tenant's]",
)
@click.option("--client", default=ANYONE, metavar="ID", help="Which client.  [default: *, a service: all]")
@click.option(
    "--expires", callback=_seconds, default="1h", metavar="TIME", show_default=True, help="How long: 90s, 15m, 1h, 30d."
)
@click.option("--admin", is_flag=True, help="May also do all that trio-stt admin can, to every tenant.")
@click.option("--agent", is_flag=True, help="May send the LiveKit agent into rooms named as its --session.")
@click.option("--kid", metavar="KID", help="Which key.  [default: the first of AUTH_KEYS]")
@click.option(
    "--private-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Sign with this PEM file (Ed25519 or RSA), whose public half the server knows as --kid.",
)
@click.option("--new-key", is_flag=True, help="Make no token but a new key, called --kid, for AUTH_KEYS.")
def token_command(
    tenant: str | None,
    sessions: tuple[str, ...],
    client: str,
    expires: int,
    admin: bool,
    agent: bool,
    kid: str | None,
    private_key: Path | None,
    new_key: bool,
) -> None:
    """Print an access token, signed by a key of AUTH_KEYS (from the environment or .env) or by --private-key."""
    if kid is not None and not KID.fullmatch(kid):
        raise click.UsageError(f"--kid {kid!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ -")
    if new_key:
        click.echo(f"{kid or time.strftime('%Y-%m-%d', time.gmtime())}:{secrets.token_urlsafe(LEAST_SECRET_BYTES)}")
        return
    if tenant is None and not admin:
        raise click.UsageError("Say whose calls the token is for: --tenant.")
    if admin and client != ANYONE:
        raise click.UsageError("--admin is for services: leave out --client.")
    if agent and client != ANYONE:
        raise click.UsageError("--agent is for services: leave out --client.")
    _check_names(tenant or ADMINS_TENANT, *(name for name in (client, *sessions) if name != ANYONE))
    try:
        settings = load()
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    algorithm, key, kid = _shared_key(settings, kid) if private_key is None else _private_key(private_key, kid)
    claims = {
        "iss": settings.auth_issuer,
        "sub": client,
        "tenant": tenant or ADMINS_TENANT,
        "session": ANYONE if not sessions else sessions[0] if len(sessions) == 1 else list(sessions),
        "exp": int(time.time()) + expires,
        **({"admin": True} if admin else {}),
        **({"agent": True} if agent else {}),
    }
    click.echo(jwt.encode(claims, key, algorithm, headers={"kid": kid}))


def _shared_key(settings: Settings, kid: str | None) -> tuple[str, str, str]:
    for key in settings.auth_keys:
        if kid in (None, key.kid):
            return "HS256", key.secret.text, key.kid
    if kid is None:
        raise click.UsageError("AUTH_KEYS is not set. A new key: trio-stt token --new-key.")
    raise click.UsageError(f"AUTH_KEYS has no key {kid!r}.")


def _private_key(file: Path, kid: str | None) -> tuple[str, Ed25519PrivateKey | RSAPrivateKey, str]:
    if kid is None:
        raise click.UsageError("Say what the server calls the key of --private-key: --kid.")
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise click.UsageError(f"--private-key: {file} holds no private key that can be read: {error}.") from error
    if isinstance(key, Ed25519PrivateKey):
        return "EdDSA", key, kid
    if isinstance(key, RSAPrivateKey):
        return "RS256", key, kid
    raise click.UsageError(f"--private-key: {file} holds neither an Ed25519 nor an RSA key.")
