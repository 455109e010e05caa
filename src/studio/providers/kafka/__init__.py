"""The provider `kafka`: its class is in `provider.py`, the other modules are its own."""
