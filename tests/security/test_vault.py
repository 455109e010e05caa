"""A sealed value opens in its own place, for its own destination, with its own key; and nowhere else."""

from __future__ import annotations

import base64
import itertools
import json
from dataclasses import replace

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from studio.errors import EncryptionError
from studio.models import Sealed
from studio.security.vault import Place, Vault, new_key

CANARY = "c4n4ry-v4lu3"
KEY = new_key()
VAULT = Vault([KEY])
PLACE = Place("acme", "row-1", "config", 1)


def places() -> list[Place]:
    """Fifty places that differ in one part or in several."""
    return [
        Place(organization, row, field, generation)
        for organization in ("acme", "beta")
        for row in ("1", "2", "3", "4", "5")
        for field in ("config", "override")
        for generation in (1, 2, 11)
    ][:50]


def test_a_value_opens_in_its_own_place() -> None:
    sealed = VAULT.seal(PLACE, {"host": "db"}, {"password": CANARY, "auth.token": "t"}, "here")
    assert VAULT.open(PLACE, sealed) == ({"host": "db"}, ["auth.token", "password"])
    assert VAULT.release(PLACE, sealed, "here") == {"password": CANARY, "auth.token": "t"}


@given(st.dictionaries(st.text(), st.text() | st.integers()), st.dictionaries(st.text(), st.text()))
def test_whatever_was_sealed_comes_back(public: dict[str, object], secrets: dict[str, str]) -> None:
    sealed = VAULT.seal(PLACE, public, secrets, "here")
    assert VAULT.open(PLACE, sealed) == (public, sorted(secrets))
    assert VAULT.release(PLACE, sealed, "here") == secrets


def test_no_pair_of_fifty_sealed_values_can_be_swapped() -> None:
    sealed = {place: VAULT.seal(place, {"row": str(place)}, {"password": CANARY}, "d") for place in places()}
    assert len(sealed) == 50
    for mine, other in itertools.permutations(sealed, 2):
        with pytest.raises(EncryptionError):
            VAULT.open(mine, sealed[other])
        with pytest.raises(EncryptionError):
            VAULT.release(mine, sealed[other], "d")


def test_the_place_is_checked_inside_of_the_token_too() -> None:
    """A token under the right key that names another place: the second belt holds by itself."""
    sealed = VAULT._encrypt(VAULT.key_id, PLACE.info(), {"public": {}, "names": [], "secrets": None})
    fernet = VAULT._fernet(VAULT.key_id, PLACE.info())
    payload = json.loads(fernet.decrypt(sealed.encode()))
    payload["place"] = replace(PLACE, row_id="row-2").info().decode()
    forged = Sealed(fernet.encrypt(json.dumps(payload).encode()).decode(), VAULT.key_id)
    with pytest.raises(EncryptionError, match="another place"):
        VAULT.open(PLACE, forged)


def test_parts_of_a_place_cannot_run_into_each_other() -> None:
    twins = [
        Place("a", "bc", "d", 1),
        Place("ab", "c", "d", 1),
        Place('a","b', "c", "d", 1),
        Place("a", 'b","c', "d", 1),
    ]
    assert len({twin.info() for twin in twins}) == 4


def test_an_older_generation_put_back_does_not_open() -> None:
    old = VAULT.seal(PLACE, {}, {"password": CANARY}, "d")
    with pytest.raises(EncryptionError):
        VAULT.open(replace(PLACE, generation=2), old)


def test_a_changed_destination_shows_the_config_and_keeps_the_secrets_shut() -> None:
    sealed = VAULT.seal(PLACE, {"host": "db"}, {"password": CANARY}, "db:5432")
    assert VAULT.open(PLACE, sealed)[1] == ["password"]
    with pytest.raises(EncryptionError):
        VAULT.release(PLACE, sealed, "sink:5432")


def test_the_secrets_of_one_place_do_not_open_as_anothers() -> None:
    """The inner token alone, moved into another row's outer token of the same destination."""
    ours = VAULT.seal(PLACE, {}, {"password": CANARY}, "d")
    inner = VAULT._decrypt(ours.key_id, PLACE.info(), ours.token)["secrets"]
    there = replace(PLACE, row_id="row-2")
    outer = VAULT._encrypt(VAULT.key_id, there.info(), {"public": {}, "names": ["password"], "secrets": inner})
    with pytest.raises(EncryptionError):
        VAULT.release(there, Sealed(outer, VAULT.key_id), "d")


@pytest.mark.parametrize("position", [0, 1, 9, 20, 60, -40, -1])
def test_a_changed_byte_is_noticed(position: int) -> None:
    sealed = VAULT.seal(PLACE, {"host": "db"}, {"password": CANARY}, "d")
    raw = bytearray(base64.urlsafe_b64decode(sealed.token))
    raw[position] ^= 1
    with pytest.raises(EncryptionError):
        VAULT.open(PLACE, Sealed(base64.urlsafe_b64encode(bytes(raw)).decode(), sealed.key_id))


