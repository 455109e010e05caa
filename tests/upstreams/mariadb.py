"""A real MariaDB: TLS on, an administrator, and one ordinary account that owns the databases of the tests."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.servers import Server, StartFailed, _environment, certificates, listening


class Mariadb(Server):
    """MariaDB with TLS offered and no durability, for speed. `user` may do anything in `test%` and `app`."""

    account = "mysql"
    user = "app"
    database = "app"

    def __init__(self) -> None:
        super().__init__()
        self.password = secrets.token_urlsafe(16)
        self.root_password = secrets.token_urlsafe(16)
        self.program = _program("mariadbd")

    @property
    def ca(self) -> str:
        """The CA of the server's certificate, as PEM."""
        return certificates().ca

    def prepare(self) -> None:
        """Make the system tables, the certificate and the statements of the first start."""
        self.run(
            _program("mariadb-install-db"), "--no-defaults", f"--datadir={self.dir}/data",
            "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
        )  # fmt: skip
        self.write("ca.crt", certificates().ca)
        self.write("server.crt", certificates().cert)
        self.write("server.key", certificates().key)
        lines = [
            "DELETE FROM mysql.global_priv WHERE User = '' OR Host NOT IN ('localhost', '127.0.0.1')",
            "FLUSH PRIVILEGES",
            f"CREATE DATABASE IF NOT EXISTS {self.database}",
            f"CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{self.root_password}'",
            "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION",
            f"CREATE OR REPLACE USER {self.user}@'127.0.0.1' IDENTIFIED BY '{self.password}'",
            f"GRANT ALL ON {self.database}.* TO {self.user}@'127.0.0.1'",
            f"GRANT ALL ON `test\\_%`.* TO {self.user}@'127.0.0.1'",
        ]
        self.write("init.sql", "".join(f"{line};\n" for line in lines))

    def command(self) -> list[str]:
        """`mariadbd` in the foreground."""
        return [
            self.program, "--no-defaults", f"--datadir={self.dir}/data", f"--bind-address={self.host}",
            f"--port={self.port}", f"--socket={self.dir}/s", f"--pid-file={self.dir}/pid", "--skip-name-resolve",
            "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M", "--performance-schema=off", "--max-connections=200",
            f"--init-file={self.dir}/init.sql", f"--ssl-ca={self.dir}/ca.crt", f"--ssl-cert={self.dir}/server.crt", f"--ssl-key={self.dir}/server.key",
        ]  # fmt: skip

    def ready(self) -> bool:
        """The port accepts only after the first statements have run."""
        return listening(self.port)

    def sql(self, *statements: str) -> str:
        """Run statements as the administrator with MariaDB's own client; what it printed."""
        done = subprocess.run(
            [
                _program("mariadb"), "--no-defaults", f"--host={self.host}", f"--port={self.port}", "--user=root",
                "--skip-ssl", "--batch", "--skip-column-names", "--default-character-set=utf8mb4",
            ],
            input=";\n".join([*statements, ""]), capture_output=True, text=True, check=False,
            env={**_environment(), "MYSQL_PWD": self.root_password},
        )  # fmt: skip
        if done.returncode:
            raise StartFailed(f"the statement failed: {done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The name of an empty database that is dropped at the end."""
        name = f"test_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            self.sql(f"DROP DATABASE IF EXISTS {name}")

    @contextlib.contextmanager
    def fresh_user(self, *grants: str, password: str | None = None, require: str = "") -> Iterator[dict[str, str]]:
        """A new account with these grants (`SELECT ON app.*`); its username and password."""
        name = f"u_{secrets.token_hex(6)}"
        secret = password if password is not None else secrets.token_urlsafe(12)
        quoted = f"CONVERT(x'{secret.encode().hex()}' USING utf8mb4)"
        self.sql(
            f"SET @s = CONCAT('CREATE USER {name}@''127.0.0.1'' IDENTIFIED BY ', QUOTE({quoted}), ' {require}')",
            "EXECUTE IMMEDIATE @s",
            *(f"GRANT {grant} TO {name}@'127.0.0.1'" for grant in grants),
        )
        try:
            yield {"username": name, "password": secret}
        finally:
            self.sql(f"DROP USER IF EXISTS {name}@'127.0.0.1'")

    def processes(self, needle: str) -> list[str]:
        """The statements that hold `needle` and run now, as another session sees them."""
        rows = self.sql("SELECT info FROM information_schema.processlist WHERE id <> CONNECTION_ID()").splitlines()
        return [row for row in rows if needle in row]

    def sessions(self, user: str | None = None) -> int:
        """How many sessions an account has."""
        return int(self.sql(f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{user or self.user}'"))

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server, with some fields changed; None leaves one out."""
        fields = {
            "host": self.host, "port": self.port, "database": self.database, "username": self.user,
            "password": self.password, "ssl": False, "connect_timeout_s": 10.0, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        raise StartFailed(f"{name} is not installed; run: apt-get install mariadb-server (make test does it)")
    return found


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Mariadb]:
    """The MariaDB server of the whole run; tests isolate themselves by database."""
    server = Mariadb()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def own_mariadb() -> Iterator[Mariadb]:
    """A MariaDB server of one module's own, to change its settings."""
    server = Mariadb()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def mariadb_database(mariadb: Mariadb) -> AsyncIterator[str]:
    """An empty database of the shared server, by name."""
    with mariadb.fresh_database() as name:
        yield name
