"""Which operators and stages may run: allow-lists, applied to every key that begins with `$`, however deep.

Everything on the lists of a read only reads, wherever it stands, so the lists need no grammar. What
is missing is refused: `$out` and `$merge` write, `$where`, `$function` and `$accumulator` run
JavaScript, and `$currentOp` and its kin look beyond the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from studio.errors import InvalidRequest, ReadOnly

MAX_DEPTH = 90
"""Levels of one command; MongoDB itself takes 100."""

_QUERY = """
    $eq $ne $gt $gte $lt $lte $in $nin $and $or $nor $not $exists $type $mod $regex $options $text $search $language
    $caseSensitive $diacriticSensitive $all $elemMatch $size $bitsAllClear $bitsAllSet $bitsAnyClear $bitsAnySet
    $geoIntersects $geoWithin $near $nearSphere $geometry $maxDistance $minDistance $box $center $centerSphere $polygon
    $expr $comment $jsonSchema $slice $meta
"""
_STAGES = """
    $match $project $addFields $set $unset $group $sort $limit $skip $unwind $count $lookup $graphLookup $facet $bucket
    $bucketAuto $sortByCount $sample $replaceRoot $replaceWith $redact $unionWith $geoNear $densify $fill
    $setWindowFields
"""
_EXPRESSIONS = """
    $abs $add $allElementsTrue $anyElementTrue $arrayElemAt $arrayToObject $avg $binarySize $bitAnd $bitNot $bitOr
    $bitXor $bsonSize $ceil $cmp $concat $concatArrays $cond $convert $dateAdd $dateDiff $dateFromParts $dateFromString
    $dateSubtract $dateToParts $dateToString $dateTrunc $dayOfMonth $dayOfWeek $dayOfYear $degreesToRadians $divide
    $exp $filter $first $firstN $floor $getField $hour $ifNull $indexOfArray $indexOfBytes $indexOfCP $isArray
    $isNumber $isoDayOfWeek $isoWeek $isoWeekYear $last $lastN $let $literal $ln $log $log10 $ltrim $map $max $maxN
    $mergeObjects $millisecond $min $minN $minute $month $multiply $objectToArray $pow $push $radiansToDegrees $rand
    $range $reduce $regexFind $regexFindAll $regexMatch $replaceAll $replaceOne $reverseArray $round $rtrim $sampleRate
    $second $setDifference $setEquals $setField $setIntersection $setIsSubset $setUnion $sortArray $split $sqrt
    $stdDevPop $stdDevSamp $strLenBytes $strLenCP $strcasecmp $substr $substrBytes $substrCP $subtract $sum $switch
    $toBool $toDate $toDecimal $toDouble $toHashedIndexKey $toInt $toLong $toLower $toObjectId $toString $toUUID
    $toUpper $trim $trunc $tsIncrement $tsSecond $unsetField $week $year $zip $sin $cos $tan $asin $acos $atan $atan2
    $sinh $cosh $tanh $asinh $acosh $atanh $addToSet $bottom $bottomN $top $topN $median $percentile $covariancePop
    $covarianceSamp $denseRank $derivative $documentNumber $expMovingAvg $integral $linearFill $locf $rank $shift
"""
_UPDATES = """
    $currentDate $inc $mul $rename $setOnInsert $pop $pull $pullAll $each $position $bit
"""
READING = frozenset((_QUERY + _STAGES + _EXPRESSIONS).split())
WRITING = READING | frozenset(_UPDATES.split())
STAGES = frozenset(_STAGES.split())
_CHANGES = frozenset({"$out", "$merge"})
_SOURCES = frozenset({"$lookup", "$graphLookup", "$unionWith"})


def collection(name: str, field: str = "collection") -> str:
    """A collection's name, as given.

    Raises:
        InvalidRequest: it is none, or a system collection.
    """
    if not name or "\x00" in name or "$" in name or len(name) > 255:
        raise InvalidRequest.at(field, "is not a collection's name")
    if name.startswith("system."):
        raise InvalidRequest.at(field, "is a system collection, which is not for callers")
    return name


def check(tree: Any, *, field: str, writing: bool = False) -> Any:
    """Judge a bound part of a command; gives it back.

    Raises:
        ReadOnly: it holds a stage that writes.
        InvalidRequest: it holds an operator that is not on the list, or is nested too deeply.
    """
    allowed = WRITING if writing else READING
    for key, value, depth in _keys(tree):
        if depth > MAX_DEPTH:
            raise InvalidRequest.at(field, "is nested too deeply")
        if key in _CHANGES:
            raise ReadOnly(f"{field}: {key} writes, and this operation takes reads only")
        if key.startswith("$") and key not in allowed:
            raise InvalidRequest.at(field, f"uses {key[:64]}, which is not available here")
        if key in _SOURCES:
            _source(value, field)
    return tree


def stages(pipeline: Any, field: str = "pipeline") -> list[dict[str, Any]]:
    """A pipeline of known stages, judged through and through. Raises as `check`, and where it is none."""
    if not isinstance(pipeline, list) or not all(isinstance(stage, dict) and len(stage) == 1 for stage in pipeline):
        raise InvalidRequest.at(field, "must be a list of stages, each an object with one key")
    check(pipeline, field=field)
    for stage in pipeline:
        [name] = stage
        if name not in STAGES:
            raise InvalidRequest.at(field, f"{name[:64]} is not a stage that is available here")
    return pipeline


def order(sort: Any) -> dict[str, Any]:
    """A sort, judged. Raises InvalidRequest where it is none."""
    if not isinstance(sort, dict) or not all(way in (1, -1) or isinstance(way, dict) for way in sort.values()):
        raise InvalidRequest.at("sort", "must be an object of fields with 1 or -1")
    check(sort, field="sort")
    return sort


def _source(stage: Any, field: str) -> None:
    """Where a stage reads from: a collection of the same database."""
    for name in (stage.get("from"), stage.get("coll")) if isinstance(stage, Mapping) else (stage,):
        if isinstance(name, str):
            collection(name, field)
        elif name is not None:
            raise InvalidRequest.at(field, "names another database, which this connector does not reach")


def _keys(tree: Any) -> Iterator[tuple[str, Any, int]]:
    """Every key with its value and depth; a loop of our own, so that no depth can end the process.

    What stands in `$literal` is data to the server, and no operator.
    """
    left = [(tree, 1)]
    while left:
        node, depth = left.pop()
        if isinstance(node, Mapping):
            for key, value in node.items():
                yield str(key), value, depth
                if key != "$literal":
                    left.append((value, depth + 1))
        elif isinstance(node, list):
            left.extend((item, depth + 1) for item in node)
