"""The provider `minio`: its class is in `provider.py`, the other modules are its own."""
