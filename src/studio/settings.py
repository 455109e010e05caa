"""Every setting, read from `STUDIO_*` environment variables, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """The service's settings. Lists are comma separated. Nothing has to be set."""

    model_config = SettingsConfigDict(env_prefix="STUDIO_", hide_input_in_errors=True, extra="ignore")

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
    max_timeout_s: float = Field(300, gt=0, le=3600, description="Ceiling of every operation's deadline, seconds.")
    max_sessions: int = Field(1000, ge=1, description="Open sessions (one pool each) in this process.")
    max_waiters: int = Field(256, ge=0, description="Calls that may wait for one connector's pool.")
    session_idle_s: float = Field(300, gt=0, description="An unused session is closed after this, seconds.")
    max_body_bytes: int = Field(1 << 20, ge=1024, description="Largest request body that is read.")

    @field_validator("allowed_hosts", "egress_allow", "egress_deny", mode="before")
    @classmethod
    def _commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def files_root(self) -> Path:
        """The folder that `sqlite` connectors may open files below."""
        return self.sqlite_root or self.data_dir / "files"

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can reach the service (then private ranges are open by default)."""
        return self.host in {"127.0.0.1", "::1", "localhost"}
