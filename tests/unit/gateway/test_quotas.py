"""What tenants may have, each by itself."""

from contextlib import ExitStack

import pytest

from trio_stt.dialects.events import StreamRequest
from trio_stt.gateway.quotas import Quota, QuotaFileError, Quotas, quotas_of
from trio_stt.settings import Settings


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Tenants:
    """Quotas whose clients stay."""

    def __init__(self, everybody: Quota, now: float = 0.0, **of_tenants: Quota) -> None:
        self.clock = Clock(now)
        self.quotas = Quotas(everybody, of_tenants, self.clock)
        self._places = ExitStack()

    def enter(self, client="ann", session="call", tenant="a", *, replaces=False, **request) -> str | None:
        """Lets the client in, or returns the code of why not."""
        request = StreamRequest(client, session, tenant=tenant, **request)
        refusal = self.quotas.refusal(request, replaces=replaces)
        if refusal is not None:
            assert refusal.status == 429
            assert refusal.retry_after_s > 0
            return refusal.code
        self._places.enter_context(self.quotas.place(request))
        return None

    def all_leave(self) -> None:
        self._places.close()


def test_speakers_and_listeners_are_counted_apart_and_each_tenant_by_itself():
    tenants = Tenants(Quota(streams=2, listeners=1))
    assert [tenants.enter("x"), tenants.enter("y"), tenants.enter("z")] == [None, None, "too_many_streams"]
    assert tenants.enter("x", speak=False) is None
    assert tenants.enter("y", speak=False) == "too_many_streams"
    assert tenants.enter("x", tenant="b") is None
    tenants.all_leave()
    assert tenants.enter("z") is None


def test_sessions_are_counted_while_anybody_is_in_them():
    tenants = Tenants(Quota(sessions=1))
    assert tenants.enter("x", "one") is None
    assert tenants.enter("y", "one", speak=False) is None
    assert tenants.enter("x", "two") == "too_many_sessions"
    assert tenants.enter("x", "two", tenant="b") is None
    tenants.all_leave()
    assert tenants.enter("x", "two") is None


def test_members_of_sessions_with_the_same_name_are_not_added_up_over_tenants():
    tenants = Tenants(Quota(members=1))
    assert tenants.enter("x", "call") is None
    assert tenants.enter("y", "call") == "session_full"
    assert tenants.enter("y", "call", tenant="b") is None


def test_a_client_that_replaces_itself_is_let_in_but_not_for_ever():
    tenants = Tenants(Quota(streams=2, sessions=1, members=2))
    tenants.enter("x")
    tenants.enter("y")
    assert tenants.enter("x", replaces=True) is None
    assert tenants.enter("x", replaces=True) == "too_many_streams"


def test_a_days_audio_ends_with_the_day():
    tenants = Tenants(Quota(audio_s_a_day=10), now=86_400 * 3 - 100)
    assert tenants.enter() is None
    tenants.quotas.spend("a", 9.9)
    assert not tenants.quotas.is_used_up("a")
    tenants.quotas.spend("a", 0.1)
    assert tenants.quotas.is_used_up("a")
    assert not tenants.quotas.is_used_up("b")
    assert tenants.enter("bob") == "quota_used_up"
    assert tenants.enter("bob", replaces=True) == "quota_used_up"
    assert tenants.quotas.refusal(StreamRequest("bob", "call", tenant="a")).retry_after_s == 100
    assert tenants.enter("eve", speak=False) is None
    tenants.clock.now += 100
    assert not tenants.quotas.is_used_up("a")
    assert tenants.enter("bob") is None


def test_a_tenant_may_have_a_quota_of_its_own():
    tenants = Tenants(Quota(streams=1), a=Quota(streams=2), b=Quota())
    assert [tenants.enter(name) for name in "xyz"] == [None, None, "too_many_streams"]
    assert [tenants.enter(name, tenant="b") for name in "xyz"] == [None] * 3
    assert [tenants.enter(name, tenant="c") for name in "xy"] == [None, "too_many_streams"]


def test_the_file_changes_what_it_names_and_leaves_the_rest(tmp_path):
    file = tmp_path / "quotas.json"
    file.write_text('{"acme": {"streams": 3, "audio_s_a_day": 0.5}}')
    quotas = quotas_of(Settings(tenant_max_streams=1, tenant_max_sessions=7, tenant_quotas_file=str(file)))
    assert quotas.quota("acme") == Quota(streams=3, sessions=7, members=200, audio_s_a_day=0.5)
    assert quotas.quota("other") == Quota(streams=1, sessions=7, members=200)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"acme": 3}',
        '{"a b": {}}',
        '{"acme": {"streams": -1}}',
        '{"acme": {"streams": 1.5}}',
        '{"acme": {"streams": true}}',
        '{"acme": {"audio_s_a_day": NaN}}',
        '{"acme": {"audio_s_a_day": Infinity}}',
        '{"acme": {"minutes": 1}}',
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, text):
    file = tmp_path / "quotas.json"
    file.write_text(text)
    with pytest.raises(QuotaFileError, match=r"TENANT_QUOTAS_FILE=.*quotas\.json"):
        quotas_of(Settings(tenant_quotas_file=str(file)))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(QuotaFileError, match=r"none\.json"):
        quotas_of(Settings(tenant_quotas_file="none.json"))
