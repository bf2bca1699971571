"""Which tokens are believed, and what they allow."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests.tokens import KID, SECRET, claims, token
from trio_stt.dialects.request import Refusal
from trio_stt.gateway.auth import Authenticator, Grant, token_of
from trio_stt.gateway.keys import VerificationKey

RSA = generate_private_key(65537, 2048)
RSA_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
ED25519 = Ed25519PrivateKey.generate()
AUTHENTICATOR = Authenticator(
    {
        KID: VerificationKey("HS256", SECRET.encode()),
        "rsa": VerificationKey("RS256", RSA.public_key()),
        "ed": VerificationKey("EdDSA", ED25519.public_key()),
    },
    issuer="trio-stt",
    leeway_s=10,
)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: object, key: bytes = SECRET.encode(), **changes: object) -> str:
    """A token that no library would make, with an HMAC of SHA-256."""
    signed = base64url(json.dumps(header).encode()) + "." + base64url(json.dumps(claims(**changes)).encode())
    return signed + "." + base64url(hmac.digest(key, signed.encode(), hashlib.sha256))


def test_a_good_token_allows_what_its_claims_say():
    expires_at = int(time.time()) + 60
    grant = AUTHENTICATOR.verify(token(sub="ann", session=["c1", "c2"], exp=expires_at))
    assert grant == Grant("acme", "ann", frozenset({"c1", "c2"}), expires_at)
    assert AUTHENTICATOR.verify(token(session="c1")).sessions == {"c1"}
    service = AUTHENTICATOR.verify(token(admin=True))
    assert (service.is_service, service.sessions, service.admin) == (True, None, True)
    assert AUTHENTICATOR.verify(token(session=["c1", "*"])).sessions is None
    assert AUTHENTICATOR.verify(by_hand({"alg": "HS256", "kid": KID})).tenant == "acme"


@pytest.mark.parametrize(("kid", "key", "algorithm"), [("rsa", RSA, "RS256"), ("ed", ED25519, "EdDSA")])
def test_public_keys_verify_what_their_private_halves_signed(kid, key, algorithm):
    assert AUTHENTICATOR.verify(token(key=key, algorithm=algorithm, header={"kid": kid})).tenant == "acme"


NOW = int(time.time())
BAD = {
    "no token at all": "",
    "no token but text": "bearer",
    "three parts of nothing": "..",
    "without a signature": token().rpartition(".")[0] + ".",
    "alg none": by_hand({"alg": "none", "kid": KID}).rpartition(".")[0] + ".",
    "alg none, signed": by_hand({"alg": "none", "kid": KID}),
    "no alg": by_hand({"kid": KID}),
    "alg a list": by_hand({"alg": ["HS256"], "kid": KID}),
    "another secret": token(key="another secret, of more than 32 bytes too"),
    "no kid": jwt.encode(claims(), SECRET, "HS256"),
    "wrong kid": token(header={"kid": "k2"}),
    "kid a list": by_hand({"alg": "HS256", "kid": [KID]}),
    "another algorithm than the key's": token(algorithm="HS384"),
    "RS/HS confusion": by_hand({"alg": "HS256", "kid": "rsa"}, RSA_PEM),
    "RS/HS confusion, claimed RS256": by_hand({"alg": "RS256", "kid": "rsa"}, RSA_PEM),
    "a shared key's kid, RS256": token(key=RSA, algorithm="RS256"),
    "signed by its own jwk": token(
        key=RSA, algorithm="RS256", header={"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key()))}
    ),
    "a critical header": by_hand({"alg": "HS256", "kid": KID, "crit": ["exp"], "exp": 0}),
    "a detached payload": by_hand({"alg": "HS256", "kid": KID, "b64": False}),
    "expired": token(exp=NOW - 11),
    "never expires": token(exp=None),
    "exp a text": token(exp=str(NOW + 60)),
    "exp true": by_hand({"alg": "HS256", "kid": KID}, exp=True),
    "exp infinite": by_hand({"alg": "HS256", "kid": KID}, exp=float("inf")),
    "exp not a number": by_hand({"alg": "HS256", "kid": KID}, exp=float("nan")),
    "exp before time began": by_hand({"alg": "HS256", "kid": KID}, exp=-(10**400)),
    "not valid yet": token(nbf=NOW + 7200),
    "issued tomorrow": token(iat=NOW + 86_400),
    "nbf a list": by_hand({"alg": "HS256", "kid": KID}, nbf=[]),
    "wrong issuer": token(iss="somebody"),
    "no issuer": token(iss=None),
    "issuer a list": by_hand({"alg": "HS256", "kid": KID}, iss=["trio-stt"]),
    "for another audience": token(aud="another"),
    "no sub": token(sub=None),
    "sub a number": by_hand({"alg": "HS256", "kid": KID}, sub=7),
    "sub not a name": token(sub="a b"),
    "no tenant": token(tenant=None),
    "tenant empty": token(tenant=""),
    "tenant *": token(tenant="*"),
    "tenant a list": token(tenant=["acme", "beta"]),
    "no session": token(session=None),
    "session a number": token(session=7),
    "session a mapping": token(session={"*": 1}),
    "sessions not names": token(session=["c1", "c 2"]),
    "sessions in lists": token(session=[["*"]]),
    "admin not a boolean": token(admin="true"),
    "claims a list": jwt.api_jws.encode(b"[]", SECRET, "HS256", headers={"kid": KID}),
    "claims no JSON": jwt.api_jws.encode(b"\xff", SECRET, "HS256", headers={"kid": KID}),
    "claims too deep": jwt.api_jws.encode(b"[" * 5000, SECRET, "HS256", headers={"kid": KID}),
    "too long": token(session=["c" * 100] * 100),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_token_is_refused_with_401_that_says_nothing_of_it(bad):
    refusal = AUTHENTICATOR.verify(bad)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (401, "invalid_token")
    assert "somebody" not in refusal.message
    assert "another" not in refusal.message.replace("another issuer", "").replace("another audience", "")


@given(st.text(max_size=200) | st.builds(lambda parts: ".".join(parts), st.lists(st.text(max_size=40), min_size=3)))
def test_nothing_that_is_shown_raises(shown):
    assert isinstance(AUTHENTICATOR.verify(shown), Refusal)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from([*claims(), "admin", "nbf", "iat", "aud", "jti"]), json_values))
def test_no_signed_claims_raise_and_no_grant_lacks_a_tenant(changes):
    grant = AUTHENTICATOR.verify(by_hand({"alg": "HS256", "kid": KID}, **changes))
    assert isinstance(grant, Refusal) or (grant.tenant and grant.subject)


def test_who_comes_within_the_leeway_has_the_rest_of_it():
    authenticator = Authenticator(
        {KID: VerificationKey("HS256", SECRET.encode())}, issuer="trio-stt", leeway_s=10, now=lambda: 1000.0
    )
    assert authenticator.verify(token(exp=1001)).expires_at == 1001
    assert authenticator.verify(token(exp=1000)).expires_at == 1010
    assert authenticator.verify(token(exp=991)).expires_at == 1001
    assert isinstance(authenticator.verify(token(exp=990)), Refusal)
    assert authenticator.verify(token(exp=2000, nbf=1010, iat=1010)).tenant == "acme"


@pytest.mark.parametrize(
    ("subject", "sessions", "client", "session", "code"),
    [
        ("*", None, "ann", "c1", None),
        ("ann", None, "ann", "c1", None),
        ("ann", None, "bob", "c1", "wrong_client"),
        ("*", {"c1"}, "ann", "c1", None),
        ("*", {"c1"}, "ann", "c2", "wrong_session"),
        ("*", set(), "ann", "c2", "wrong_session"),
    ],
)
def test_a_token_is_for_its_client_and_its_sessions(subject, sessions, client, session, code):
    refusal = Grant("acme", subject, None if sessions is None else frozenset(sessions), 0).refusal(client, session)
    assert code == (refusal and refusal.code)
    assert refusal is None or refusal.status == 403


@pytest.mark.parametrize(
    ("authorizations", "protocols", "expected"),
    [
        (["Bearer t"], [], "t"),
        (["bearer   t "], [], "t"),
        ([], ["bearer, t"], "t"),
        ([], ["bearer", "t"], "t"),
        ([], ["chat, bearer, t"], "t"),
        (["Basic dXNlcg=="], ["bearer, t"], "t"),
        ([], [], "missing_token"),
        (["Basic dXNlcg=="], [], "missing_token"),
        ([], ["chat"], "missing_token"),
        ([], ["bearer"], "missing_token"),
        (["Bearer t"], ["bearer, t"], "invalid_token"),
        (["Bearer t", "Bearer t"], [], "invalid_token"),
    ],
)
def test_a_request_has_one_token(authorizations, protocols, expected):
    found = token_of(authorizations, protocols)
    assert expected == (found.code if isinstance(found, Refusal) else found)
