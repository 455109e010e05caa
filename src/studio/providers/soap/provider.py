"""SOAP: the operations of one port of a service that a WSDL describes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from studio.contract import Effect, Operation, Probe, ProviderConfig, Result, operation
from studio.contract.web import ApiProvider
from studio.errors import AuthFailed, InvalidConfig, InvalidRequest, ReadOnly, StudioError, UpstreamError
from studio.providers._http.client import HttpClient, Request
from studio.providers._http.errors import translate
from studio.providers._http.lists import cut_lists, longest, rows_in
from studio.providers.soap.config import SoapConfig, WsseAuth

if TYPE_CHECKING:
    from studio.providers._http.client import Answer
    from studio.providers.soap.port import Port
    from studio.providers.soap.service import Call, Service

_DRIVER = ("studio.providers.soap.port", "studio.providers.soap.answer", "studio.providers.soap.describe")
_INLINE = 32_768
"""Bytes of an answer that are read on the spot, in a few milliseconds; more go to a thread."""
Name = Annotated[str, Field(description="The operation's name in the WSDL.", min_length=1, max_length=500)]


class Soap(ApiProvider[SoapConfig]):
    """SOAP service (1.1 and 1.2) described by a WSDL: its operations with checked arguments."""

    kind: ClassVar[str] = "soap"
    least: ClassVar[str] = "an account that may call the operations of read_operations, and no other"
    Config: ClassVar[type[ProviderConfig]] = SoapConfig
    fixes: ClassVar[Mapping[str, str]] = {
        **ApiProvider.fixes,
        "wsdl": "check wsdl_url (or wsdl), service and port; a WSDL that imports from elsewhere has to be one text",
    }

    pins: ClassVar[bool] = True

    # -- the contract ---------------------------------------------------------------------------

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the client; nothing connects yet, and the WSDL is read when it is first needed."""
        for module in _DRIVER:
            await asyncio.to_thread(import_module, module)
        self._client = HttpClient(self.config, self.config.home.url, self.network)
        await self._client.open(stack)
        auth = self.config.auth
        if isinstance(auth, WsseAuth):
            self._client.redactor.add(auth.password.get_secret_value())
        self._port: Port | None = None
        self._reading: asyncio.Task[Port] | None = None
        stack.push_async_callback(self._stop_reading)

    async def pin(self) -> Mapping[str, Any]:
        """The digest of the documents at `wsdl_url`, unless the config names one."""
        if self.config.wsdl_url is None or self.config.wsdl_sha256 is not None:
            return {}
        return {"wsdl_sha256": (await self._service()).digest}

    async def ping(self) -> None:
        """See who answers."""
        await self.authenticate()
        await self.sample()

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        if isinstance(exc, RecursionError):  # groups that hold themselves show only where they are used
            return InvalidConfig("the WSDL describes something that is nested too deeply")
        return translate(exc)

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """The name of an operation; params are its arguments."""
        return "call", {"operation": query.strip(), "arguments": dict(params) if params else None}

    @classmethod
    def operations_for(cls, public: Mapping[str, Any]) -> Mapping[str, Operation]:
        """`call` reads where it runs one of `read_operations`, and writes elsewhere."""
        reads = frozenset(public.get("read_operations") or ())

        def effect_of(arguments: Mapping[str, Any]) -> Effect:
            return Effect.READ if arguments["operation"] in reads else Effect.WRITE

        return (
            {**cls.operations, "call": replace(cls.operations["call"], effect=effect_of)} if reads else cls.operations
        )

    async def probe(self, probe: Probe) -> None:
        """Stages: resolve, connect, tls (for https), wsdl (it can be read), auth, sample."""
        await self.reach(probe)
        with probe.stage("wsdl") as stage:
            port = await self._service()
            held = "pinned" if self.config.wsdl or self.config.wsdl_sha256 else "not pinned"
            calls = f"{len(port.service.calls)} operations, SOAP {port.service.version}"
            stage.detail = f"{calls}; {held}, sha256 {port.digest}"
        with probe.stage("auth"):
            await self.authenticate()
        probe.privileges = self.privileges()
        with probe.stage("sample") as stage:
            stage.detail = await self.sample()

    async def reach(self, probe: Probe) -> None:
        """The stages resolve, connect and tls."""
        await self._client.reach(probe)

    async def authenticate(self) -> None:
        """Get a token, and send a message: a read without arguments, or one that calls nothing."""
        from studio.providers.soap.answer import error_of

        await self._client.prepare()
        port = await self._service()
        self._sampled = next((call for call in port.service.calls.values() if self._is_sample(call)), None)
        body = port.messages.write(self._sampled, {}) if self._sampled else port.messages.empty()
        self._first = await self._send(port, body, self._sampled.action if self._sampled else "", idempotent=True)
        error = error_of(self._first, self._client.redactor, self.config.max_bytes)
        if isinstance(error, AuthFailed):
            raise error

    def _is_sample(self, call: Call) -> bool:
        if call.name not in self.config.read_operations or self._port is None:
            return False
        try:
            self._port.messages.write(call, {})
        except InvalidRequest:
            return False
        return True

    async def sample(self) -> str | None:
        """Whether the answer to that was a good one."""
        from studio.providers.soap.answer import Fault, body_of

        try:
            body_of(self._first, self._client.redactor, self.config.max_bytes)
        except Fault:
            if self._sampled is not None:
                raise
        if self._sampled is not None:
            return f"{self._sampled.name} answers"
        return "the service answers in SOAP; no operation was called. Name a read without arguments in read_operations"

    # -- operations -----------------------------------------------------------------------------

    @operation(Effect.WRITE)
    async def call(
        self,
        operation: Name,
        arguments: Annotated[dict[str, Any] | None, Field(description="The operation's arguments, by name.")] = None,
    ) -> Result:
        """Call one operation of the service and return what it answers; a read where read_operations names it."""
        reads = operation in self.config.read_operations
        if self.config.read_only and not reads:
            raise ReadOnly(
                "this connector only reads, and this operation is not among its read_operations; "
                "have it listed there, or ask for a connector with read_only=false"
            )
        port = await self._service()
        call = _found(port.service, operation)
        body = port.messages.write(call, arguments or {})
        answer = await self._send(port, body, call.action, idempotent=reads)
        if len(answer.body) <= _INLINE:
            return self._result(answer, call, port.service)
        return await asyncio.to_thread(self._result, answer, call, port.service)

    @operation(Effect.READ)
    async def describe(
        self, operation: Annotated[Name | None, Field(description="One operation, in detail.")] = None
    ) -> Result:
        """List the operations with their arguments, or describe one with its types."""
        from studio.providers.soap import describe

        service = (await self._service()).service
        if operation is not None:
            call = _found(service, operation)
            shown = {"effect": self._effect(call), **describe.detail(call, service)}
            return Result(data=shown, row_count=1)
        lines = [
            {"effect": self._effect(call), "signature": describe.signature(call, service)}
            for call in service.calls.values()
        ]
        data, cut = cut_lists(
            {"service": f"{service.service}.{service.port}", "operations": lines}, self.config.max_rows
        )
        return Result(data=data, row_count=len(data["operations"]), truncated=cut)

    def _effect(self, call: Call) -> str:
        return "read" if call.name in self.config.read_operations else "write"

    def _result(self, answer: Answer, call: Call, service: Service) -> Result:
        from studio.providers.soap.answer import body_of, result_of

        redactor = self._client.redactor
        data = result_of(body_of(answer, redactor, self.config.max_bytes), call, service)
        data = redactor.tree(data)  # always: XML can spell a text in too many ways to look for it in the bytes
        cut = False
        if longest(data) > self.config.max_rows:
            data, cut = cut_lists(data, self.config.max_rows)
        return Result(data=data, row_count=rows_in(data), truncated=cut)

    async def _send(self, port: Port, body: bytes, action: str, *, idempotent: bool) -> Answer:
        headers = port.messages.headers(action)
        return await self._client.send(Request("POST", port.target, headers=headers, body=body, idempotent=idempotent))

    # -- the WSDL -------------------------------------------------------------------------------

    async def _service(self) -> Port:
        """The port; read once for all who wait."""
        if self._port is None:
            if self._reading is None:
                # A task of its own: a caller that is cancelled must not take the WSDL away from the others.
                self._reading = asyncio.create_task(self._read(), name="studio-soap-wsdl")
                self._reading.add_done_callback(self._read_ended)
            self._port = await asyncio.shield(self._reading)
        return self._port

    def _read_ended(self, task: asyncio.Task[Port]) -> None:
        """Keep nothing of it: a failure's traceback holds the documents, and every waiter may have gone."""
        if not task.cancelled():
            task.exception()
        if self._reading is task:
            self._reading = None

    async def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> Port:
        from studio.providers.soap import port as soap_port

        async with asyncio.timeout(self.config.timeout_s):
            port = await soap_port.read(self.config, self._client, self.network)
        if self.config.wsdl_sha256 not in (None, port.digest):
            raise UpstreamError(
                "the WSDL is another one than when this connector was registered; look at it, and then update the "
                "config with wsdl_sha256: null to take it"
            )
        return port


def _found(service: Service, name: str) -> Call:
    """The operation of that name. Raises InvalidRequest, naming similar ones."""
    if name not in service.calls:
        near = get_close_matches(name, service.calls, 3)
        known = f"did you mean {', '.join(near)}?" if near else f"it has: {', '.join(service.calls)}"[:500]
        raise InvalidRequest.at("operation", f"the service has none of that name; {known}")
    return service.calls[name]
