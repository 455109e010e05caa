"""Configuration of the `kafka` provider: nothing of it reaches the driver under a name that a caller chose."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, model_validator

from studio.contract import ANY, BELOW, Destination, Host, Pem, Port, ProviderConfig, Secret, Text

DEFAULT_PORT = 9092
_HOST, _PORT = TypeAdapter(Host), TypeAdapter(Port)
_FORM = "must be host:port addresses, separated by commas"


class Address(NamedTuple):
    """One broker. `host` has no brackets."""

    host: str
    port: int


def addresses(text: str) -> list[Address]:
    """The brokers that a text names. Raises ValueError."""
    found = []
    for part in text.split(","):
        host, bracket, rest = part.strip().rpartition("]")
        if not bracket:
            host, _, rest = part.strip().partition(":")
            rest = f":{rest}" if rest else ""
        number = rest.removeprefix(":")
        if rest and (not rest.startswith(":") or not number.isascii() or not number.isdigit()):
            raise ValueError(_FORM)
        found.append(
            Address(_HOST.validate_python(host.removeprefix("[")), _PORT.validate_python(int(number or DEFAULT_PORT)))
        )
    return found


def _listed(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list) and all(isinstance(part, str) for part in value) else value


def _normal(text: str) -> str:
    return ",".join(f"[{a.host}]:{a.port}" if ":" in a.host else f"{a.host}:{a.port}" for a in addresses(text))


Servers = Annotated[str, BeforeValidator(_listed), Field(min_length=1, max_length=4096), AfterValidator(_normal)]
TopicPart = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=249)]
"""What a topic's name may hold (Kafka's own rule)."""


class KafkaConfig(ProviderConfig):
    """One Kafka cluster, or the topics of it that begin with `topic_prefix`."""

    bootstrap_servers: Annotated[Servers, Destination()] = Field(
        description="Brokers to begin with: host:port, several separated by commas."
    )
    security_protocol: Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], Destination()] = Field(
        "PLAINTEXT", description="With SSL the certificate and the host name in it are always checked."
    )
    sasl_mechanism: Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None, Destination()] = Field(
        None, description="How to log in; needed with SASL_PLAINTEXT and SASL_SSL."
    )
    username: Annotated[Text | None, Destination()] = Field(None, min_length=1, description="The SASL user.")
    password: Secret | None = Field(None, description="The SASL user's password.")
    ssl_ca: Pem | None = Field(None, description="CA certificates that replace the system's, as PEM.")
    client_id: Annotated[Text, Field(min_length=1)] = Field(
        "studio-connectors", description="What the brokers' logs and quotas know this connector as."
    )
    topic_prefix: Annotated[TopicPart | None, BELOW] = Field(
        None, description="Put before every topic's name, and taken off again in answers; others cannot be reached."
    )
    group_id: Annotated[Text | None, ANY] = Field(
        None, min_length=1, description="The consumer group that receive takes messages for; it keeps the offsets."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        sasl = self.security_protocol.startswith("SASL_")
        for name in ("sasl_mechanism", "username", "password"):
            if (getattr(self, name) is not None) != sasl:
                raise ValueError(f"{name}: is needed with security_protocol SASL_SSL or SASL_PLAINTEXT, and only there")
        if self.ssl_ca and not self.tls:
            raise ValueError("ssl_ca: belongs to security_protocol SSL or SASL_SSL")
        return self

    @property
    def tls(self) -> bool:
        """Whether connections speak TLS."""
        return self.security_protocol in {"SSL", "SASL_SSL"}

    @property
    def servers(self) -> list[Address]:
        """The brokers to begin with."""
        return addresses(self.bootstrap_servers)
