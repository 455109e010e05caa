"""Every route of the document, walked with what no client should send: always a problem, never a stack trace."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests import toy
from tests.surfaces.served import Api, Reply, serving

from studio.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    with toy.installed():
        settings = Settings(data_dir=tmp_path_factory.mktemp("data"), port=0, failed_login_limit_per_s=0)
        async with serving(settings) as found:
            yield found


def routes(api: Api) -> list[tuple[str, set[str]]]:
    """Each path with something in its places, and the methods of all templates that it fits."""
    paths = api.application.management.openapi()["paths"]
    filled = [re.sub(r"\{\w+\}", "x", path) for path in paths]
    fitting = {path: re.compile(re.sub(r"\{\w+\}", "[^/]+", path)) for path in paths}
    return [
        (
            path,
            {
                method.upper()
                for other in ([path] if path in paths else paths)
                if fitting[other].fullmatch(path)
                for method in paths[other]
            },
        )
        for path in filled
    ]


def is_a_problem(reply: Reply, *statuses: int) -> None:
    assert reply.status in statuses, (reply.status, reply.body[:300])
    assert reply.problem["code"] != "internal"
    assert b"Traceback" not in reply.body
    assert b".py" not in reply.body


async def test_a_method_that_a_route_does_not_have_is_405_and_names_those_that_it_has(api: Api) -> None:
    for path, methods in routes(api):
        allowed = methods | ({"HEAD"} if "GET" in methods else set())
        for method in METHODS - allowed - {"HEAD"}:
            reply = await api.call(method, path)
            is_a_problem(reply, 405)
            assert set(reply.headers["allow"].split(", ")) == allowed, path


async def test_a_slash_too_many_is_no_route(api: Api) -> None:
    for path, methods in routes(api):
        if path == "/mcp":  # clients are told it with a slash and without
            continue
        for method in methods:
            for wrong in (f"{path}/", f"/{path}", path.replace("/x", "/x%2Fx", 1) if "/x" in path else f"{path}%2F"):
                is_a_problem(await api.call(method, wrong, {} if method != "GET" else None), 404)


async def test_bytes_that_are_no_text_are_refused(api: Api) -> None:
    for path, methods in routes(api):
        for method in methods:
            is_a_problem(await api.call(method, f"{path}?q=%ff"), 400)
            if "/x" in path:
                is_a_problem(await api.call(method, path.replace("/x", "/%ff", 1)), 404)
                is_a_problem(await api.call(method, path.replace("/x", "/%00", 1), {}), 400, 404, 422)


async def test_a_body_that_is_not_json_is_refused_by_its_type(api: Api) -> None:
    """On every route that reads one."""
    paths = api.application.management.openapi()["paths"]
    taking = [
        (path, method) for path, methods in paths.items() for method, entry in methods.items() if "requestBody" in entry
    ]
    assert len(taking) > 8
    for path, method in taking:
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
        ):
            path = re.sub(r"\{\w+\}", "x", path)
            is_a_problem(await api.call(method.upper(), path, raw=b"{}", content_type=kind), 415)
        if path != "/mcp":  # its errors are JSON-RPC's
            is_a_problem(await api.call(method.upper(), path, raw=b"\xff\xfe", who="admin"), 400, 404)
