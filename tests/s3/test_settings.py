"""How the plugin is found, set up and given its keys."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy
import pytest
import syncd_s3
from aiobotocore.credentials import AioCredentials
from pydantic import ValidationError
from syncd_s3 import S3Settings
from syncd_s3.credentials import Credentials
from syncd_s3.store import S3Store

from syncd.errors import ConfigError, Denied
from syncd.store import Entry, Store
from syncd.testing.servers import Minio


@dataclass(frozen=True)
class Event:
    url: str
    settings: S3Settings


def test_the_module_is_a_plugin_with_two_hooks() -> None:
    manager = pluggy.PluginManager("syncd")
    manager.register(syncd_s3)
    callers = manager.get_hookcallers(manager.get_plugins().pop())
    assert {caller.name for caller in callers or ()} == {"open_store", "settings"}


async def test_the_hook_opens_s3_urls_only(bucket: str) -> None:
    assert await syncd_s3.open_store(Event("file:///tmp", S3Settings())) is None
    store = await syncd_s3.open_store(Event(f"s3://{bucket}", S3Settings()))
    assert isinstance(store, Store)
    await store.aclose()


def test_every_setting_has_a_line_of_help() -> None:
    assert all(
        field.description and "\n" not in field.description for field in syncd_s3.settings().model_fields.values()
    )


def test_loading_the_plugin_imports_no_client() -> None:
    code = "import sys, syncd_s3; print(sorted({'aiobotocore', 'botocore', 'aiohttp'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import botocore.auth; "])
def test_whoever_imported_botocore_first_signs_without_crt_and_the_trainers_environment_is_as_it_was(
    before: str,
) -> None:
    code = (
        f"{before}import os, syncd_s3.store; from botocore.auth import AUTH_TYPE_MAPS;"
        "print({AUTH_TYPE_MAPS[name].__module__ for name in ('v4', 's3v4', 's3v4-query')},"
        " os.environ.get('BOTO_DISABLE_CRT'))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "{'syncd_s3.clock'} None\n"


async def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("syncd_s3.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match="pip install"):
        await syncd_s3.open_store(Event("s3://bucket", S3Settings()))


async def url_of(settings: S3Settings, url: str = "s3://bucket/p") -> str:
    """The URL of a request that is signed and then not sent."""
    sent: list[str] = []

    class Enough(Exception):
        pass

    def stop(request: Any, **_: Any) -> None:
        sent.append(request.url)
        raise Enough

    from syncd_s3.client import Client

    client = await Client.connect("bucket", settings)
    client.events.register("before-send.s3", stop)
    with pytest.raises(Enough):
        await client.call("get_object", "", Key="p/x")
    await client.aclose()
    return sent[0]


@pytest.mark.parametrize(
    ("endpoint", "addressing", "expected"),
    [
        (None, "auto", "https://bucket.s3.eu-north-1.amazonaws.com/p/x"),
        (None, "path", "https://s3.eu-north-1.amazonaws.com/bucket/p/x"),
        ("http://127.0.0.1:9000", "auto", "http://127.0.0.1:9000/bucket/p/x"),
        ("http://localhost", "auto", "http://localhost/bucket/p/x"),
        ("https://s3.example.com", "virtual", "https://bucket.s3.example.com/p/x"),
        ("https://s3.example.com:9000", "virtual", "https://bucket.s3.example.com:9000/p/x"),
        ("https://s3.example.com", "path", "https://s3.example.com/bucket/p/x"),
    ],
)
async def test_the_bucket_stands_where_the_setting_says(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, addressing: Any, expected: str
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    settings = S3Settings(s3_endpoint_url=endpoint, s3_addressing=addressing, s3_region="eu-north-1")
    assert await url_of(settings) == expected


async def test_the_endpoint_is_read_where_botocore_reads_it_and_the_setting_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://special:2")
    assert await url_of(S3Settings()) == "http://special:2/bucket/p/x"
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    assert await url_of(S3Settings()) == "http://general:1/bucket/p/x"
    assert await url_of(S3Settings(s3_endpoint_url="http://ours:3")) == "http://ours:3/bucket/p/x"


async def test_the_region_comes_from_the_setting_or_either_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert ".eu-west-1." in await url_of(S3Settings())
    assert ".eu-west-2." in await url_of(S3Settings(s3_region="eu-west-2"))
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert ".eu-west-3." in await url_of(S3Settings())


@pytest.mark.slow
async def test_virtual_hosts_on_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    original = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        local = isinstance(host, str) and host.endswith("s3.test")
        return original("127.0.0.1" if local else host, *args, **kwargs)

    with Minio(tmp_path / "minio", domain="s3.test") as server:
        server.make_bucket("bucket")
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        endpoint = f"http://s3.test:{server.port}"
        store = await S3Store.open("s3://bucket/p", S3Settings(s3_endpoint_url=endpoint, s3_addressing="virtual"))
        await store.put("t/ü x", b"1")
        assert await store.list("t/") == [Entry("t/ü x", 1)]
        await store.aclose()


@pytest.fixture
def key_files(minio: Minio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Files with the right keys, and the environment that names them."""
    paths = tmp_path / "id", tmp_path / "secret"
    for path, name in zip(paths, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), strict=True):
        path.write_text(os.environ[name] + "\n")
        monkeypatch.delenv(name)
        monkeypatch.setenv(f"{name}_FILE", str(path))
    return paths


