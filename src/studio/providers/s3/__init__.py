"""The provider `s3`: its class is in `provider.py`, the other modules are its own."""
