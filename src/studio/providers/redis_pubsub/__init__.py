"""The provider `redis_pubsub`: its class is in `provider.py`, the other modules are its own."""