async def test_keys_from_files_are_read_again_when_they_change(key_files: tuple[Path, Path], bucket: str) -> None:
    good = key_files[1].read_text()
    store = await S3Store.open(f"s3://{bucket}", S3Settings())
    key_files[1].write_text("something else")
    with pytest.raises(Denied, match="secret"):
        await store.put("x", b"1")
    new = key_files[1].with_name("new")
    new.write_text(good)
    new.replace(key_files[1])
    await store.put("x", b"1")
    key_files[1].unlink()
    with pytest.raises(Denied, match=f"credentials cannot be had.*{key_files[1].name}"):
        await store.put("x", b"1")
    await store.aclose()


async def test_keys_that_were_rotated_under_a_running_store_are_transient_once(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore reads a profile's file once; a refusal makes us read it again."""
    keys = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    profile = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    text = "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    profile.write_text(text.format(*keys))
    store = await S3Store.open(f"s3://{bucket}", S3Settings())
    inner = store.client.credentials
    first = await inner.get_frozen_credentials()
    profile.write_text(text.format("AKIAOUTDATED0000", "old"))
    assert await inner.changed(first)
    assert await inner.changed(first), "who asks later, of the same keys, hears the same"
    assert not await inner.changed(await inner.get_frozen_credentials())
    inner.worked()
    profile.write_text(text.format(*keys))
    refused = await asyncio.gather(*(store.put("x", b"1") for _ in range(8)), return_exceptions=True)
    assert [type(error) for error in refused if error] and not any(isinstance(error, Denied) for error in refused)
    assert any("renewed" in str(error) for error in refused)
    await store.put("x", b"1")
    await store.aclose()


async def test_an_expired_token_with_no_newer_one_is_denied(canned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-that-is-secret")
    canned.say(400, "ExpiredToken")
    with pytest.raises(Denied, match="expired") as caught:
        await S3Store.open("s3://bucket", S3Settings(s3_endpoint_url=canned.endpoint))
    assert "secret" not in str(caught.value)


async def test_small_requests_are_not_held_up_by_each_other_s_time_out(store: S3Store) -> None:
    """More requests than connections wait before their time-out begins, not while it runs."""
    await asyncio.gather(*(store.put(f"t/{n}", b"x") for n in range(100)))
    assert len(await store.list("t/")) == 100


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "-1"])
def test_a_time_out_is_a_number_of_seconds(seconds: str) -> None:
    with pytest.raises(ValidationError):
        S3Settings.model_validate({"s3_timeout": seconds})


async def test_a_source_that_makes_new_keys_each_time_is_believed_once() -> None:
    """As a role does, against an endpoint that knows none of its keys."""
    made = 0

    async def mint() -> Any:
        nonlocal made
        made += 1
        return AioCredentials(f"AKIA{made}", "secret")

    keys = Credentials(mint)
    assert await keys.changed(await keys.get_frozen_credentials())
    assert not await keys.changed(await keys.get_frozen_credentials())
    keys.worked()
    assert await keys.changed(await keys.get_frozen_credentials())