@pytest.mark.parametrize("token", ["", "x", "gAAAAA", "é", "\x00", "null", "{}"])
def test_what_is_no_token_is_an_encryption_error(token: str) -> None:
    with pytest.raises(EncryptionError):
        VAULT.open(PLACE, Sealed(token, VAULT.key_id))


def test_a_token_holds_no_plain_text_and_looks_different_each_time() -> None:
    first, second = (VAULT.seal(PLACE, {"host": CANARY}, {"password": CANARY}, CANARY) for _ in range(2))
    assert first.token != second.token
    for token in (first.token, second.token):
        raw = base64.urlsafe_b64decode(token)
        assert CANARY.encode() not in raw
        assert CANARY not in token
        assert base64.b64encode(CANARY.encode()).decode().rstrip("=") not in token


def test_nothing_shows_a_key_or_a_token_by_accident() -> None:
    sealed = VAULT.seal(PLACE, {}, {"password": CANARY}, "d")
    said = f"{VAULT!r} {VAULT} {sealed!r} {sealed} {[VAULT, sealed]}"
    assert KEY not in said
    assert sealed.token not in said
    assert CANARY not in said
    assert VAULT.key_id in said


# -- several keys -------------------------------------------------------------------------------


def test_the_newest_key_writes_and_the_older_ones_still_read() -> None:
    old, new = new_key(), new_key()
    before = Vault([old]).seal(PLACE, {"host": "db"}, {"password": CANARY}, "d")
    both = Vault([new, old])
    assert both.release(PLACE, before, "d") == {"password": CANARY}
    after = both.seal(PLACE, {}, {}, "d")
    assert after.key_id == both.key_id == Vault([new]).key_id != before.key_id
    assert Vault([new]).open(PLACE, after) == ({}, [])


def test_a_key_that_is_gone_is_named_by_its_id_and_what_to_do_is_said() -> None:
    sealed = VAULT.seal(PLACE, {}, {}, "d")
    with pytest.raises(EncryptionError, match=f"{sealed.key_id} is not configured.*STUDIO_ENCRYPTION_KEYS") as caught:
        Vault([new_key()]).open(PLACE, sealed)
    assert KEY not in str(caught.value)


def test_a_row_that_names_the_wrong_key_does_not_open() -> None:
    old, new = new_key(), new_key()
    both = Vault([new, old])
    sealed = both.seal(PLACE, {}, {}, "d")
    with pytest.raises(EncryptionError):
        both.open(PLACE, replace(sealed, key_id=Vault([old]).key_id))


def test_the_canary_tells_the_right_key_from_a_wrong_one() -> None:
    canary = VAULT.canary()
    VAULT.check_canary(canary)
    Vault([new_key(), KEY]).check_canary(canary)
    other = Vault([new_key()])
    for wrong in (canary, replace(canary, key_id=other.key_id)):
        with pytest.raises(EncryptionError):
            other.check_canary(wrong)


def test_a_key_id_is_stable_and_tells_nothing_of_the_key() -> None:
    assert Vault([KEY]).key_id == VAULT.key_id
    raw = base64.urlsafe_b64decode(KEY)
    assert VAULT.key_id not in raw.hex()
    assert len(VAULT.key_id) == 16


# -- weak and malformed keys (attack 70) --------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "",
        " ",
        "changeme",
        "secret",
        "0" * 44,
        "A" * 43 + "=",
        base64.urlsafe_b64encode(b"a" * 32).decode(),
        base64.urlsafe_b64encode(b"0123456789abcdef"[:15] * 2 + b"01").decode(),
        base64.urlsafe_b64encode(b"password" * 4).decode(),
        base64.urlsafe_b64encode(bytes(range(31))).decode(),
        base64.urlsafe_b64encode(bytes(range(33))).decode(),
        KEY[:-1],
        KEY[:-2] + "é=",
        KEY + KEY,
        KEY[:10] + "\n" + KEY[10:],
    ],
)
def test_a_weak_or_malformed_key_is_refused_and_not_repeated(key: str) -> None:
    for keys in ([key], [KEY, key]):
        with pytest.raises(EncryptionError) as caught:
            Vault(keys)
        assert not key.strip() or key not in str(caught.value)


def test_no_key_at_all_is_refused() -> None:
    with pytest.raises(EncryptionError, match="no encryption key"):
        Vault([])


def test_a_new_key_is_a_fernet_key_and_always_another_one() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        Fernet(key)
        Vault([f" {key}\n"])
