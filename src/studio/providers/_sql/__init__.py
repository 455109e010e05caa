"""What the providers of SQL servers share: `postgresql` and `mysql`."""
