"""What such a service looks like when it is written quickly: FastAPI, a decrypt and a connection for each request."""

from __future__ import annotations

import json
import os
from typing import Any

import asyncpg
from cryptography.fernet import Fernet
from fastapi import FastAPI
from pydantic import BaseModel

FERNET = Fernet(Fernet.generate_key())
SEALED = FERNET.encrypt(os.environ["BENCH_CONFIG"].encode())
app = FastAPI()


class Query(BaseModel):
    query: str
    params: list[Any]


@app.post("/query")
async def query(body: Query) -> dict[str, Any]:
    conn = await asyncpg.connect(**json.loads(FERNET.decrypt(SEALED)))
    try:
        return {"data": [dict(row) for row in await conn.fetch(body.query, *body.params)]}
    finally:
        await conn.close()
