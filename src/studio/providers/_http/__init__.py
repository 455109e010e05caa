"""The HTTP client of the api family: `rest`, `graphql` and `soap` share it."""
