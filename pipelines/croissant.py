"""`croissant.json`: the dataset in MLCommons' Croissant 1.1, with the audit's statistics as annotations."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa

from pipelines.report.result import AuditResult
from schemas.manifest import Manifest
from schemas.storage import Location
from schemas.tables import PROVENANCE, example_schema
from transforms.objectives.registry import known_objective
from transforms.statistics import AuditContext
from transforms.statistics.summary import FIGURES, summarise

_TYPES = {"int32": "cr:Int32", "int64": "cr:Int64", "uint64": "cr:UInt64", "bool": "sc:Boolean", "string": "sc:Text"}
"""Croissant's names of Arrow's types."""

_FILES = {
    "manifest.json": "application/json",
    "shards.parquet": "application/vnd.apache.parquet",
    "tokenizer.json": "application/json",
}

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "annotation": "cr:annotation",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(result: AuditResult) -> bytes:
    """The file's bytes; the same for the same dataset, since nothing in it is of a clock.

    Files, one set of shards a split, and one record set a split whose fields are the columns. The figures of
    `transforms.statistics.summary` annotate each record set.
    """
    manifest = result.manifest
    splits = sorted({row.split for row in manifest.lengths})
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": manifest.name,
        "description": f"{manifest.totals.rows:,} finished {manifest.objective['kind']} examples for pretraining. "
        + result.verdict(),
        "version": "1.0.0",
        "identifier": manifest.fingerprint,
        "keywords": ["pretraining", str(manifest.objective["kind"])],
        "creator": {"@type": "sc:Organization", "name": f"shardmill {manifest.shardmill_version}"},
        "distribution": [
            *(_file(result.dataset, name, kind) for name, kind in _FILES.items()),
            *(_shards(split) for split in splits),
        ],
        "recordSet": [_record_set(result, split) for split in splits],
    }
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _file(dataset: Location, name: str, kind: str) -> dict[str, Any]:
    data = (dataset / name).read_bytes() if (dataset / name).info() else b""
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{len(data)} B",
        "encodingFormat": kind,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _shards(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-shards",
        "name": f"{split}-shards",
        "description": f"Shards of the {split} split, listed with their checksums in shards.parquet.",
        "encodingFormat": "application/vnd.apache.parquet",
        "includes": f"data/split={split}/**/*.parquet",
    }


def _record_set(result: AuditResult, split: str) -> dict[str, Any]:
    text_ids = AuditContext.of(result.manifest).text_ids
    figures = {row["split"]: row for row in summarise(result.statistics, ("split",), text_ids=text_ids)}.get(
        split, {}
    )
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"Examples of the {split} split.",
        "field": _fields(result.manifest, split),
        "annotation": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/annotation/{name}",
                "name": f"{split}/annotation/{name}",
                "description": what,
                "dataType": "sc:Integer" if isinstance(figures[name], int) else "sc:Float",
                "value": figures[name],
            }
            for name, what in FIGURES.items()
            if figures.get(name) is not None
        ],
    }


def _fields(manifest: Manifest, split: str) -> list[dict[str, Any]]:
    columns = known_objective(manifest.objective["kind"]).columns
    meanings = {c.name: c.meaning for c in (*PROVENANCE, *columns)}
    return [
        {
            "@type": "cr:Field",
            "@id": f"{split}/{f.name}",
            "name": f"{split}/{f.name}",
            "description": meanings[f.name],
            **_type(f.type),
            "source": {"fileSet": {"@id": f"{split}-shards"}, "extract": {"column": f.name}},
        }
        for f in example_schema(columns)
    ]


def _type(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {**_type(kind.value_type), "isArray": True, "arrayShape": "-1"}
    return {"dataType": _TYPES[str(kind.value_type if pa.types.is_dictionary(kind) else kind)]}
