"""Where a Redis is and how to get in, as a URL says it: `REDIS_URL`."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import field, frozen

DEFAULT_PORT: Final = 6379

EXPECTED: Final = "redis://user:password@host:port/number, rediss://… with TLS, or unix:///path"

_TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_OPTIONS: Final = ("db", "client_name")

_BOOLEANS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@frozen
class RedisAddress:
    """One Redis: at `path` if there is one, otherwise at `host` and `port`; `tls`: None: unencrypted."""

    host: str
    port: int
    path: str
    username: str | None
    password: str | None = field(repr=False)
    database: int
    client_name: str | None
    tls: ssl.SSLContext | None


def read_redis_url(url: str) -> RedisAddress:
    """What `url` says; user, password, host and path may be percent-encoded.

    Options, after a question mark: db, client_name; with rediss:// also ssl_ca_certs (a file or folder, besides the
    system's), ssl_certfile and ssl_keyfile (to show to Redis), ssl_cert_reqs=none (any certificate will do) and
    ssl_check_hostname=false (any name in it will do).

    Raises ValueError, which says what is wrong and holds nothing of the URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) if parts.query else []
    except ValueError:
        raise _wrong("it cannot be read; is a special character not percent-encoded?") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise _wrong("the scheme is another")
    options = _options(pairs, tls=parts.scheme == "rediss")
    local = parts.scheme == "unix"
    host, path = unquote(parts.hostname or ""), unquote(parts.path)
    if local and (host or len(path) < 2):
        raise _wrong("there is no path, or a host before it")
    if not local and (not host or any(character.isspace() for character in host)):
        raise _wrong("there is no host")
    if port == 0 or parts.fragment:
        raise _wrong("port 0, or # that is not percent-encoded")
    return RedisAddress(
        host,
        port or DEFAULT_PORT,
        path if local else "",
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        _database(options.get("db") or ("" if local else path.removeprefix("/"))),
        options.get("client_name"),
        _tls(options) if parts.scheme == "rediss" else None,
    )


def _wrong(what: str) -> ValueError:
    return ValueError(f"{EXPECTED} ({what})")


def _options(pairs: Sequence[tuple[str, str]], *, tls: bool) -> dict[str, str]:
    options = dict(pairs)
    if len(options) < len(pairs) or not all(options.values()):
        raise _wrong("an option stands twice, or has no value")
    if not set(options) <= {*_OPTIONS, *(_TLS_OPTIONS if tls else ())}:
        raise _wrong(f"the options are {', '.join(_OPTIONS)}; with rediss:// also {', '.join(_TLS_OPTIONS)}")
    return options


def _database(number: str) -> int:
    if not number:
        return 0
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise _wrong("the database is no number")
    return int(number)


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    """A context that checks certificate and host name, unless the options say otherwise."""
    needs, checks_name = options.get("ssl_cert_reqs", "required"), options.get("ssl_check_hostname", "true").lower()
    if needs not in ("required", "optional", "none") or checks_name not in _BOOLEANS:
        raise _wrong("ssl_cert_reqs is required or none, ssl_check_hostname is true or false")
    context = ssl.create_default_context()
    context.check_hostname = _BOOLEANS[checks_name] and needs != "none"
    context.verify_mode = ssl.CERT_NONE if needs == "none" else ssl.CERT_REQUIRED  # a server always shows one
    authorities, certificate, key = (options.get(name) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
    if key and not certificate:
        raise _wrong("ssl_keyfile without ssl_certfile")
    try:
        if authorities and os.path.isdir(authorities):
            context.load_verify_locations(capath=authorities)
        elif authorities:
            context.load_verify_locations(cafile=authorities)
        if certificate:
            context.load_cert_chain(certificate, key, password="")  # without it, it would ask at the terminal
    except OSError:  # also what is in the file
        raise _wrong("a file of ssl_ca_certs, ssl_certfile or ssl_keyfile cannot be used") from None
    return context
