"""Configurations of the storage providers: what is taken, what is refused, and what is sealed to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from studio import providers
from studio.errors import InvalidConfig
from studio.providers import load
from studio.providers.azure_blob.text import permissions

KEYS = {"access_key_id": "AKIA", "secret_access_key": "s3cr3t"}
PEM = "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\n"
ACCOUNT = {"type": "service_account", "client_email": "a@b.iam.gserviceaccount.com", "private_key": PEM}
SAS = "sv=2024-11-04&sr=c&sp=rl&se=2030-01-01T00%3A00%3A00Z&sig=abc%2B%2F%3D"
AZURE = {"account": "acc1", "container": "box"}
KEY = "a2V5a2V5"


def parse(kind: str, **config: Any) -> Any:
    return load(kind).Config.parse(config)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("s3", {"bucket": "my.bucket-1"}),
        ("s3", {"bucket": "abc", **KEYS, "session_token": "t", "region": "eu-west-1", "path_style": False}),
        ("s3", {"bucket": "abc", "endpoint_url": "https://s3.example.com:9000/storage/v1"}),
        ("minio", {"bucket": "abc", "endpoint": "minio.local:9000", "access_key": "a", "secret_key": "b", "secure": False}),
        ("minio", {"bucket": "abc", "endpoint": "[::1]:9000"}),
        ("gcs", {"bucket": "my_bucket", "service_account": ACCOUNT}),
        ("gcs", {"bucket": "abc", "service_account": json.dumps(ACCOUNT)}),
        ("azure_blob", {**AZURE, "account_key": KEY}),
        ("azure_blob", {**AZURE, "sas_token": f"?{SAS}"}),
        ("azure_blob", {"account": "acc1", "container": "$root"}),
    ],
)  # fmt: skip
def test_a_good_config_is_taken(kind: str, config: dict[str, Any]) -> None:
    parse(kind, **config)


@pytest.mark.parametrize(
    ("kind", "config", "field"),
    [
        *(("s3", {"bucket": name}, "bucket") for name in (
            "", "ab", "UPPER", "a..b", "a/b", "a@b", "-a-", "192.168.0.1", "arn:aws:s3:::abc", "x--x-s3", "a" * 64, "a#b", "a?b",
        )),
        *(("s3", {"bucket": "abc", "region": name}, "region") for name in ("", "eu west", "x/y", "x.evil.com", "x#", "X", "-x")),
        *(("s3", {"bucket": "abc", "endpoint_url": url}, "endpoint_url") for url in (
            "ftp://x", "http://", "http://u:p@x", "http://x?y", "http://x#y", "file:///etc", "http://x/../y", "x", "http://2130706433",
            "http://0x7f.1", "http://x\\@y", "http://x y", "//x",
        )),
        ("s3", {"bucket": "abc", "access_key_id": "a"}, "access_key_id and secret_access_key"),
        ("s3", {"bucket": "abc", "secret_access_key": "a"}, "access_key_id and secret_access_key"),
        ("s3", {"bucket": "abc", "session_token": "a"}, "session_token"),
        ("s3", {"bucket": "abc", "profile": "x"}, "profile"),
        ("s3", {"bucket": "abc", "ssl_ca": "x"}, "ssl_ca"),
        *(("minio", {"bucket": "abc", "endpoint": name}, "endpoint") for name in (
            "", "http://x", "x/y", "x:0", "x:99999", "u@x", "x?y", "x y", "unix:/run/x",
        )),
        ("minio", {"bucket": "abc", "endpoint": "x", "access_key": "a"}, "access_key and secret_key"),
        *(("gcs", {"bucket": "abc", "service_account": {**ACCOUNT, "type": name}}, "type") for name in (
            "external_account", "authorized_user", "impersonated_service_account", "external_account_authorized_user",
            "gdch_service_account", "",
        )),
        ("gcs", {"bucket": "abc", "service_account": "not json"}, "service_account"),
        ("gcs", {"bucket": "abc", "service_account": "[]"}, "service_account"),
        ("gcs", {"bucket": "abc", "service_account": {**ACCOUNT, "private_key": "x"}}, "private_key"),
        ("gcs", {"bucket": "a/b"}, "bucket"),
        *(("azure_blob", {"account": name, "container": "box"}, "account") for name in ("", "a", "A-b", "x.evil.com/", "x@y", "x#yz")),
        *(("azure_blob", {"account": "acc1", "container": name}, "container") for name in ("", "a", "a--b", "A", "a/b", "a?b")),
        ("azure_blob", {**AZURE, "account_key": "not base64!"}, "account_key"),
        ("azure_blob", {**AZURE, "account_key": KEY, "sas_token": SAS}, "account_key and sas_token"),
        *(("azure_blob", {**AZURE, "sas_token": text}, "sas_token") for text in (
            "", "x", "sv=1&sp=rl", f"{SAS}&comp=list", f"{SAS}&sig=other", f"{SAS}&restype=container", "sig=a&x=y",
        )),
        *(("azure_blob", {"container": "box", "connection_string": text}, "connection_string") for text in (
            "", "x", "AccountName", "AccountName=acc1;AccountName=acc2", "AccountName=acc1;Evil=1", "UseDevelopmentStorage=true",
        )),
        ("azure_blob", {**AZURE, "connection_string": "AccountName=other;AccountKey=a2V5"}, "connection_string"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_refused_by_field_and_never_repeated(kind: str, config: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse(kind, **config)
    said = " ".join(f"{error.field} {error.message}" for error in caught.value.fields)
    assert field in said
    for value in config.values():
        assert not isinstance(value, str) or len(value) < 5 or value not in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"DefaultEndpointsProtocol=https;AccountName=acc1;AccountKey={KEY};EndpointSuffix=core.windows.net",
         {"account": "acc1", "account_key": KEY, "endpoint": None}),
        (f"AccountName=acc1;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn;",
         {"account": "acc1", "account_key": KEY, "endpoint": "https://acc1.blob.core.chinacloudapi.cn"}),
        (f"BlobEndpoint=http://127.0.0.1:10000/acc1/;AccountName=acc1;SharedAccessSignature={SAS};QueueEndpoint=http://q",
         {"account": "acc1", "sas_token": SAS, "endpoint": "http://127.0.0.1:10000/acc1"}),
    ],
)  # fmt: skip
def test_a_connection_string_is_taken_apart(text: str, expected: dict[str, Any]) -> None:
    config = parse("azure_blob", container="box", connection_string=text)
    public, secrets = config.split()
    found = {"endpoint": None, **public, **secrets}
    assert {name: found[name] for name in expected} == expected
    assert "connection_string" not in json.dumps([public, list(secrets)])


def test_of_a_service_accounts_key_only_what_is_used_is_kept() -> None:
    given = {
        **ACCOUNT,
        "token_uri": "http://evil",
        "universe_domain": "evil",
        "credential_source": {"url": "http://evil"},
    }
    public, secrets = parse("gcs", bucket="abc", service_account=given).split()
    assert "evil" not in json.dumps([public, secrets])
    assert secrets == {"service_account.private_key": PEM}
    assert public["service_account"] == {"type": "service_account", "client_email": ACCOUNT["client_email"]}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("s3", {"endpoint_url"}), ("minio", {"endpoint", "secure"}), ("gcs", {"endpoint"}), ("azure_blob", {"account", "endpoint"})],
)  # fmt: skip
def test_secrets_are_sealed_to_where_they_are_sent(kind: str, fields: set[str]) -> None:
    config = load(kind).Config
    assert set(config.destination_fields()) == fields
    assert not fields & set(config.overridable())
    assert "prefix" in config.overridable()


def test_the_rights_of_a_signature_are_read_off_it() -> None:
    assert permissions(SAS) == []
    assert permissions("sp=racwdl&sig=x") == ["write", "create", "add", "delete"]
    assert permissions("si=policy&sig=x") is None


def test_no_provider_knows_a_way_to_ambient_credentials() -> None:
    banned = re.compile(
        r"DefaultAzureCredential|azure\.identity|google\.auth|gcloud|metadata\.google|(?<!_)get_session\(|load_credentials"
        r"|InstanceMetadata|os\.environ|getenv|expanduser|Path\.home"
    )
    folder = Path(providers.__file__).parent
    modules = sorted(folder.rglob("*.py"))
    assert len(modules) > 100
    for module in modules:
        code = re.sub(r'"""(.|\n)*?"""|#.*|"[^"\n]*"', "", module.read_text())
        assert not banned.search(code), module
