"""AWS below the protocols: keys, roles, botocore without an environment, and its errors."""
