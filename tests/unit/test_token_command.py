"""`trio-stt token`: what it makes is believed by a server with the same settings, and allows what was asked for."""

import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.tokens import KEYS
from trio_stt.__main__ import main
from trio_stt.gateway.auth import Authenticator, Grant
from trio_stt.gateway.keys import keys_of
from trio_stt.settings import Settings

TWO_KEYS = f"{KEYS},k2:{'x' * 32}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # where no .env is

    def run(*arguments: str, keys: str | None = TWO_KEYS) -> Result:
        return CliRunner(env={"AUTH_KEYS": keys, "AUTH_ISSUER": None}).invoke(main, ["token", *arguments])

    return run


def grant_of(result: Result, **settings: str) -> Grant:
    assert result.exit_code == 0, result.output
    known = keys_of(Settings(**{"auth_keys": TWO_KEYS, **settings}))
    grant = Authenticator(known, issuer="trio-stt", leeway_s=0).verify(result.output.strip())
    assert isinstance(grant, Grant), grant
    return grant


def test_a_token_is_for_what_was_asked(run):
    before = int(time.time())
    grant = grant_of(run("--tenant", "acme", "--session", "c1", "--session", "c2", "--client", "ann"))
    assert before + 3600 <= grant.expires_at <= time.time() + 3600
    assert (grant.tenant, grant.subject, grant.sessions, grant.admin) == ("acme", "ann", {"c1", "c2"}, False)
    assert grant_of(run("--tenant", "acme", "--session", "c1")).sessions == {"c1"}


def test_without_names_it_is_for_a_service_of_the_tenant(run):
    grant = grant_of(run("--tenant", "acme"))
    assert (grant.is_service, grant.sessions, grant.admin) == (True, None, False)


def test_an_administrators_token_needs_no_tenant(run):
    grant = grant_of(run("--admin", "--expires", "15m"))
    assert (grant.is_service, grant.admin) == (True, True)
    assert grant.expires_at - time.time() <= 900


def test_a_token_for_agents_is_a_services(run):
    grant = grant_of(run("--tenant", "acme", "--session", "team", "--agent"))
    assert (grant.is_service, grant.agent, grant.sessions) == (True, True, {"team"})
    assert not grant_of(run("--tenant", "acme")).agent
    assert run("--tenant", "acme", "--client", "ann", "--agent").exit_code == 2


@pytest.mark.parametrize(
    ("given", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("30d", 2_592_000)]
)
def test_durations_have_units(run, given, seconds):
    before = int(time.time())
    expires_at = grant_of(run("--tenant", "a", "--expires", given)).expires_at
    assert before + seconds <= expires_at <= time.time() + seconds


def test_a_new_key_is_one_that_the_settings_take(run):
    made = run("--new-key", "--kid", "mine", keys=None).output.strip()
    assert re.fullmatch(r"mine:[\w-]{43}", made)
    assert Settings(auth_keys=made).auth_keys[0].kid == "mine"
    unnamed = run("--new-key", keys=None).output.strip()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d:[\w-]{43}", unnamed)
    assert unnamed != run("--new-key", keys=None).output.strip()


def test_the_key_is_the_first_or_the_one_that_is_named(run):
    assert grant_of(run("--tenant", "a"), auth_keys=KEYS)
    assert grant_of(run("--tenant", "a", "--kid", "k2"), auth_keys=f"k2:{'x' * 32}")


@pytest.mark.parametrize("key", [Ed25519PrivateKey.generate(), generate_rsa(65537, 2048)], ids=["EdDSA", "RS256"])
def test_a_private_key_signs_for_its_public_half(run, tmp_path, key):
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    made = run("--tenant", "a", "--private-key", str(private), "--kid", "pem", keys=None)
    assert grant_of(made, auth_keys="", auth_key_files=f"pem:{public}").tenant == "a"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--tenant"),
        (["--tenant", "a b"], "'a b' is not a name"),
        (["--tenant", "*"], "is not a name"),
        (["--tenant", "a", "--session", ""], "is not a name"),
        (["--tenant", "a", "--expires", "0"], "duration"),
        (["--tenant", "a", "--expires", "soon"], "duration"),
        (["--tenant", "a", "--kid", "k3"], "AUTH_KEYS has no key 'k3'"),
        (["--new-key", "--kid", "a:b"], "--kid 'a:b'"),
        (["--admin", "--client", "ann"], "--client"),
        (["--tenant", "a", "--private-key", "ec.pem"], "--kid"),
        (["--tenant", "a", "--private-key", "ec.pem", "--kid", "x"], "neither an Ed25519 nor an RSA"),
        (["--tenant", "a", "--private-key", "text.pem", "--kid", "x"], "no private key that can be read"),
    ],
)
def test_what_is_wrong_is_said(run, tmp_path, arguments, said):
    ec = generate_ec(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ec.pem").write_bytes(ec)
    (tmp_path / "text.pem").write_text("no key")
    result = run(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_without_keys_it_says_how_to_make_one(run):
    assert "trio-stt token --new-key" in run("--tenant", "a", keys=None).output
