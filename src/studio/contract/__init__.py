"""What the author of a provider reads. It knows nothing of HTTP, the store or organizations."""

from studio.contract.config import (
    ANY,
    BELOW,
    LOWER,
    TO_TRUE,
    Destination,
    Host,
    Overridable,
    Pem,
    Port,
    ProviderConfig,
    Secret,
    SecretPem,
    Text,
)
from studio.contract.database import DatabaseProvider, SqlProvider
from studio.contract.network import Network
from studio.contract.operation import Batch, Operation, operation
from studio.contract.probe import Probe, Stage
from studio.contract.provider import Provider
from studio.contract.values import canonical
from studio.contract.web import ApiProvider, WebConfig
from studio.models import Column, Effect, Result

__all__ = [
    "ANY",
    "BELOW",
    "LOWER",
    "TO_TRUE",
    "ApiProvider",
    "Batch",
    "Column",
    "DatabaseProvider",
    "Destination",
    "Effect",
    "Host",
    "Network",
    "Operation",
    "Overridable",
    "Pem",
    "Port",
    "Probe",
    "Provider",
    "ProviderConfig",
    "Result",
    "Secret",
    "SecretPem",
    "SqlProvider",
    "Stage",
    "Text",
    "WebConfig",
    "canonical",
    "operation",
]
