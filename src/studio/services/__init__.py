"""The only door to the core: surfaces import from here and nowhere below."""
