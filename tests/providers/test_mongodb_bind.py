"""Command documents: a value stays a value, and only what reads may run as a read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.upstreams.mongodb import Mongodb

from studio.errors import InvalidConfig, InvalidRequest, ReadOnly, StudioError
from studio.providers.mongodb import guard
from studio.providers.mongodb.bind import Binder
from studio.providers.mongodb.provider import Mongodb as Provider
from studio.testing.harness import call, open_provider

keys = st.text(max_size=6) | st.sampled_from(["$gt", "$where", "$param", "$literal", "$oid", "$out", "a.b", "_id"])
scalars = (
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(["$name", "$$ROOT", "$where"])
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


def dollars(tree: Any) -> set[str]:
    """Keys that the server could read as operators."""
    if isinstance(tree, dict):
        inside = [dollars(value) for key, value in tree.items() if key != "$literal"]
        return {key for key in tree if key.startswith("$")}.union(*inside)
    return set().union(*map(dollars, tree)) if isinstance(tree, list) else set()


@given(values)
def test_no_value_becomes_an_operator_in_a_condition(value: Any) -> None:
    bind = Binder({"v": value})
    try:
        bound = bind.query({"a": {"$gt": {"$param": "v"}}, "$or": [{"b": {"$param": "v"}}]}, "filter")
    except InvalidRequest:
        return
    assert dollars(bound) == {"$gt", "$or"}
    assert set(bound) == {"a", "$or"}
    assert set(bound["$or"][0]) == {"b"}


@given(values)
def test_no_value_becomes_an_operator_or_a_path_in_an_expression(value: Any) -> None:
    bind = Binder({"v": value})
    try:
        [stage] = bind.pipeline([{"$project": {"a": {"$concat": ["$name", {"$param": "v"}]}}}], "pipeline")
    except InvalidRequest:
        return
    put = stage["$project"]["a"]["$concat"][1]
    if isinstance(put, dict):
        assert set(put) == {"$literal"}
    else:
        assert not isinstance(put, list)
        assert not (isinstance(put, str) and put.startswith("$"))


@given(values)
def test_no_value_becomes_an_operator_in_an_update(value: Any) -> None:
    bind = Binder({"v": value})
    try:
        bound = bind.changes({"$set": {"a": {"$param": "v"}}}, "update")
    except InvalidRequest:
        return
    assert dollars(bound) == {"$set"}
    assert set(bound["$set"]) == {"a"}


@given(st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=12))
def test_any_command_is_translated_or_refused_and_nothing_else(tree: Any) -> None:
    for name in ("find", "aggregate", "update", "delete", "insert", "count"):
        try:
            operation, arguments = Provider.native(json.dumps({name: "c", "filter": tree, "pipeline": tree}), {"a": 1})
            Provider.operation(operation).parse(arguments)
        except StudioError:
            pass


def test_values_of_extended_json_are_bound_as_what_they_stand_for() -> None:
    import bson

    key = bson.ObjectId()
    bind = Binder({"id": {"$oid": str(key)}, "many": [{"$numberLong": "5"}]})
    bound = bind.query({"_id": {"$param": "id"}, "n": {"$in": {"$param": "many"}}}, "filter")
    assert bound == {"_id": key, "n": {"$in": [5]}}
    assert isinstance(bound["n"]["$in"][0], bson.Int64)


@pytest.mark.parametrize(
    "value",
    [
        {"$gt": ""}, {"$where": "1"}, {"a": {"$ne": 1}}, [{"$regex": "."}], {"$regularExpression": {"pattern": "."}},
        {"$code": "x"}, {"$ref": "c", "$id": 1}, {"$oid": "x"}, {"$oid": 7}, {"$date": []}, {"$param": "v"},
        {"$oid": "5" * 24, "$where": "1"},
    ],
)  # fmt: skip
def test_a_value_with_operators_in_it_is_refused(value: Any) -> None:
    for take in (
        lambda bind: bind.query({"a": {"$param": "v"}}, "filter"),
        lambda bind: bind.expression({"a": {"$param": "v"}}, "pipeline"),
        lambda bind: bind.data([{"a": {"$param": "v"}}], "documents"),
    ):
        with pytest.raises(InvalidRequest):
            take(Binder({"v": value}))


@pytest.mark.parametrize(
    "stage",
    [
        {"$param": "v"}, {"$match": {"$param": "v"}}, {"$match": {"$and": [{"$param": "v"}]}},
        {"$match": {"a": {"$elemMatch": {"$param": "v"}}}}, {"$unionWith": {"$param": "v"}}, {"$count": {"$param": "v"}},
        {"$lookup": {"from": {"$param": "v"}, "as": "x", "pipeline": []}},
        {"$lookup": {"from": "c", "as": "x", "pipeline": [{"$param": "v"}]}},
        {"$lookup": {"from": "c", "as": "x", "pipeline": {"$param": "v"}}},
        {"$graphLookup": {"from": "c", "connectFromField": {"$param": "v"}}},
        {"$facet": {"a": [{"$match": {"$param": "v"}}]}}, {"$unset": [{"$param": "v"}]},
        {"$match": {"a": {"$param": "v", "$gt": 1}}}, {"$match": {"a": {"$param": 7}}},
    ],
)  # fmt: skip
def test_no_parameter_stands_for_a_condition_a_stage_or_a_name(stage: Any) -> None:
    for value in ("x", {"a": 1}, [{"a": 1}]):
        with pytest.raises(InvalidRequest):
            Binder({"v": value}).pipeline([stage], "pipeline")


def test_a_missing_or_extra_parameter_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"params\.id is missing"):
        Binder({}).query({"_id": {"$param": "id"}}, "filter")
    bind = Binder({"other": 1})
    bind.query({}, "filter")
    with pytest.raises(InvalidRequest, match=r"params\.other is not used"):
        bind.finish()


def test_without_the_wrapping_a_value_would_be_read_as_a_field() -> None:
    tree = {"$eq": ["$name", {"$param": "v"}]}
    assert Binder({"v": "$password"}).expression(tree, "filter") == {"$eq": ["$name", {"$literal": "$password"}]}
    # negative control: where nothing is evaluated the same text is put in as it is
    assert Binder({"v": "$password"}).data(tree, "documents") == {"$eq": ["$name", "$password"]}


# -- read-only ------------------------------------------------------------------------------------

READS: list[list[dict[str, Any]]] = [
    [],
    [{"$match": {"n": {"$gt": 1}, "$or": [{"a": 1}, {"b": {"$exists": True}}]}}, {"$sort": {"n": 1}}, {"$limit": 1}],
    [{"$group": {"_id": "$n", "total": {"$sum": "$n"}, "all": {"$push": "$$ROOT"}}}],
    [{"$project": {"a": {"$cond": [{"$gt": ["$n", 1]}, "x", {"$toUpper": "$name"}]}}}],
    [{"$lookup": {"from": "other", "localField": "n", "foreignField": "n", "as": "found"}}],
    [{"$facet": {"a": [{"$count": "n"}], "b": [{"$unwind": "$name"}]}}],
    [{"$unionWith": {"coll": "other", "pipeline": [{"$match": {"n": 1}}]}}],
    [{"$match": {"$expr": {"$eq": ["$n", {"$literal": {"$where": "data"}}]}}}],
]
JAVASCRIPT = {"$function": {"body": "function() {}", "args": [], "lang": "js"}}
REFUSED: list[list[dict[str, Any]]] = [
    [{"$where": "1"}],
    [{"$match": {"$where": "sleep(1000)"}}],
    [{"$match": {"$and": [{"$or": [{"$where": "1"}]}]}}],
    [{"$match": {"$expr": JAVASCRIPT}}],
    [{"$match": {"a": {"$elemMatch": {"$where": "1"}}}}],
    [{"$project": {"a": {"$let": {"vars": {}, "in": JAVASCRIPT}}}}],
    [{"$group": {"_id": 1, "x": {"$accumulator": {"init": "function() {}"}}}}],
    [{"$facet": {"a": [{"$group": {"_id": {"$accumulator": {}}}}]}}],
    [{"$lookup": {"from": "c", "as": "x", "pipeline": [{"$match": {"$where": "1"}}]}}],
    [{"$lookup": {"from": {"db": "admin", "coll": "system.users"}, "as": "x", "pipeline": []}}],
    [{"$lookup": {"from": "system.users", "as": "x", "pipeline": []}}],
    [{"$unionWith": "system.js"}],
    [{"$unionWith": {"coll": "system.js"}}],
    *([{name: {}}] for name in (
        "$currentOp", "$listSessions", "$listLocalSessions", "$changeStream", "$collStats", "$indexStats", "$queryStats",
        "$planCacheStats", "$listSampledQueries", "$shardedDataDistribution", "$nosuch", "$eq", "a",
    )),
    [{"$match": {}, "$sort": {}}],
    [{}],
]  # fmt: skip
CHANGES: list[list[dict[str, Any]]] = [
    [{"$out": "other"}],
    [{"$merge": "other"}],
    [{"$match": {}}, {"$merge": {"into": "other"}}],
    [{"$facet": {"a": [{"$out": "other"}]}}],
    [{"$lookup": {"from": "c", "as": "x", "pipeline": [{"$unionWith": {"coll": "c", "pipeline": [{"$out": "o"}]}}]}}],
]


@pytest.mark.parametrize("pipeline", READS)
def test_reading_stages_pass(pipeline: list[dict[str, Any]]) -> None:
    assert guard.stages(pipeline) is pipeline


@pytest.mark.parametrize("pipeline", REFUSED)
def test_what_runs_javascript_or_looks_elsewhere_is_refused(pipeline: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest):
        guard.stages(pipeline)


@pytest.mark.parametrize("pipeline", CHANGES)
def test_stages_that_write_are_read_only_errors(pipeline: list[dict[str, Any]]) -> None:
    with pytest.raises(ReadOnly):
        guard.stages(pipeline)


def test_the_lists_hold_nothing_that_writes_or_runs_code() -> None:
    known = {"$out", "$merge", "$where", "$function", "$accumulator", "$currentOp", "$changeStream", "$listSessions"}
    assert not known & guard.WRITING
    assert guard.STAGES <= guard.READING < guard.WRITING


@pytest.mark.parametrize("name", ["", "system.users", "system.js", "a$b", "$cmd", "a\x00b", "x" * 300])
def test_a_name_that_is_no_plain_collection_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        guard.collection(name)


@pytest.mark.server
async def test_an_accepted_read_changes_nothing_and_the_refused_never_arrive(
    mongodb_server: Mongodb, mongodb_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mongodb_server.client()
    database = client[mongodb_database]
    await database["things"].insert_many([{"_id": f"k{n}", "n": n, "name": f"x{n}"} for n in range(5)])
    await database["other"].insert_one({"_id": "o", "n": 1})

    async def state() -> Any:
        names = sorted(await database.list_collection_names())
        return {name: sorted(map(str, await database[name].find().to_list())) for name in names}

    before = await state()
    async with open_provider(Provider, mongodb_server.config(database=mongodb_database)) as provider:
        for pipeline in READS[:4]:  # what the emulator can do of them
            await call(provider, "aggregate", collection="things", pipeline=pipeline)
        for filtered in ({"n": {"$gt": 2}}, {"name": {"$regex": "^x"}}, {"$or": [{"n": 1}, {"n": 2}]}):
            await call(provider, "find", collection="things", filter=filtered)
            await call(provider, "count", collection="things", filter=filtered)
            await call(provider, "distinct", collection="things", key="n", filter=filtered)
        assert await state() == before
        await database["other"].insert_one({"_id": "p"})
        assert await state() != before  # a write would have been seen
        from studio.providers.mongodb.session import Session

        sent: list[Any] = []

        async def arrived(_self: Any, _database: str, command: Any, **_: Any) -> Any:
            sent.append(command)
            return {"cursor": {"firstBatch": [], "id": 0, "ns": "a.b"}}

        monkeypatch.setattr(Session, "call", arrived)
        await call(provider, "find", collection="things")
        assert len(sent) == 1  # what is sent is seen
        for pipeline in [*REFUSED, *CHANGES]:
            with pytest.raises(StudioError):
                await call(provider, "aggregate", collection="things", pipeline=pipeline)
        for condition in ({"$where": "1"}, {"$expr": JAVASCRIPT}, {"a": {"$not": {"$where": "1"}}}):
            for name in ("find", "count"):
                with pytest.raises(InvalidRequest):
                    await call(provider, name, collection="things", filter=condition)
        for more in ({"projection": {"a": JAVASCRIPT}}, {"sort": {"a": JAVASCRIPT}}, {"hint": {"a": JAVASCRIPT}},
                     {"collation": {"a": JAVASCRIPT}}, {"sort": {"a": "x"}}):  # fmt: skip
            with pytest.raises(InvalidRequest):
                await call(provider, "find", collection="things", **more)
        assert len(sent) == 1
    await client.close()


@pytest.mark.server
async def test_without_the_guard_a_stage_would_reach_the_server(
    mongodb_server: Mongodb, mongodb_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "stages", lambda pipeline: pipeline)
    from studio.providers.mongodb.session import Session

    sent: list[Any] = []

    async def arrived(_self: Any, _database: str, command: Any, **_: Any) -> Any:
        sent.append(command["pipeline"][0])
        return {"cursor": {"firstBatch": [], "id": 0, "ns": "a.b"}}

    monkeypatch.setattr(Session, "call", arrived)
    async with open_provider(Provider, mongodb_server.config(database=mongodb_database)) as provider:
        await call(provider, "aggregate", collection="things", pipeline=[{"$out": "other"}])
    assert sent == [{"$out": "other"}]


@pytest.mark.server
async def test_hostile_values_are_bound_and_come_back_unchanged(mongodb_server: Mongodb, mongodb_database: str) -> None:
    texts = ["", "'", '"', "\\", "$name", "$$ROOT", "{}", '{"$gt": ""}', "'; DROP TABLE x; --", "日本語", "🙂", "a\nb"]
    config = mongodb_server.config(database=mongodb_database, read_only=False)
    async with open_provider(Provider, config) as provider:
        for text in texts:
            await call(provider, "insert", collection="t", documents=[{"text": {"$param": "v"}}], params={"v": text})
        for text in texts:
            query = {"filter": {"text": {"$param": "v"}}, "projection": {"_id": 0}, "params": {"v": text}}
            assert (await call(provider, "find", collection="t", **query)).data == [{"text": text}]


# -- config ---------------------------------------------------------------------------------------


def test_a_uri_is_taken_apart() -> None:
    parsed = Provider.Config.parse(
        {"uri": "mongodb://us%40er:p%2Fw@Db.example:27018/app?authSource=admin&tls=true&directConnection=true"}
    )
    assert parsed.split() == (
        {
            "host": "db.example",
            "port": 27018,
            "database": "app",
            "username": "us@er",
            "auth_source": "admin",
            "tls": True,
        },
        {"password": "p/w"},
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"uri": "mongodb+srv://h/app"}, {"uri": "mongodb://a,b/app"}, {"uri": "mongodb://h:1,i:2/app"},
        {"uri": "mongodb://h/app?authMechanism=MONGODB-AWS"}, {"uri": "mongodb://h/app?authMechanism=MONGODB-OIDC"},
        {"uri": "mongodb://h/app?authMechanism=GSSAPI"}, {"uri": "mongodb://h/app?authMechanism=PLAIN"},
        {"uri": "mongodb://h/app?authMechanism=MONGODB-X509"}, {"uri": "mongodb://h/app?directConnection=false"},
        {"uri": "mongodb://h/app?authMechanismProperties=ENVIRONMENT:k8s"}, {"uri": "mongodb://h/app?tlsInsecure=true"},
        {"uri": "mongodb://h/app?tlsAllowInvalidCertificates=true"}, {"uri": "mongodb://h/app?tls=maybe"},
        {"uri": "mongodb://h/app?proxyHost=x"}, {"uri": "mongodb://%2Ftmp%2Fx.sock/app"}, {"uri": "http://h/app"},
        {"uri": "mongodb://h:x/app"}, {"uri": 7}, {"uri": "mongodb://h/app", "database": "other"},
        {"uri": "mongodb://h/app", "host": "i"}, {"host": "h"}, {"host": "h", "database": "a/b"},
        {"host": "h", "database": "a", "auth_mechanism": "PLAIN"}, {"host": "h", "database": "a", "username": "u"},
        {"host": "h", "database": "a", "password": "p"}, {"host": "x.sock/y", "database": "a"},
        {"host": "h", "database": "a", "tls_ca": "-----BEGIN CERTIFICATE-----"}, {"host": "h", "database": "a", "x": 1},
    ],
)  # fmt: skip
def test_a_config_that_goes_elsewhere_or_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        Provider.Config.parse(wrong)
