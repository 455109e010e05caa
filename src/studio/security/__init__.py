"""Identity, sealing, policy and egress."""
