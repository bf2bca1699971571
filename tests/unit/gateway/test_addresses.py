"""Whose connection it is, and how many one address may have."""

from contextlib import ExitStack

import pytest

from trio_stt.gateway.addresses import Addresses
from trio_stt.gateway.origins import Origins
from trio_stt.settings import Settings

PROXIES = Settings(trusted_proxies="127.0.0.1, 10.0.0.0/8, fd00::/8").trusted_proxies


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # not a proxy of ours: what it says is not believed
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["192.0.2.1, 198.51.100.1"], "198.51.100.1"),  # the first was made up by the client
        ("127.0.0.1", ["192.0.2.1", "198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        ("127.0.0.1", ["10.0.0.1"], "10.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["unknown"], "127.0.0.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("::ffff:203.0.113.7", [], "203.0.113.7"),
        ("::ffff:127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:1:2:3::4", [], "2001:db8:1:2::/64"),
        ("fd00::1", ["2001:db8:1:2::9"], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_last_address_that_is_no_trusted_proxy_is_the_clients(peer, forwarded_for, client):
    assert Addresses(trusted_proxies=PROXIES, max_connections=1).client(peer, forwarded_for) == client


def test_a_request_came_through_a_proxy_if_a_trusted_one_says_so():
    addresses = Addresses(trusted_proxies=PROXIES, max_connections=1)
    assert addresses.is_proxied("127.0.0.1", ["198.51.100.1"])
    assert not addresses.is_proxied("127.0.0.1", [])
    assert not addresses.is_proxied("203.0.113.7", ["127.0.0.1"])


def test_an_address_has_so_many_connections_and_others_theirs():
    addresses = Addresses(trusted_proxies=(), max_connections=2)
    with ExitStack() as held:
        held.enter_context(addresses.place("a"))
        with addresses.place("a"):
            refusal = addresses.refusal("a")
            assert (refusal.status, refusal.retry_after_s) == (429, 10)
            assert addresses.refusal("b") is None
        assert addresses.refusal("a") is None


def test_0_is_any_number():
    addresses = Addresses(trusted_proxies=(), max_connections=0)
    with addresses.place("a"):
        assert addresses.refusal("a") is None


@pytest.mark.parametrize(
    ("allowed", "own_pages", "origin", "passes"),
    [
        ("", False, "https://example.org", True),
        ("", True, "https://example.org", False),
        ("", True, "http://localhost:3000", True),
        ("", True, "http://127.0.0.1", True),
        ("", True, "http://[::1]:8080", True),
        ("", True, "file://", True),
        ("", True, "null", False),  # which any page can have, by a frame in a sandbox
        ("", True, "http://localhost.example.org", False),
        ("", True, "http://[", False),
        ("https://example.org", True, "https://example.org", True),
        ("https://Example.org", False, "HTTPS://EXAMPLE.ORG", True),
        ("https://example.org", False, "http://example.org", False),
        ("https://example.org", False, "https://example.org:8443", False),
        ("https://example.org", False, "https://sub.example.org", False),
        ("https://example.org", True, "http://localhost:3000", False),
        ("https://example.org,null", False, "null", True),
        ("*", True, "https://example.org", True),
    ],
)
def test_pages_connect_that_are_allowed_to(allowed, own_pages, origin, passes):
    origins = Origins(Settings(allowed_origins=allowed).allowed_origins, only_own_pages=own_pages)
    refusal = origins.refusal([origin])
    assert (refusal is None) == passes
    assert refusal is None or refusal.status == 403
    assert origins.refusal([]) is None


def test_every_origin_of_a_request_must_be_allowed():
    assert Origins(("https://a.org",), only_own_pages=False).refusal(["https://a.org", "https://b.org"]) is not None
