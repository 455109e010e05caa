"""A new password for the account itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from studio.providers._lifo import Pool
    from studio.providers.mongodb.config import MongodbConfig
    from studio.providers.mongodb.session import Session


class OwnPassword:
    """What a MongoDB account needs the privilege changeOwnPassword for."""

    rotates: ClassVar[str | None] = "password"
    config: MongodbConfig
    _pool: Pool[Session]

    async def set_password(self, new: str) -> None:
        """The command updateUser; the server strikes the password out of its logs."""
        command = {"updateUser": self.config.username, "pwd": new}
        await self._pool.use(lambda session: session.call(self.config.auth_source, command), again=False)
