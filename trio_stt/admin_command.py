"""`trio-stt admin`: one command for each route of ``/admin/``."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click
import httpx

from trio_stt.settings import Secret, SettingsError, load, parse_token

TIMEOUT_S = 10.0
"""For an answer, also of an instance under load."""

MODEL_TIMEOUT_S = 120.0
"""The same, where a model is loaded, perhaps after others that wait."""


class _Instance:
    """The server that is spoken to."""

    def __init__(self, url: str, token: Secret) -> None:
        self._url = url.rstrip("/")
        self._token = token

    def ask(self, method: str, *path: str, **request: Any) -> None:
        """Makes the request and prints the answer; a refusal becomes a message of click's."""
        route = "/".join(quote(part, safe="") for part in path)
        headers = {"Authorization": f"Bearer {self._token.text}"}
        try:
            request = {"timeout": TIMEOUT_S, **request}
            answer = httpx.request(method, f"{self._url}/admin/{route}", headers=headers, trust_env=False, **request)
            body = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise click.ClickException(f"{self._url} gave no answer that can be read: {error}") from error
        if not answer.is_success:
            message = body.get("error", {}).get("message", "no reason given")
            raise click.ClickException(f"the server refused: {message} (HTTP {answer.status_code})")
        click.echo(json.dumps(body, indent=2, ensure_ascii=False))


@click.group("admin")
@click.option(
    "--server", metavar="URL", help="http://HOST:PORT of the instance.  [default: SERVER_HOST and SERVER_PORT]"
)
@click.option(
    "--token", metavar="TOKEN", help="What trio-stt token --admin prints; better: ACCESS_TOKEN, which ps does not show."
)
@click.pass_context
def admin(context: click.Context, server: str | None, token: str | None) -> None:
    """See and change what one running instance does; answers are JSON."""
    try:
        settings = load()
        shown = settings.access_token if token is None else parse_token(token)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except ValueError as error:
        raise click.UsageError(f"--token is not {error}.") from None
    if shown is None:
        raise click.UsageError("A token is needed: set ACCESS_TOKEN to what 'trio-stt token --admin' prints.")
    host = f"[{settings.server_host}]" if ":" in settings.server_host else settings.server_host
    context.obj = _Instance(server or f"http://{host}:{settings.server_port}", shown)


@admin.command()
@click.pass_obj
def streams(instance: _Instance) -> None:
    """List who is connected."""
    instance.ask("GET", "streams")


@admin.command()
@click.pass_obj
def sessions(instance: _Instance) -> None:
    """List the calls and their clients."""
    instance.ask("GET", "sessions")


@admin.command("close-stream")
@click.argument("stream_id", metavar="ID")
@click.pass_obj
def close_stream(instance: _Instance, stream_id: str) -> None:
    """End a stream, after its last final (close code 1008)."""
    instance.ask("DELETE", "streams", stream_id)


@admin.command("close-session")
@click.argument("session_id", metavar="ID")
@click.option("--tenant", help="Whose, where several tenants have a call of that name.")
@click.pass_obj
def close_session(instance: _Instance, session_id: str, tenant: str | None) -> None:
    """End all streams of a call."""
    instance.ask("DELETE", "sessions", session_id, params={} if tenant is None else {"tenant": tenant})


@admin.command()
@click.pass_obj
def drain(instance: _Instance) -> None:
    """End the instance as SIGTERM does: nobody new, open streams finish."""
    instance.ask("POST", "drain")


@admin.command("load-model")
@click.argument("language")
@click.pass_obj
def load_model(instance: _Instance, language: str) -> None:
    """Load the speech model of LANGUAGE before somebody speaks it; also one that failed, once more."""
    instance.ask("POST", "models", language, "load", timeout=MODEL_TIMEOUT_S)


@admin.command("unload-model")
@click.argument("language")
@click.pass_obj
def unload_model(instance: _Instance, language: str) -> None:
    """Give back the memory of a speech model that nobody uses; the next speaker loads it again."""
    instance.ask("POST", "models", language, "unload", timeout=MODEL_TIMEOUT_S)


@admin.command("reset-breaker")
@click.argument("name")
@click.pass_obj
def reset_breaker(instance: _Instance, name: str) -> None:
    """Let calls to a recogniser pass again, without waiting for the next probe."""
    instance.ask("POST", "breakers", name, "reset")


@admin.command("log-level")
@click.argument("level", type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False))
@click.pass_obj
def log_level(instance: _Instance, level: str) -> None:
    """Write lines of LEVEL and above, until the instance ends."""
    instance.ask("POST", "log-level", json={"level": level.upper()})
