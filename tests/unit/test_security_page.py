"""docs/security.md says what the code does: its examples work, its tables are complete."""

import json
import re
import time
from pathlib import Path

import attrs
import click
import pytest

from tests.unit.test_docs import code_of, rows_below
from trio_stt.admin_command import admin
from trio_stt.app import Instance
from trio_stt.gateway.auth import Authenticator, Grant
from trio_stt.gateway.keys import VerificationKey
from trio_stt.gateway.quotas import Quota, quotas_of
from trio_stt.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")


def block(kind: str, number: int = 0) -> str:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[number]


def test_the_python_service_makes_tokens_that_are_believed():
    names: dict = {}
    exec(block("python"), names)
    authenticator = Authenticator(
        {names["KID"]: VerificationKey("HS256", names["SECRET"].encode())}, issuer="trio-stt", leeway_s=0
    )
    grant = authenticator.verify(names["token_for"]("ann", "call-1"))
    assert isinstance(grant, Grant)
    assert (grant.tenant, grant.subject, grant.sessions) == ("acme", "ann", {"call-1"})
    assert time.time() < grant.expires_at <= time.time() + 3600


@pytest.mark.parametrize("number", [1, 2])
def test_the_other_python_examples_are_python(number):
    compile(block("python", number), "docs/security.md", "exec")


def test_the_shown_quota_file_is_read(tmp_path):
    file = tmp_path / "quotas.json"
    file.write_text(block("json quotas"))
    quotas = quotas_of(Settings(tenant_quotas_file=str(file)))
    assert quotas.quota("acme").streams == 50
    assert quotas.quota("beta").sessions == 2
    assert json.loads(block("json quotas")).keys() == {"acme", "beta"}


def test_every_quota_has_its_row_with_its_setting():
    rows = {code_of(row[1])[0]: code_of(row[0])[0].lower() for row in rows_below(PAGE, "Setting | Name in the file")}
    assert list(rows) == [field.name for field in attrs.fields(Quota)]
    settings = Settings(**dict.fromkeys(rows.values(), 7))
    assert quotas_of(settings).quota("anybody") == Quota(7, 7, 7, 7, 7)


async def test_every_route_of_the_administration_has_its_row_with_its_command():
    rows = rows_below(PAGE, "Route | Command")
    instance = Instance(Settings(vad_engine="energy", auth_mode="off"))
    routes = {
        (method, re.sub("<[^>]+>", "X", rule.rule))
        for rule in instance.app.url_map.iter_rules()
        if rule.rule.startswith("/admin/")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    shown = {tuple(code_of(row[0])[0].split(" ")) for row in rows}
    assert {(method, re.sub(r"\b(ID|NAME|LANG)\b", "X", path)) for method, path in shown} == routes
    commands = [code_of(row[1])[0].split()[2] for row in rows]
    assert sorted(commands) == sorted(admin.list_commands(click.Context(admin)))


def test_every_code_of_a_refusal_is_on_the_page():
    gateway = Path(__file__).parents[2] / "trio_stt" / "gateway"
    text = "".join((gateway / f"{name}.py").read_text() for name in ("auth", "addresses", "origins", "quotas", "http"))
    codes = re.findall(r'(?:Refusal\(4\d\d, |unauthorized\(\s*|_too_many\()"(\w+)"', text)
    assert len(set(codes)) >= 10
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()
