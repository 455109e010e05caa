"""`:name` parameters are found in SQL itself, and nowhere that a database reads as text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.contract.sql import MAX_TEXT, POSTGRESQL, SQLITE, Dialect, parse
from studio.errors import InvalidRequest

BOTH = [POSTGRESQL, SQLITE]
HIDDEN = {
    "a string": "SELECT ':x'",
    "a string with doubled quotes": "SELECT 'it''s :x'",
    "an empty string, then a string": "SELECT '' || ':x'",
    "a quoted name": 'SELECT ":x" FROM t',
    "a quoted name with doubled quotes": 'SELECT "a"":x" FROM t',
    "a line comment": "SELECT 1 -- :x",
    "a line comment that a quote cannot open": "SELECT 1 -- it's\n",
    "a block comment": "SELECT /* :x */ 1",
    "a block comment over lines": "SELECT /* a\n:x\n*/ 1",
    "a block comment that holds a quote": "SELECT /* ' */ 1 /* ' :x */",
    "a number slice": "SELECT a[1:2]",
    "a time": "SELECT 12:30",
    "a colon alone": "SELECT 1 : 2",
}
HIDDEN_IN_POSTGRESQL = {
    "an escape string": r"SELECT E'\':x'",
    "an escape string with a backslash at its end": r"SELECT e'a\\' || ':x'",
    "a cast": "SELECT x::int",
    "a cast of a string": "SELECT '1'::x",
    "two casts": "SELECT 1::x::y",
    "a named argument": "SELECT f(a := 1)",
    "a dollar quote": "SELECT $$ :x $$",
    "a tagged dollar quote": "SELECT $a$ :x $$ :y $b$ :z $a$",
    "a nested comment": "SELECT /* a /* :x */ :y */ 1",
    "a name that holds dollars": "SELECT a$b$ FROM t",
    "a slice between names": "SELECT a[lo:hi]",
    "a unicode string": r"SELECT U&'\0441:x'",
}
HIDDEN_IN_SQLITE = {
    "a backquoted name": "SELECT `:x` FROM t",
    "a bracketed name": "SELECT [:x] FROM t",
    "a backslash before the closing quote": r"SELECT '\' || ':x'",
}


def _named(table: dict[str, str]) -> list[object]:
    return [pytest.param(text, id=name) for name, text in table.items()]


@pytest.mark.parametrize("dialect", BOTH, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("text", _named(HIDDEN))
def test_a_colon_in_text_is_left_alone_by_every_dialect(text: str, dialect: Dialect) -> None:
    found = parse(text, dialect)
    assert (found.text, found.names) == (text, ())


@pytest.mark.parametrize("text", _named(HIDDEN_IN_POSTGRESQL))
def test_postgresql_hides_what_only_it_reads_as_text(text: str) -> None:
    found = parse(text, POSTGRESQL)
    assert (found.text, found.names) == (text, ())


@pytest.mark.parametrize("text", _named(HIDDEN_IN_SQLITE))
def test_sqlite_hides_what_only_it_reads_as_text(text: str) -> None:
    found = parse(text, SQLITE)
    assert (found.text, found.names) == (text, ())


@pytest.mark.parametrize(
    ("text", "expected", "names"),
    [
        ("SELECT :x", "SELECT $1", ("x",)),
        (":x", "$1", ("x",)),
        ("SELECT :b, :a, :b", "SELECT $1, $2, $1", ("b", "a")),
        ("SELECT :x::int", "SELECT $1::int", ("x",)),
        ("SELECT (:x)::int[]", "SELECT ($1)::int[]", ("x",)),
        ("SELECT a -> :key ->> :k2", "SELECT a -> $1 ->> $2", ("key", "k2")),
        ("SELECT a ?| :keys", "SELECT a ?| $1", ("keys",)),
        ("SELECT a @> :doc", "SELECT a @> $1", ("doc",)),
        ("SELECT a[:i]", "SELECT a[$1]", ("i",)),
        ("SELECT ':a' || :a -- :a", "SELECT ':a' || $1 -- :a", ("a",)),
        ("SELECT /* :a */ :b", "SELECT /* :a */ $1", ("b",)),
        ("SELECT $$:a$$, :b", "SELECT $$:a$$, $1", ("b",)),
        ("SELECT f(a := :b)", "SELECT f(a := $1)", ("b",)),
        ("SELECT 'x':a", "SELECT 'x'$1", ("a",)),
        ("SELECT typee'a', :b", "SELECT typee'a', $1", ("b",)),
        (r"SELECT notE'\' || :b", r"SELECT notE'\' || $1", ("b",)),
        ("SELECT :_a1", "SELECT $1", ("_a1",)),
    ],
)
def test_parameters_become_numbered_placeholders(text: str, expected: str, names: tuple[str, ...]) -> None:
    found = parse(text, POSTGRESQL)
    assert (found.text, found.names) == (expected, names)


def test_sqlite_comments_do_not_nest() -> None:
    assert parse("SELECT /* a /* b */ :x", SQLITE).names == ("x",)
    with pytest.raises(InvalidRequest, match="comment"):
        parse("SELECT /* a /* b */ :x", POSTGRESQL)


@pytest.mark.parametrize(
    "text",
    ["SELECT 'a", 'SELECT "a', "SELECT /* a", "SELECT $$ a", "SELECT $t$ a $$", "SELECT 'a''", "SELECT /* /* */"],
)
def test_text_that_does_not_end_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="does not end") as caught:
        parse(text, POSTGRESQL)
    assert caught.value.fields[0].field == "query"


@pytest.mark.parametrize("text", ["", "  \n\t", "SELECT '\x00'", "x" * (MAX_TEXT + 1)])
def test_empty_overlong_and_nul_text_is_refused_before_it_is_parsed(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text, POSTGRESQL)
    assert caught.value.fields[0].field == "query"
    assert "x" * 100 not in caught.value.message


@pytest.mark.parametrize(
    "piece",
    [
        "(", "/*", "'", "''", "$a$", ":a ", "E'\\", "--\n", "a:", "`", "OR 1=1 ",
        "[",
    ],
)  # fmt: skip
def test_hostile_text_of_the_greatest_length_is_judged_quickly(piece: str) -> None:
    text = (piece * MAX_TEXT)[:MAX_TEXT]
    start = time.perf_counter()
    for dialect in BOTH:
        try:
            parse(text, dialect)
        except InvalidRequest:
            continue
    assert time.perf_counter() - start < 1.0


# -- properties ---------------------------------------------------------------------------------

NOISE = st.text(alphabet="ab :x'\"\\$-*/\n;[]`()1,{}", max_size=14)


def _string(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _line(text: str) -> str:
    return "--" + text.replace("\n", " ") + "\n"


def _block(text: str) -> str:
    return "/*" + text.replace("*", "").replace("/", "") + "*/"


def _nested(text: str) -> str:
    return f"/* :x {_block(text)} {text.replace('*', '').replace('/', '')} */"


def _dollar(text: str) -> str:
    return f"$q${text.replace('$', '')}$q$"


def _escape(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _backquoted(text: str) -> str:
    return "`" + text.replace("`", "``") + "`"


COMMON = [_string, _name, _line, _block]
HIDERS = {"postgresql": [*COMMON, _nested, _dollar, _escape], "sqlite": [*COMMON, _backquoted]}


@pytest.mark.parametrize("dialect", BOTH, ids=lambda dialect: dialect.name)
@given(data=st.data())
def test_nothing_inside_of_text_is_ever_a_parameter(dialect: Dialect, data: st.DataObject) -> None:
    """Pieces that a database reads as text, with true parameters in between: only those are found."""
    hiders = HIDERS[dialect.name]
    pieces = data.draw(st.lists(st.tuples(st.sampled_from(hiders), NOISE, st.sampled_from("pqr")), max_size=6))
    given_text, expected, names = "SELECT", "SELECT", []
    for hide, noise, name in pieces:
        if name not in names:
            names.append(name)
        hidden = hide(noise)
        given_text += f" {hidden} , :{name}"
        expected += f" {hidden} , {dialect.placeholder(names.index(name) + 1)}"
    found = parse(given_text, dialect)
    assert (found.text, found.names) == (expected, tuple(names))


@given(NOISE)
def test_text_without_a_parameter_comes_back_as_it_was(noise: str) -> None:
    for dialect in BOTH:
        try:
            found = parse(noise, dialect)
        except InvalidRequest:
            continue
        if not found.names:
            assert found.text == noise


# -- binding ------------------------------------------------------------------------------------


def test_values_are_bound_in_the_order_of_their_numbers() -> None:
    assert parse("SELECT :b, :a, :b", POSTGRESQL).bind({"a": 1, "b": None}) == [None, 1]
    assert parse("SELECT 1", POSTGRESQL).bind(None) == []
    assert parse("SELECT 1", POSTGRESQL).bind({}) == []


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"params\.a is missing") as caught:
        parse("SELECT :a, :b", POSTGRESQL).bind({"b": 1})
    assert [entry.field for entry in caught.value.fields] == ["params.a"]


def test_a_parameter_that_the_statement_does_not_have_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"params\.c is not used") as caught:
        parse("SELECT :a", POSTGRESQL).bind({"a": 1, "c": "hidden-value"})
    assert [entry.field for entry in caught.value.fields] == ["params.c"]
    assert "hidden-value" not in caught.value.message


def test_a_parameter_that_stands_only_in_a_comment_is_not_wanted() -> None:
    with pytest.raises(InvalidRequest, match="not used"):
        parse("SELECT 1 -- :a", POSTGRESQL).bind({"a": 1})


def test_a_monstrous_parameter_name_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("SELECT 1", POSTGRESQL).bind({"n" * 10_000: 1})
    assert len(caught.value.message) < 200


def test_a_mark_of_the_driver_cannot_take_a_parameters_value() -> None:
    with pytest.raises(InvalidRequest, match=":name"):
        parse("SELECT $1, :a", POSTGRESQL)
    assert parse("SELECT '$1', a$1, $$ $1 $$, :a", POSTGRESQL).names == ("a",)


def test_a_line_comment_ends_where_postgresql_ends_it() -> None:
    assert parse("SELECT 1 -- x\r, :a", POSTGRESQL).names == ("a",)
    assert parse("SELECT 1 -- x\r, :a", SQLITE).names == ()
