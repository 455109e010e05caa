"""The provider `azure_blob`: its class is in `provider.py`, the other modules are its own."""
