"""The servers of these tests."""

from tests.providers.conftest import *  # noqa: F403
