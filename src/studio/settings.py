"""Every setting, read from `STUDIO_*` environment variables, once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_KEY_SERVICE = re.compile(r"vault:[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)+|aws-kms:[A-Za-z0-9:/_-]{1,2048}")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,100}")  # RFC 6749, section 3.3


def is_safe_url(text: str) -> bool:
    """Whether a URL keeps what it carries to itself: https, or http on this machine; no user, query or fragment."""
    try:
        parts = urlsplit(text)
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    except ValueError:
        return False
    return secure and bool(parts.hostname) and not (set("@?#\\") & set(text)) and text.isprintable()


class Settings(BaseSettings):
    """The service's settings. Lists are comma separated. Nothing has to be set."""

    model_config = SettingsConfigDict(env_prefix="STUDIO_", hide_input_in_errors=True, extra="ignore")

    _variables: dict[str, str] = PrivateAttr(default_factory=dict)
    secrets_dir: Path | None = Field(
        None,
        description="Folder with one file a setting, such as STUDIO_ENCRYPTION_KEYS; the environment wins over it.",
    )
    data_dir: Path = Field(
        default_factory=lambda: Path.home() / ".studio", description="Store, key file and SQLite files."
    )
    database_url: SecretStr | None = Field(
        None, description="Empty: SQLite in the data folder. Or postgresql+asyncpg://user:password@host/name."
    )
    encryption_keys: SecretStr | None = Field(
        None, description="Fernet keys, newest first. Empty: a key file of mode 0600 is made once in the data folder."
    )
    host: str = Field("127.0.0.1", description="Address that `studio serve` listens on.")
    port: int = Field(8400, ge=0, le=65_535, description="Port that `studio serve` listens on.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names that requests may be made under, beside loopback and the listening address; * for any."
    )
    sqlite_root: Path | None = Field(
        None, description="Folder below which sqlite connectors may open files. Empty: `files` in the data folder."
    )
    egress_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="CIDR[:port] that may be dialled although private."
    )
    egress_deny: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="CIDR[:port] that may not be dialled although public."
    )
    oidc_issuer: str | None = Field(None, description="OpenID provider whose access tokens are taken beside API keys.")
    oidc_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        (), validate_default=True, description="Whom a token must be made for: this service's URL, or its name there."
    )
    oidc_organization: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.:-]{1,128}$", description="Organization of every token. Empty: the claim says it."
    )
    oidc_organization_claim: str = Field("organization", description="Claim that names the organization.")
    oidc_role_claim: str = Field("role", description="Claim with the role, or with groups; a.b is b inside of a.")
    oidc_role_map: dict[str, Literal["member", "developer", "admin"]] = Field(
        {}, description='Value of the role claim to role, as JSON: {"ops": "admin"}. Empty: the roles by name.'
    )
    oidc_agent_claim: str | None = Field(None, description="Claim that makes a token an agent's own. Empty: none does.")
    oidc_scope_prefix: str | None = Field(
        None, description="With studio: a token may only do what its scopes say, such as studio:read. Empty: no limit."
    )
    vault_url: str | None = Field(
        None,
        description="OpenBao or HashiCorp Vault that `vault://` references are read from, such as https://vault:8200.",
    )
    vault_token: SecretStr | None = Field(
        None, description="Token for it; it should only be able to read, and to use the key of STUDIO_KEY_SERVICE."
    )
    vault_token_file: Path | None = Field(
        None, description="File that holds the token, in place of vault_token; read again whenever it is needed."
    )
    vault_path: str = Field(
        "secret/connectors/{organization}",
        description="`vault://` references must lie below this: the mount of a KV engine (version 2), then a path.",
    )
    kms_region: str | None = Field(None, pattern=r"^[A-Za-z0-9-]{1,64}$", description="Region of an AWS KMS key.")
    kms_access_key_id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_]{1,128}$", description="Access key that may use it, and nothing else."
    )
    kms_secret_access_key: SecretStr | None = Field(None, min_length=1, description="Its secret.")
    kms_endpoint: str | None = Field(None, description="Where AWS KMS is, if not at the region's own address.")
    key_service: str | None = Field(
        None,
        description="Wraps the encryption keys: vault:MOUNT/KEY (transit, at STUDIO_VAULT_URL) or aws-kms:KEY. Empty: "
        "they are stored as they are.",
    )
    reference_env: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Environment variables that `env://` references may name."
    )
    reference_files: Path | None = Field(None, description="Folder below which `file://` references may read files.")
    reference_ttl_s: float = Field(300, ge=0, description="A resolved reference is kept this long, seconds.")
    max_timeout_s: float = Field(300, gt=0, le=3600, description="Ceiling of every operation's deadline, seconds.")
    max_sessions: int = Field(1000, ge=1, description="Open sessions (one pool each) in this process.")
    max_waiters: int = Field(256, ge=0, description="Calls that may wait for one connector's pool.")
    session_idle_s: float = Field(300, gt=0, description="An unused session is closed after this, seconds.")
    health_interval_s: float = Field(
        60, ge=0, le=86_400, description="Seconds between two probes of an active connector. 0: none are made."
    )
    health_concurrency: int = Field(16, ge=1, le=1000, description="Probes of this process at one time.")
    health_per_organization: int = Field(4, ge=1, le=1000, description="Probes of one organization at one time.")
    secret_max_age_days: int = Field(
        0, ge=0, le=3650, description="Remind of secrets that are older and have no end of their own. 0: never."
    )
    alert_webhook_url: SecretStr | None = Field(None, description="Where alerts are posted to.")
    alert_webhook_secret: SecretStr | None = Field(
        None, description="Signs them as Standard Webhooks does: whsec_ and base64, or any text."
    )
    alert_email_to: Annotated[tuple[str, ...], NoDecode] = Field((), description="Whom alerts are mailed to.")
    alert_email_from: str = Field("studio-connectors@localhost", description="Sender of these mails.")
    smtp_url: SecretStr | None = Field(
        None, description="smtp://user:password@host:587 (STARTTLS) or smtps://user:password@host:465."
    )
    alert_plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Further channels, by the names under which installed packages offer them (studio.alerts)."
    )
    confirm_delete: Literal["running", "attached", "never"] = Field(
        "running",
        description="Deleting asks for the token of its preview while operations run (running), or as soon as an agent "
        "has the connector (attached).",
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest request body that is read.")
    body_timeout_s: float = Field(30, gt=0, le=3600, description="Time in which a request body must arrive, seconds.")
    rate_limit_per_s: float = Field(
        1000, ge=0, description="Calls a second of one key, with bursts of 5 s, in each process. 0: no limit."
    )
    organization_rate_limit_per_s: float = Field(
        3000, ge=0, description="Calls a second of all keys of an organization together. 0: no limit."
    )
    failed_login_limit_per_s: float = Field(
        10, ge=0, description="Failed authentications a second of one address, with bursts of 100. 0: no limit."
    )

    @field_validator(
        "allowed_hosts",
        "alert_email_to",
        "alert_plugins",
        "egress_allow",
        "egress_deny",
        "oidc_audience",
        "reference_env",
        mode="before",
    )
    @classmethod
    def _commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the files of `secrets_dir`; a folder that is not there is refused."""
        folder = os.environ.get("STUDIO_SECRETS_DIR")
        if folder and Path(folder).is_dir():
            return init_settings, env_settings, SecretsSettingsSource(settings_cls, folder)
        return init_settings, env_settings

    @field_validator("secrets_dir")
    @classmethod
    def _is_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("must be a folder that this process can read")
        return value

    @field_validator(
        "oidc_issuer", "oidc_organization", "oidc_agent_claim", "oidc_scope_prefix", "key_service", mode="before"
    )
    @classmethod
    def _empty(cls, value: object) -> object:
        return value or None

    @field_validator("oidc_issuer", "vault_url", "kms_endpoint")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        if value is not None and not is_safe_url(value):
            raise ValueError("must be an https URL (http on loopback only) without user name, query or fragment")
        return value

    @field_validator("oidc_audience")
    @classmethod
    def _some_audience(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.data.get("oidc_issuer") and not value:
            raise ValueError("must be given with STUDIO_OIDC_ISSUER: a token for another service opens nothing here")
        return value

    @field_validator("key_service")
    @classmethod
    def _usable(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if not _KEY_SERVICE.fullmatch(value):
            raise ValueError("must be vault:MOUNT/KEY or aws-kms:KEY, with the key's id, alias/NAME or ARN")
        kms = ("kms_region", "kms_access_key_id", "kms_secret_access_key")
        for name in ("vault_url",) if value.startswith("vault:") else kms:
            if info.data.get(name) is None:
                raise ValueError(f"needs STUDIO_{name.upper()}")
        return value

    @field_validator("oidc_scope_prefix")
    @classmethod
    def _scope(cls, value: str | None) -> str | None:
        if value is not None and not _SCOPE.fullmatch(value):
            raise ValueError("must be printable ASCII without spaces, quotes and backslashes")
        return value

    def model_post_init(self, _context: object) -> None:
        """Take the variables that `env://` references may name; the program may drop them after its start."""
        self._variables = {name: os.environ[name] for name in self.reference_env if name in os.environ}

    def variable(self, name: str) -> str | None:
        """The value that a variable of `reference_env` had when the settings were read."""
        return self._variables.get(name)

    @classmethod
    def secret_variables(cls) -> frozenset[str]:
        """The environment's names of the settings that are secrets."""
        prefix = cls.model_config.get("env_prefix", "")
        return frozenset(
            f"{prefix}{name.upper()}" for name, info in cls.model_fields.items() if "SecretStr" in str(info.annotation)
        )

    @property
    def files_root(self) -> Path:
        """The folder that `sqlite` connectors may open files below."""
        return self.sqlite_root or self.data_dir / "files"

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can reach the service (then private ranges are open by default)."""
        return self.host in LOOPBACK
