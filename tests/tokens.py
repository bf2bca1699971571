"""Access tokens as an issuer makes them, good ones and bad ones."""

import time

import jwt

KID = "k1"
SECRET = "a secret of the tests which is longer than the 64 bytes that any algorithm here wants"
KEYS = f"{KID}:{SECRET}"


def claims(**changes) -> dict[str, object]:
    """Good claims with `changes`; a claim that is None is left out."""
    good = {"iss": "trio-stt", "sub": "*", "tenant": "acme", "session": "*", "exp": int(time.time()) + 36_000}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def token(*, key=SECRET, algorithm="HS256", header=None, **changes) -> str:
    """A token with these claims; by default it allows all that a service of tenant ``acme`` may do."""
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": KID, **(header or {})})
