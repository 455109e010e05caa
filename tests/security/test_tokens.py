"""API keys: 256 random bits, shown once, kept as a hash."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.security import tokens


def test_a_key_has_a_look_up_prefix_and_256_random_bits() -> None:
    token = tokens.new_token()
    assert tokens.prefix_of(token.text) == token.prefix
    secret = token.text.removeprefix(f"studio_{token.prefix}_")
    assert len(base64.urlsafe_b64decode(secret + "=")) == 32


def test_no_two_keys_are_alike() -> None:
    made = [tokens.new_token() for _ in range(200)]
    assert len({token.text for token in made}) == len({token.prefix for token in made}) == 200


def test_only_the_hash_is_for_the_store() -> None:
    token = tokens.new_token()
    assert token.digest == hashlib.sha256(token.text.encode()).hexdigest()
    assert token.text not in f"{token!r} {token}"


def test_a_key_matches_its_own_hash_and_no_other() -> None:
    ours, other = tokens.new_token(), tokens.new_token()
    assert tokens.matches(ours.text, ours.digest)
    assert not tokens.matches(ours.text, other.digest)
    assert not tokens.matches(other.text, ours.digest)
    assert not tokens.matches(ours.text, "")


def test_hashes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda left, right: asked.append((left, right)) or left == right)
    token = tokens.new_token()
    assert tokens.matches(token.text, token.digest)
    assert asked == [(token.digest, token.digest)]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "x",
        lambda text: text.upper(),
        lambda text: f" {text}",
        lambda text: f"{text}\n",
        lambda text: text.replace("studio_", "other_"),
        lambda text: text.replace("_", "-", 1),
        lambda text: text[:-1] + "é",
        lambda text: text[:-1] + "\x00",
    ],
)
def test_what_is_not_formed_like_a_key_has_no_prefix(change: object) -> None:
    assert callable(change)
    assert tokens.prefix_of(change(tokens.new_token().text)) is None


@given(st.text())
def test_no_text_breaks_the_reading_of_a_key(text: str) -> None:
    assert tokens.prefix_of(text) is None
