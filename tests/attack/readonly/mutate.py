"""Makes statements out of a corpus: splices, comments, case, strange spaces, nesting, stacking and quoting tricks.

Everything comes from one seeded `random.Random`, so that a seed gives the same statements again.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

_TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|\w+|\s+|.", re.S)
_SPACES = ["/**/", "\n", "\t", "\r\n", "\f", "\v", " /* x */ ", " -- x\n", "\u00a0", "\u3000", "\u200b", "\ufeff", "  "]
_PREFIXES = ["", " ", "\n", "\ufeff", "/* SELECT */ ", "-- SELECT\n", "/**/", "(", ";", "\x0b", "SELECT 1;", "{}", "\\"]
_SUFFIXES = ["", ";", " ;; ", " --", " -- '", " /*", "\x00", ")", ";\n-- x", " LIMIT 1", " RETURNING *"]
_OPERAND = re.compile(r"(?<![\w'\".`@:])(?:\d+|'[^']*')(?![\w'.])")


class Mutator:
    """Statements from a dialect's corpus.

    Args:
        seed: of the random numbers.
        writes: statements that change something.
        reads: statements that do not.
        calls: expressions that change something, or try to.
        wrappers: texts with `{w}` for a statement and `{q}` for one as a string literal.
    """

    def __init__(self, seed: int, writes: list[str], reads: list[str], calls: list[str], wrappers: list[str]) -> None:
        self.random = random.Random(seed)
        self.writes, self.reads, self.calls, self.wrappers = writes, reads, calls, wrappers

    def statements(self, count: int) -> Iterator[str]:
        """`count` statements; half of them begin as an honest read."""
        ways: list[tuple[int, Callable[[], str]]] = [
            (5, self.called), (3, self.wrapped), (3, self.disguised), (3, self.spliced), (2, self.garbled),
            (2, self.stacked), (2, self.reading),
        ]  # fmt: skip
        weights, makers = [way[0] for way in ways], [way[1] for way in ways]
        for maker in self.random.choices(makers, weights, k=count):
            yield maker()

    # -- ways -------------------------------------------------------------------------------------

    def called(self) -> str:
        """An honest read with a call in the place of a value, of a column, or of a condition."""
        read, call = self.pick(self.reads), self.call()
        places = list(_OPERAND.finditer(read))
        if places and self.random.random() < 0.6:
            at = self.random.choice(places)
            return self.maybe_disguised(read[: at.start()] + call + read[at.end() :])
        form = self.random.choice(
            [
                "SELECT {c}", "SELECT {c} AS x, {d} AS y", "SELECT * FROM users WHERE {c} IS NOT NULL",
                "SELECT * FROM users ORDER BY {c}", "SELECT count({c}) FROM orders", "SELECT (SELECT {c})",
                "WITH x AS (SELECT {c} AS a) SELECT * FROM x", "SELECT CASE WHEN {c} IS NULL THEN 1 ELSE {d} END",
                "SELECT id FROM orders GROUP BY id HAVING {c} IS NOT NULL", "SELECT 1 UNION ALL SELECT {c}",
                "SELECT u.id FROM users u JOIN orders o ON {c} IS NOT NULL", "SELECT coalesce({c}, {d})",
                "SELECT * FROM (SELECT {c} AS a FROM users) t", "SELECT max({c}) OVER (ORDER BY id) FROM users",
                "SELECT * FROM users WHERE id IN (SELECT {c})", "EXPLAIN SELECT {c}", "VALUES ({c})", "SELECT * FROM {c}",
                "SELECT 1 LIMIT {c}", "SELECT * FROM users WHERE EXISTS (SELECT {c} FROM orders WHERE {d} > 0)",
            ]
        )  # fmt: skip
        return self.maybe_disguised(form.replace("{c}", call).replace("{d}", self.call()))

    def wrapped(self) -> str:
        """A write inside of something else, up to three deep."""
        text = self.pick(self.writes)
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            quoted = "'" + text.replace("'", "''") + "'"
            text = self.pick(self.wrappers).replace("\\n", "\n").replace("{w}", text).replace("{q}", quoted)
        return self.maybe_disguised(text)

    def disguised(self) -> str:
        """A write in other clothes."""
        return self.disguise(self.pick(self.writes))

    def reading(self) -> str:
        """An honest read in other clothes."""
        return self.disguise(self.pick(self.reads))

    def spliced(self) -> str:
        """The beginning of one statement and the end of another, cut between tokens."""
        one, other = self.pick(self.reads), self.pick(self.writes if self.random.random() < 0.7 else self.reads)
        if self.random.random() < 0.2:
            one, other = other, one
        head, tail = self.tokens(one), self.tokens(other)
        cut, begin = self.random.randrange(len(head) + 1), self.random.randrange(len(tail) + 1)
        return self.maybe_disguised("".join(head[:cut]) + self.random.choice(["", " "]) + "".join(tail[begin:]))

    def garbled(self) -> str:
        """A statement with tokens left out, doubled, swapped or taken from elsewhere."""
        tokens = self.tokens(self.pick(self.reads + self.writes))
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randrange(len(tokens))
            what = self.random.random()
            if what < 0.3 and len(tokens) > 2:
                del tokens[at]
            elif what < 0.5:
                tokens.insert(at, tokens[at])
            elif what < 0.7:
                other = self.random.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            else:
                tokens.insert(at, " " + self.random.choice(self.tokens(self.pick(self.writes))) + " ")
        return "".join(tokens)

    def stacked(self) -> str:
        """Several statements in one text."""
        parts = [self.pick(self.reads), self.pick(self.writes)]
        self.random.shuffle(parts)
        return self.random.choice(["; ", ";", ";\n", " ; -- x\n", "\n", ";;", "; /* */ ", "\x00;", "\\; ", "';"]).join(
            parts
        )

    # -- parts ------------------------------------------------------------------------------------

    def pick(self, texts: list[str]) -> str:
        return self.random.choice(texts)

    def call(self) -> str:
        call = self.pick(self.calls)
        around = self.random.choice(
            ["{}", "{}", "({})", "coalesce({}, NULL)", "CAST({} AS CHAR(9))", "(SELECT {})", "-{}"]
        )
        return around.replace("{}", call) if self.random.random() < 0.5 else call

    def tokens(self, text: str) -> list[str]:
        return _TOKEN.findall(text) or [" "]

    def maybe_disguised(self, text: str) -> str:
        return self.disguise(text) if self.random.random() < 0.3 else text

    def disguise(self, text: str) -> str:
        """Other spaces, other case, something before and after; what stands in quotes mostly stays."""
        tokens = self.tokens(text)
        upper = self.random.random()
        for at, token in enumerate(tokens):
            if token.isspace() and self.random.random() < 0.3:
                tokens[at] = self.random.choice(_SPACES[:8] if self.random.random() < 0.8 else _SPACES)
            elif token.isalpha() and upper < 0.5 and self.random.random() < 0.5:
                tokens[at] = "".join(self.random.choice([letter.upper(), letter.lower()]) for letter in token)
            elif token.isalpha() and self.random.random() < 0.01:
                tokens[at] = "".join(chr(ord(letter) + 0xFEE0) for letter in token if letter.isascii())
        text = "".join(tokens)
        if self.random.random() < 0.3:
            text = self.random.choice(_PREFIXES) + text
        if self.random.random() < 0.3:
            text += self.random.choice(_SUFFIXES)
        return text


class CommandMutator(Mutator):
    """The same for lines of a command and its arguments: Redis."""

    def statements(self, count: int) -> Iterator[str]:
        """`count` lines; `calls` are the names of all commands that the server has."""
        makers = [self.any_command, self.wrapped_line, self.line, self.options, self.spliced, self.reading_line]
        for maker in self.random.choices(makers, [6, 3, 4, 3, 2, 3], k=count):
            yield maker()

    def any_command(self) -> str:
        """A command of the server with arguments that mostly name what there is."""
        things = ["str", "num", "list", "set", "zset", "hash", "stream", "geo", "hll", "bits", "ttl", "0", "1", "-1", "2",
                  "a", "x", "made", "BEFORE", "LEFT", "RIGHT", "MIN", "STORE", "COUNT", "GET", "EX", "group", "c", "*", "$",
                  ">", "-", "+", "STREAMS", "km", "NX", "u8", "SET", "INCRBY", "AND", "10", "0.5", "ASYNC", "FLUSH"]  # fmt: skip
        keys = things[:11]
        arguments = [self.random.choice(keys), *self.random.choices(things, k=self.random.randint(0, 5))]
        if self.random.random() < 0.3:
            arguments = arguments[1:] or arguments
        return self.dress(" ".join([self.pick(self.calls), *arguments]))

    def wrapped_line(self) -> str:
        """A write inside of something else."""
        name, _, rest = self.pick(self.writes).partition(" ")
        return (
            self.pick(self.wrappers).replace("\\n", "\n").replace("\\r", "\r").replace("{c}", name).replace("{a}", rest)
        )

    def line(self) -> str:
        """A write in other clothes."""
        return self.dress(self.pick(self.writes))

    def reading_line(self) -> str:
        """A read in other clothes."""
        return self.dress(self.pick(self.reads))

    def options(self) -> str:
        """A read with the options of a write."""
        tail = self.pick(self.writes).split(" ")[self.random.randint(1, 3) :]
        return self.dress(" ".join([self.pick(self.reads), *tail]))

    def dress(self, line: str) -> str:
        """Another case, quotes around or within the command, other spaces, bytes as escapes."""
        name, _, rest = line.lstrip().partition(" ")
        if not name:
            return "PING"
        way = self.random.random()
        if way < 0.2:
            name = "".join(self.random.choice([letter.upper(), letter.lower()]) for letter in name)
        elif way < 0.3:
            name = f'"{name}"'
        elif way < 0.35:
            name = f"'{name}'"
        elif way < 0.4:
            cut = self.random.randrange(len(name))
            name = f'{name[:cut]}"{name[cut:]}"'
        elif way < 0.45:
            name = '"' + "".join(f"\\x{ord(letter):02x}" for letter in name if letter.isascii()) + '"'
        space = self.random.choice([" "] * 8 + ["  ", "\t", "\n", "\r\n", "\u00a0", "\x0b", "\x00"])
        return f"{self.random.choice([''] * 9 + [' ', ';', '*1'])}{name}{space}{rest}".rstrip(" ") or "PING"


class DocumentMutator(Mutator):
    """The same for command documents: MongoDB. All texts are JSON."""

    def statements(self, count: int) -> Iterator[str]:
        """`count` documents, as texts."""
        makers = [self.planted, self.hybrid, self.renamed, self.written, self.doubled, self.read]
        for maker in self.random.choices(makers, [8, 4, 3, 2, 2, 3], k=count):
            yield maker()

    def load(self, texts: list[str]) -> Any:
        return json.loads(self.pick(texts))

    def dump(self, document: Any) -> str:
        return json.dumps(document, ensure_ascii=self.random.random() < 0.5)

    def planted(self) -> str:
        """A read with an operator that has no place in it, somewhere."""
        document = self.load(self.reads)
        for _ in range(self.random.choice([1, 1, 2])):
            self.plant(document, self.load(self.calls))
        return self.dump(document)

    def plant(self, document: Any, thing: Any) -> None:
        """Put a thing into an object or a list of the document, or in the place of a value."""
        nodes = [node for node in self.walk(document) if node]
        node = self.random.choice(nodes)
        if isinstance(node, list):
            node.insert(self.random.randint(0, len(node)), thing)
        elif self.random.random() < 0.5 and isinstance(thing, dict):
            node.update(thing)
        else:
            node[self.random.choice(list(node))] = thing

    def walk(self, node: Any) -> Iterator[Any]:
        if isinstance(node, (dict, list)):
            yield node
            for item in list(node.values()) if isinstance(node, dict) else node:
                yield from self.walk(item)

    def hybrid(self) -> str:
        """A read with options of a write, in either order."""
        one, other = self.load(self.reads), self.load(self.writes)
        return self.dump({**one, **other} if self.random.random() < 0.7 else {**other, **one})

    def renamed(self) -> str:
        """A write whose command's name is written otherwise, or a read of a strange collection."""
        document = self.load(self.writes)
        name, *rest = document
        other = self.random.choice(
            [name.upper(), f" {name}", f"{name} ", f"{name}\x00", "find", "aggregate", "count", "distinct", "$" + name]
        )
        return self.dump({other: document[name], **{key: document[key] for key in rest}})

    def doubled(self) -> str:
        """A text with a key twice: parsers differ in which one counts."""
        read, write = self.dump(self.load(self.reads)), self.dump(self.load(self.writes))
        return self.random.choice(
            [read[:-1] + ", " + write[1:], write[:-1] + ", " + read[1:], f"[{read}, {write}]", read + write]
        )

    def written(self) -> str:
        """A write as it stands."""
        return self.pick(self.writes)

    def read(self) -> str:
        """A read as it stands."""
        return self.pick(self.reads)
