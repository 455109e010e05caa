"""That an accepted read changes nothing: a differential oracle over five engines, and a table over all kinds."""
