"""The provider `mysql`: its class is in `provider.py`, the other modules are its own."""
