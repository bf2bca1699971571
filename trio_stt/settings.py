"""Every setting: environment variable, type, default, bounds and meaning.

The attribute ``server_port`` is the variable ``SERVER_PORT``. ``docs/settings.md`` is printed from this file by
``trio-stt settings --markdown``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import environ
from dotenv import dotenv_values

from trio_stt.redis_address import read_redis_url

ENV_FILE = ".env"

LEAST_SECRET_BYTES = 32
"""Of an HS256 key: as long as the hash (RFC 7518, section 3.2)."""

SECRETS = frozenset(
    {"AUTH_KEYS", "ACCESS_TOKEN", "LIBRETRANSLATE_API_KEY", "LIVEKIT_API_SECRET", "REDIS_URL", "RESUME_SECRET"}
)
"""Settings whose values no message shows."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

KID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""What a key may be called."""

_TOKEN = re.compile(r"[!-~]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[^/:\s]*)(:[0-9]{1,5})?")
_AGENT_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class SettingsError(ValueError):
    """A setting is wrong. The message names the variable, where it came from, what was found and what is expected."""


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return convert


def _number(low: float, high: float) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return number

    return convert


def _boolean(value: Any) -> bool:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError("true or false")
    return words[str(value).lower()]


def _one_of(*choices: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        for choice in choices:
            if str(value).lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(choices))

    return convert


def _text(value: Any) -> str:
    if not str(value).strip():
        raise ValueError("some text")
    return str(value)


@attrs.frozen
class Secret:
    """A text that no log and no error message shows."""

    text: str = attrs.field(repr=False)


@attrs.frozen
class SharedKey:
    """A key that signs and verifies (HS256); `kid` is what tokens call it."""

    kid: str
    secret: Secret


@attrs.frozen
class KeyFile:
    """A file with a public key, by which tokens that name `kid` are verified."""

    kid: str
    path: Path


def _pairs(value: str, expected: str) -> list[tuple[str, str]]:
    pairs = [part.strip().partition(":") for part in value.split(",") if part.strip()]
    names = [name for name, _, _ in pairs]
    if not all(KID.fullmatch(name) and text for name, _, text in pairs) or len(set(names)) < len(names):
        raise ValueError(expected)
    return [(name, text) for name, _, text in pairs]


def _shared_keys(value: Any) -> tuple[SharedKey, ...]:
    if isinstance(value, tuple):
        return value
    expected = (
        f"kid:secret pairs with different kids, separated by commas, each secret of at least {LEAST_SECRET_BYTES} bytes"
    )
    keys = _pairs(str(value), expected)
    if any(len(secret.encode()) < LEAST_SECRET_BYTES for _, secret in keys):
        raise ValueError(f"{expected} ('trio-stt token --new-key' makes one)")
    return tuple(SharedKey(kid, Secret(secret)) for kid, secret in keys)


def _key_files(value: Any) -> tuple[KeyFile, ...]:
    if isinstance(value, tuple):
        return value
    files = _pairs(str(value), "kid:file pairs with different kids, separated by commas")
    return tuple(KeyFile(kid, Path(path).expanduser()) for kid, path in files)


def parse_token(value: Any) -> Secret | None:
    """The token in `value`; None if there is none. Raises ValueError for what cannot stand in a header."""
    if isinstance(value, Secret) or not value:
        return value or None
    if not _TOKEN.fullmatch(str(value)):
        raise ValueError("an access token as 'trio-stt token' prints it")
    return Secret(str(value))


def _networks(value: Any) -> tuple[Network, ...]:
    if isinstance(value, tuple):
        return value
    names = [name.strip() for name in str(value).split(",") if name.strip()]
    try:
        return () if names == ["none"] else tuple(ipaddress.ip_network(name) for name in names)
    except ValueError:
        raise ValueError("addresses or networks such as 10.0.0.0/8, separated by commas, or none") from None


def _origins(value: Any) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    origins = tuple(origin.strip().lower() for origin in str(value).split(",") if origin.strip())
    if not all(origin in ("*", "null") or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("origins such as https://app.example.org, without a path, separated by commas, or *")
    return origins


def _http_url(value: Any) -> str:
    url = str(value)
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("an address that begins with http:// or https://")
    return url


def _api_key(value: Any) -> str:
    key = str(value)
    if key and not _TOKEN.fullmatch(key):
        raise ValueError("a key: letters, digits and marks, without spaces")
    return key


def _socket_url(value: Any) -> str:
    url = str(value)
    parts = urlsplit(url)
    if url and (parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname or parts.username is not None):
        raise ValueError("an address that begins with ws:// or wss://, without user and password")
    return url


def _secret(value: Any) -> Secret | None:
    return value if isinstance(value, Secret) else Secret(str(value)) if value else None


def _name(value: Any) -> str:
    if not KID.fullmatch(str(value)):
        raise ValueError("1 to 64 of A-Z a-z 0-9 . _ -")
    return str(value)


def _identities(value: Any) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    return tuple(identity.strip() for identity in str(value).split(",") if identity.strip())


def _agent_urls(value: Any) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    urls = tuple(url.strip().rstrip("/") for url in str(value).split(",") if url.strip())
    if not all(_AGENT_URL.fullmatch(url) for url in urls) or len(set(urls)) < len(urls):
        raise ValueError("different addresses such as http://10.0.0.7:8080, without a path, separated by commas")
    return urls


def _redis_url(value: Any) -> str:
    if value:
        read_redis_url(str(value))
    return str(value)


def _resume_secret(value: Any) -> str:
    secret = str(value)
    if secret and len(secret.encode()) < LEAST_SECRET_BYTES:
        raise ValueError(f"at least {LEAST_SECRET_BYTES} bytes, or empty")
    return secret


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    names = tuple(name.strip() for name in str(value).split(",") if name.strip())
    if any("/" in name or name in (".", "..") for name in names):
        raise ValueError("names of folders, separated by commas")
    return names


def _languages(value: Any) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    tags = tuple(tag.strip().lower() for tag in str(value).split(",") if tag.strip())
    if any(not tag.isascii() or not tag.isalpha() or not 2 <= len(tag) <= 8 for tag in tags):
        raise ValueError("languages (BCP-47 primary subtags such as en), separated by commas")
    return tags


def _path(value: Any) -> Path | None:
    return Path(value).expanduser() if value else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _setting(default: Any, convert: Callable[[Any], Any], help: str) -> Any:
    return environ.var(default, converter=convert, help=help)


@environ.config(prefix="", frozen=True)
class Settings:
    """All settings of one process, checked. Made by `load`, or directly in tests: ``Settings(server_port=0)``."""

    # Server
    server_host: str = _setting(
        "127.0.0.1", _text, "Address to listen on; with AUTH_MODE=off loopback only (127.0.0.1, ::1, localhost)."
    )
    server_port: int = _setting(8000, _integer(0, 65535), "Port to listen on; 0 takes any free one.")
    vosk_server_port: int = _setting(
        0, _integer(0, 65535), "Port on which any path speaks vosk-server's protocol (its own was 2700); 0: none."
    )
    instance: str = _setting(
        f"{socket.gethostname()}-{os.getpid()}", _text, "Name of this instance in logs, health and `ready`."
    )
    log_level: str = _setting("INFO", _one_of("DEBUG", "INFO", "WARNING", "ERROR"), "Least severe log line written.")
    log_format: str = _setting(
        "json", _one_of("json", "console"), "One JSON object a line, or coloured text for people."
    )
    drain_timeout_s: float = _setting(10, _number(0, 3600), "Seconds that open streams get to finish after SIGTERM.")

    # Access
    auth_mode: str = _setting(
        "required",
        _one_of("required", "off"),
        "required: every client shows an access token; off: none does, on loopback and without proxies only.",
    )
    auth_keys: tuple[SharedKey, ...] = _setting(
        "", _shared_keys, "Keys that sign and verify tokens (HS256), by kid; several while one replaces another."
    )
    auth_key_files: tuple[KeyFile, ...] = _setting(
        "",
        _key_files,
        "PEM files of public keys, by kid: RSA for RS256, Ed25519 for EdDSA. Their tokens are made elsewhere.",
    )
    auth_issuer: str = _setting("trio-stt", _text, "What tokens must have as `iss`.")
    auth_leeway_s: float = _setting(
        10, _number(0, 60), "Seconds by which the clocks of those who make and verify tokens may differ."
    )
    allowed_origins: tuple[str, ...] = _setting(
        "",
        _origins,
        "Web pages that may connect, by their Origin; *: all. Empty: with AUTH_MODE=required all, because a page "
        "needs a token; with off those of this machine.",
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        "", _networks, "Proxies whose X-Forwarded-For tells the client's address."
    )
    max_connections_per_address: int = _setting(
        200,
        _integer(0, 1_000_000),
        "WebSockets from one address (IPv6: /64) at once; one more gets 429. 0: any number.",
    )
    tenant_max_streams: int = _setting(
        0, _integer(0, 1_000_000), "Speaking streams that a tenant may have at once; one more gets 429. 0: any number."
    )
    tenant_max_listeners: int = _setting(
        0, _integer(0, 1_000_000), "Listening clients that a tenant may have at once; one more gets 429. 0: any number."
    )
    tenant_max_sessions: int = _setting(
        0, _integer(0, 1_000_000), "Sessions that a tenant may have at once; one more gets 429. 0: any number."
    )
    tenant_audio_s_a_day: float = _setting(
        0,
        _number(0, 1e12),
        "Seconds of audio that a tenant may send in a day (UTC); then its speakers are closed with 1008 and refused "
        "with 429. 0: any number.",
    )
    tenant_quotas_file: Path | None = _setting(
        "", _path, "JSON file with other quotas for some tenants: docs/security.md."
    )
    access_token: Secret | None = _setting(
        "", parse_token, "Token that `trio-stt transcribe` and `trio-stt admin` show to the server."
    )

    # Recognition
    language: str = _setting("en", _text, "Language that is recognised (BCP-47 primary subtag).")
    models_dir: Path = _setting("models", Path, "Folder of installed models.")
    vosk_model_path: Path | None = _setting(
        "", _path, "Vosk model folder; empty: the one installed for LANGUAGE in MODELS_DIR."
    )
    models_preload: tuple[str, ...] = _setting(
        "",
        _languages,
        "Languages whose models are loaded at the start besides LANGUAGE's, separated by commas; other models of "
        "MODELS_DIR are loaded when a client first speaks their language.",
    )
    models_memory_mb: int = _setting(
        2048,
        _integer(0, 10_000_000),
        "Memory that all loaded models may take, by estimate; those not used for longest are unloaded for others. "
        "LANGUAGE's own is loaded in any case.",
    )
    model_load_wait_s: float = _setting(
        5,
        _number(0, 60),
        "Seconds that a client waits while the model of its language is loaded; then it gets 503 and may come back.",
    )
    decode_cores: int = _setting(
        _cores(), _integer(1, 1024), "Threads that decode; default: the cores this process may use."
    )
    decode_cores_file: Path | None = _setting(
        "",
        _path,
        "File whose number, which may be a fraction, is used in place of DECODE_CORES and followed when it changes: "
        "how the fleet tells its instances their shares. A second number: the cores that newcomers are let in for.",
    )
    decode_chunk_ms: int = _setting(
        100,
        _integer(20, 1000),
        "Least audio given to the recogniser in one call, in ms; grows to 400 when many speak at once.",
    )
    decode_step_ms: int = _setting(
        400,
        _integer(30, 1000),
        "Sound that the network takes at once, in ms: a longer step costs less, partial captions come later, by half "
        "of it on average (vosk's own: 240).",
    )
    decode_cost: float = _setting(
        0,
        _number(0, 100),
        "Core-seconds that decoding a second of speech costs, by which speakers are let in before there is any load; "
        "0: measured at the first start.",
    )
    max_load: float = _setting(
        0.8,
        _number(0.05, 100),
        "Share of DECODE_CORES that the server may use, by measured CPU time; beyond it new speakers get 503.",
    )
    cache_dir: str = _setting(
        "",
        str,
        "Folder in which it is remembered that a model works here and what it costs; empty: trio-stt in "
        "XDG_CACHE_HOME or ~/.cache; off: found out anew at each start.",
    )
    jemalloc: bool = _setting(
        True,
        _boolean,
        "Use jemalloc where it is installed: decoding costs about a quarter less. false: the C library's.",
    )
    max_utterance_s: float = _setting(
        30,
        _number(5, 120),
        "Longest utterance, in seconds; then it is cut, at a gap between words if there is one.",
    )
    adaptation_memory_mb: float = _setting(
        28,
        _number(0, 1_000_000),
        "Memory that recognisers take before what they learnt of silent speakers is forgotten, longest silent first.",
    )
    recogniser_memory_mb: int = _setting(
        2048,
        _integer(64, 1_000_000),
        "Memory for the pooled recognisers of each model whose graph is not compiled (about 65 MB each).",
    )

    # Speech gate (voice activity detection)
    vad_enabled: bool = _setting(True, _boolean, "false: everything is decoded, also silence.")
    vad_engine: str = _setting(
        "auto",
        _one_of("auto", "silero", "webrtc", "energy"),
        "Detector; auto: Silero, then WebRTC, then energy, whichever works.",
    )
    vad_device: str = _setting(
        "auto", _one_of("auto", "cpu", "cuda"), "Where Silero runs; cuda needs the extra trio-stt[cuda]."
    )
    vad_threshold: float = _setting(
        0.5, _number(0.05, 0.95), "Speech probability at which speech begins; it ends 0.15 below."
    )
    vad_min_speech_duration_ms: int = _setting(64, _integer(0, 2000), "Speech shorter than this opens no utterance.")
    vad_min_silence_duration_ms: int = _setting(300, _integer(50, 5000), "Hangover: silence that ends an utterance.")
    vad_pre_roll_ms: int = _setting(
        400, _integer(0, 2000), "Audio kept before the first speech, so that no first word is clipped."
    )
    vad_post_roll_ms: int = _setting(128, _integer(0, 2000), "Audio kept after the last speech; at most the hangover.")

    # Streams and sessions
    max_concurrent_clients: int = _setting(
        500,
        _integer(1, 100_000),
        "Speaking streams at once, whatever the machine could serve; one more gets 503. Measured load refuses earlier.",
    )
    max_listeners: int = _setting(
        1000, _integer(0, 1_000_000), "Listening clients (speak=false) at once; one more gets 503."
    )
    session_max_clients: int = _setting(200, _integer(1, 100_000), "Clients in one session; one more gets 429.")
    max_client_idle_time: float = _setting(
        300,
        _number(1, 86_400),
        "Seconds without any message after which a speaker is closed; the most a client may ask for.",
    )
    max_stream_duration: float = _setting(
        14_400, _number(1, 604_800), "Longest stream, in seconds; the most a client may ask for."
    )
    max_ahead_ms: int = _setting(
        5000,
        _integer(500, 120_000),
        "Undecoded audio held for a stream, in ms, before its socket is no longer read.",
    )
    heartbeat_ms: int = _setting(
        500, _integer(100, 60_000), "Longest silence of the server towards a framing=seq client, in ms."
    )
    slow_reader_timeout_s: float = _setting(
        5,
        _number(0.5, 600),
        "Seconds that one message may wait for a client that does not read; then it is closed with 4008.",
    )
    tcp_user_timeout_s: float = _setting(
        15, _number(1, 600), "Seconds after which the kernel gives up a connection whose peer takes nothing."
    )

    # Translation
    translation: bool = _setting(True, _boolean, "false: nothing is translated, and asking for it gets 400.")
    translation_threads: int = _setting(
        1, _integer(1, 64), "Threads for each translation engine; beside DECODE_CORES, so keep it low."
    )
    translation_timeout_s: float = _setting(
        3, _number(0.1, 60), "Seconds that one call of a translation engine may take, waiting for a thread included."
    )
    translation_queue: int = _setting(
        200,
        _integer(1, 100_000),
        "Captions that may wait to be translated; one more stays untranslated, and its readers are told once.",
    )
    translation_cache: int = _setting(
        2000, _integer(0, 1_000_000), "Translations that are remembered, so that the same words are translated once."
    )
    translate_partials: bool = _setting(
        False, _boolean, "true: unfinished captions are translated too, as far as their words have become stable."
    )
    libretranslate_url: str = _setting(
        "", _http_url, "Address of a LibreTranslate server, for pairs that nobody translates here; empty: none."
    )
    libretranslate_api_key: str = _setting("", _api_key, "Its API key, where it wants one.")
    written_captions: bool = _setting(
        False,
        _boolean,
        "true: finals are shown with capitals, full stops and commas; false: as recognised. /vosk-server: never.",
    )

    # Resume
    resume_window_s: float = _setting(
        10,
        _number(0, 300),
        "Seconds that a stream whose connection was lost is kept for its client to go on with; 0: its words are "
        "captioned at once. With framing=seq only.",
    )
    resume_token_s: float = _setting(
        900, _number(1, 86_400), "Seconds that a client may go on with a stream after it last heard from us."
    )
    resume_secret: str = _setting(
        "",
        _resume_secret,
        "Signs resume tokens: the same on all instances; empty: made from AUTH_KEYS, and without these one of its own, "
        "so that only the same process can go on with a stream.",
    )

    # Result bus
    redis_url: str = _setting(
        "",
        _redis_url,
        "Redis over which instances share calls: redis://user:password@host:port/number, special characters "
        "percent-encoded; rediss://… with TLS, ?ssl_ca_certs=FILE for an authority of your own; unix:///path; "
        "empty: this instance serves its calls alone.",
    )
    bus_ttl_s: float = _setting(
        600,
        _number(30, 604_800),
        "Seconds that a call's finals and translations are kept after its last client was heard of.",
    )

    # The fleet
    fleet_dir: Path = _setting(
        ".fleet", _path, "Folder of the local fleet: its logs, sockets and what it generates; of its user alone."
    )
    fleet_base_port: int = _setting(
        8001,
        _integer(1, 65_000),
        "Port of the fleet's first instance, on 127.0.0.1; the others follow. SERVER_HOST and SERVER_PORT are nginx's.",
    )
    balancing: str = _setting(
        "least-conn",
        _one_of("least-conn", "round-robin"),
        "How nginx chooses an instance: the one with the fewest connections, or each in turn.",
    )
    tls_cert: Path | None = _setting(
        "", _path, "Certificate chain (PEM) with which nginx serves TLS; empty: none. For trials: `trio-stt cert`."
    )
    tls_key: Path | None = _setting("", _path, "Its private key (PEM).")

    # The LiveKit agent
    livekit_url: str = _setting(
        "", _socket_url, "Address of the LiveKit server whose rooms are captioned, such as wss://me.livekit.cloud."
    )
    livekit_api_key: str = _setting("", str, "API key of that server, with which the agent makes its tokens.")
    livekit_api_secret: Secret | None = _setting("", _secret, "The secret that belongs to LIVEKIT_API_KEY.")
    stt_url: str = _setting(
        "ws://127.0.0.1:8000", _socket_url, "Where the agent finds this project's server, or nginx before its fleet."
    )
    agent_name: str = _setting(
        "captions", _name, "What the agent is called in rooms; a second one of that name takes the first one's place."
    )
    agent_tenant: str = _setting(
        "livekit", _name, "Whose calls the rooms are on the server, where the agent makes its token from AUTH_KEYS."
    )
    agent_host: str = _setting(
        "127.0.0.1", _text, "Address on which the agent serves HTTP; with AUTH_MODE=off loopback only."
    )
    agent_port: int = _setting(
        8080, _integer(1, 65535), "Its port; nginx of a local fleet passes /api/tts/speak to it, on 127.0.0.1."
    )
    agent_own_url: str = _setting(
        "",
        _http_url,
        "Where servers reach this agent, which it says over Redis; empty: AGENT_HOST and AGENT_PORT, or the machine's "
        "name where it listens on all addresses.",
    )
    agent_max_rooms: int = _setting(20, _integer(1, 10_000), "Rooms in which one agent is at once.")
    agent_max_tracks: int = _setting(
        60, _integer(1, 100_000), "Speakers whom one agent hears at once before it goes into no more rooms."
    )
    agent_url: tuple[str, ...] = _setting(
        "",
        _agent_urls,
        "Agents that the server sends into rooms; with REDIS_URL those that are there say so themselves.",
    )
    agent_auto_join: bool = _setting(
        False, _boolean, "true: LiveKit's webhooks send an agent into every room in which people are."
    )
    agent_gate_dbfs: float = _setting(
        -55,
        _number(-100, 0),
        "Sound below this level (of 50 ms, in dB of full scale) is silence, of which nothing is sent to the server; "
        "-100: all is sent.",
    )
    agent_empty_room_s: float = _setting(
        20, _number(0, 86_400), "Seconds after which the agent leaves a room in which nobody but agents is left."
    )
    agent_controllers: tuple[str, ...] = _setting(
        "",
        _identities,
        "Identities of participants whose messages control the agent, separated by commas: docs/agent.md.",
    )
    agent_speak_interrupt: bool = _setting(
        False, _boolean, "true: a spoken translation is broken off when the speaker whose words it says speaks again."
    )

    agent_voices: tuple[str, ...] = _setting(
        "",
        _names,
        "Voices of Kokoro that speak in place of their language's usual ones, separated by commas, such as "
        "am_adam,pm_alex: docs/tts.md.",
    )
    agent_speech_threads: int = _setting(
        1,
        _integer(1, 64),
        "Threads that compute what the agent says; with one it takes somewhat longer than saying it.",
    )

    # The vosk-server dialect
    vosk_sample_rate: int = _setting(
        8000,
        _integer(4000, 192_000),
        "/vosk-server: samples a second of clients that do not say; the name is vosk-server's own.",
    )
    vosk_show_words: bool = _setting(
        True, _boolean, "/vosk-server: whether finals have words where clients do not say; vosk-server's own name."
    )
    vosk_alternatives: int = _setting(
        0, _integer(0, 100), "/vosk-server: alternatives of finals where clients do not say; vosk-server's own name."
    )
    vosk_server_gate: bool = _setting(
        False, _boolean, "/vosk-server: true: silence is not decoded, and the speech gate ends utterances."
    )
    vosk_server_models: tuple[str, ...] = _setting(
        "", _names, "/vosk-server: folders in MODELS_DIR that clients may choose as `model`, separated by commas."
    )

    # Health and breaker
    stt_circuit_breaker_timeout: float = _setting(
        5, _number(0.1, 3600), "Seconds an open breaker waits before its first probe; doubles each time."
    )
    stt_circuit_breaker_min_calls: int = _setting(
        20, _integer(1, 10_000), "Calls looked at; at half of them failing the breaker opens."
    )
    decode_hang_s: float = _setting(10, _number(1, 600), "Seconds after which a decoding call counts as hung.")
    health_memory_degraded: float = _setting(
        0.75, _number(0, 1), "Share of the machine's memory in use that makes /health degraded."
    )
    health_memory_unhealthy: float = _setting(
        0.90, _number(0, 1), "Share of the machine's memory in use that makes /health unhealthy."
    )

    @property
    def model_path(self) -> Path:
        """The recogniser's model: VOSK_MODEL_PATH, else where `trio-stt models install LANGUAGE` puts it."""
        if self.vosk_model_path is not None:
            return self.vosk_model_path
        return self.models_dir / ("vosk-model" if self.language == "en" else f"vosk-model-{self.language}")

    @property
    def records_folder(self) -> Path | None:
        """Where `trio_stt.recognition.model_record` keeps its files; None: nowhere."""
        if self.cache_dir.lower() == "off":
            return None
        if self.cache_dir:
            return Path(self.cache_dir).expanduser()
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return None if home.startswith("~") else Path(home) / "trio-stt"  # a user without a home


def load(environment: Mapping[str, str] | None = None, env_file: Path | None = None) -> Settings:
    """Reads the settings from `environment` (default: the process's) and, below it, `env_file` (default: ``.env``).

    Empty variables count as unset. Raises `SettingsError` naming the variable and the file it stands in.
    """
    process = os.environ if environment is None else environment
    file = Path(ENV_FILE) if env_file is None else env_file
    try:
        from_file = {name: value for name, value in dotenv_values(file).items() if value}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}") from error
    from_process = {name: value for name, value in process.items() if value}
    values = {**from_file, **from_process}
    found: dict[str, Any] = {}
    for field in attrs.fields(Settings):  # type: ignore[arg-type]  # environ-config's decorator is not typed
        name = field.name.upper()
        if name not in values:
            continue
        try:
            found[field.name] = field.converter(values[name]) if callable(field.converter) else values[name]
        except ValueError as error:
            where = "the environment" if name in from_process else str(file)
            if name in SECRETS:  # nor may the traceback hold what was wrong
                raise SettingsError(f"{name} (in {where}) is not {error}") from None
            raise SettingsError(f"{name}={values[name]!r} (in {where}) is not {error}") from error
    return Settings(**found)
