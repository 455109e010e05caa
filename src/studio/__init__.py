"""Studio Connectors: register external systems once, let agents use them, show them no credential."""

__version__ = "0.1.0"
