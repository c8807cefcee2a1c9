"""The job file: every mistake is one readable paragraph with its place and a remedy, never a traceback."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from unit_helpers import cases

import transforms.objectives.registry  # noqa: F401  (makes the objectives known)
from schemas.errors import RequestError
from schemas.fingerprint import plan_fingerprint
from schemas.job import Job
from schemas.jobfile import job_schema, load_job, parse_job
from schemas.objectives import parse_objective
from schemas.storage import Location

GOOD: dict[str, Any] = {
    "name": "bert-small",
    "seed": 17,
    "output": "out/bert",
    "tokens": "out/tokens",
    "tokenizer": {"file": "tokenizer.json", "special_tokens": {"eos": "</s>"}},
    "sources": [
        {"name": "wikipedia", "files": "corpus/wikipedia.txt", "weight": 0.1},
        {"name": "books", "files": ["corpus/b-*.parquet"], "text": "t", "id": "i", "weight": 0.15, "max_epochs": 4},
        {"name": "code", "files": ["s3://bucket/code.jsonl.gz", "/abs/code.jsonl"], "weight": 0.05},
    ],
    "mixture": {"policy": "weights", "on_shortfall": "error"},
    "budget": {"tokens": "5B"},
    "splits": {"validation": 0.01},
    "objective": {"kind": "mlm", "mask_rate": 0.15, "whole_word": True},
    "curriculum": [
        {"stage": "short", "share": 0.3, "lengths": [32, 64, 128]},
        {"stage": "long", "share": 0.7, "lengths": [128, 512], "mixture": {"books": 0.4, "wikipedia": 0.6}},
    ],
    "gates": {"padding": {"max": 0.05}},
    "limits": {"range_bytes": "64MB", "block_tokens": 1e6},
}
TRAIN = {"train": {"model": "bpe", "vocab_size": 1000}}


def changed(*path: Any, **to: Any) -> dict[str, Any]:
    """`GOOD` with the value at a path replaced by `value`, or a key there given `key`/`value`."""
    raw = copy.deepcopy(GOOD)
    node: Any = raw
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = to["value"]
    return raw


def parsed(raw: Any) -> Job:
    return parse_job(yaml.safe_dump(raw, sort_keys=False))


def refused(raw: Any) -> str:
    """The paragraph of the refusal."""
    text = raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False)
    with pytest.raises(RequestError) as error:
        parse_job(text, where="jobs/job.yaml")
    paragraph = error.value.paragraph()
    assert "jobs/job.yaml" in paragraph
    assert len(paragraph.splitlines()) == 1
    assert error.value.exit_code == 2
    return paragraph


def test_the_good_job_is_good() -> None:
    made = parsed(GOOD)
    assert made.source("wikipedia").files == ["corpus/wikipedia.txt"]
    assert made.stage_shares() == [Fraction(3, 10), Fraction(7, 10)]
    assert made.objective == parse_objective({"kind": "mlm", "mask_rate": 0.15, "whole_word": True})
    assert (made.limits.range_bytes, made.limits.block_tokens) == (64_000_000, 1_000_000)
    assert not made.planned_without_data


def test_the_least_job_gets_the_documented_defaults() -> None:
    made = parsed(
        {k: GOOD[k] for k in ("name", "output", "tokenizer")} | {"sources": [{"name": "a", "files": "a.txt"}]}
    )
    assert (made.seed, made.tokens, made.budget.epochs, made.splits.validation) == (0, None, 1.0, 0.01)
    assert made.objective == parse_objective({"kind": "mlm"})
    assert [(s.lengths, s.share) for s in made.curriculum] == [([128, 256, 512], 1.0)]
    assert made.mixture.on_shortfall == "error"
    assert made.sources[0].format == "auto"
    assert made.sources[0].weight is None
    assert parsed(GOOD | {"objective": {"kind": "causal"}}).objective == parse_objective({"kind": "causal"})


@pytest.mark.parametrize("written", ["410e9", "410000000000", "410_000_000_000", "410B", "0.41T", "410G", "4.1e+11"])
def test_counts_are_read_in_every_notation(written: str) -> None:
    made = parse_job(yaml.safe_dump(GOOD).replace("tokens: 5B", f"tokens: {written}"))
    assert made.budget.tokens == 410_000_000_000


def test_paths_are_relative_to_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(yaml.safe_dump(GOOD))
    made = load_job(str(tmp_path / "jobs" / "job.yaml"))
    base = f"{tmp_path}/jobs"
    assert (made.output, made.tokens, made.tokenizer.file) == (
        f"{base}/out/bert",
        f"{base}/out/tokens",
        f"{base}/tokenizer.json",
    )
    assert [s.files for s in made.sources] == [
        [f"{base}/corpus/wikipedia.txt"],
        [f"{base}/corpus/b-*.parquet"],
        ["s3://bucket/code.jsonl.gz", "/abs/code.jsonl"],
    ]
    remote = parse_job(yaml.safe_dump({**GOOD, "tokens": None}), base=Location("s3://bucket/jobs"))
    assert (remote.output, remote.tokens) == ("s3://bucket/jobs/out/bert", "s3://bucket/jobs/out/bert/tokens")


def test_the_canonical_job_is_the_same_job() -> None:
    made = parsed(GOOD)
    assert Job.model_validate(made.canonical()) == made


WMT = {"name": "wmt", "files": "wmt.jsonl", "input": "en", "target": "fr", "prefix": "translate: ", "weight": 0.1}
PAIRS = {
    **GOOD,
    "objective": {"kind": "seq2seq"},
    "sources": [WMT],
    "curriculum": [{"stage": "main", "lengths": [64]}],
}


def pairs(**source: Any) -> dict[str, Any]:
    """`PAIRS` with these keys of the source replaced, or dropped where None."""
    return {**PAIRS, "sources": [{k: v for k, v in {**WMT, **source}.items() if v is not None}]}


def test_a_source_of_pairs_goes_with_an_objective_that_reads_them() -> None:
    (made,) = parsed(PAIRS).sources
    assert (made.input, made.target, made.prefix, made.holds_pairs) == ("en", "fr", "translate: ", True)
    assert made.text_fields == (("input", "en"), ("target", "fr"))
    assert parsed(GOOD).source("books").text_fields == (("text", "t"),)
    planned = {**PAIRS, "sources": [WMT, {"name": "more", "tokens": "5B", "weight": 1}]}
    assert parsed(planned).planned_without_data, "a source without files has no fields to name"
    assert Job.model_validate(parsed(PAIRS).canonical()) == parsed(PAIRS)


def test_a_source_says_how_its_sentences_are_found() -> None:
    made = parsed(changed("sources", 0, "language", value="de"))
    assert (made.sources[0].language, made.sources[1].language, made.sources[0].sentences) == ("de", "en", "split")
    assert parsed(changed("sources", 0, "sentences", value="lines")).sources[0].sentences == "lines"


def tables(policy: str, budget: Any = None, **columns: Any) -> dict[str, Any]:
    """`GOOD` under a policy, with these columns of its three sources and this budget; none left where None."""
    sources = [{k: v for k, v in s.items() if k in ("name", "files")} for s in GOOD["sources"]]
    for key, values in columns.items():
        for made, value in zip(sources, values, strict=True):
            made[key] = value
    needs = {"temperature": {"temperature": 2}, "unimax": {"max_epochs": 2}}.get(policy, {})
    raw = {k: v for k, v in GOOD.items() if k != "budget"} | ({"budget": budget} if budget else {})
    return raw | {"sources": sources, "mixture": {"policy": policy, **needs}}


def test_what_a_policy_only_checks_is_accepted_and_changes_neither_plan_nor_vocabulary() -> None:
    weight, epochs, budget = (0.5, 0.3, 0.2), (1, 2, 0.5), {"tokens": "5B"}
    by_weight, by_passes = tables("weights", budget, weight=weight), tables("epochs", epochs=epochs)
    for used, declared in (
        (by_weight, tables("weights", budget, weight=weight, epochs=epochs)),
        (by_weight, tables("weights", budget, weight=weight, epochs=(None, 2, None))),
        (by_passes, tables("epochs", epochs=epochs, weight=weight)),
        (by_passes, tables("epochs", budget, epochs=epochs)),
    ):
        made = parsed(declared)
        assert made != parsed(used)
        assert made.in_effect == parsed(used) == parsed(used).in_effect
        assert plan_fingerprint(made, "dataset") == plan_fingerprint(parsed(used), "dataset")
    other = parsed(tables("weights", budget, weight=(0.4, 0.4, 0.2)))
    assert plan_fingerprint(other, "dataset") != plan_fingerprint(parsed(by_weight), "dataset")
    assert parsed(tables("unimax", budget)).in_effect == parsed(tables("unimax", budget))


UNKNOWN = [
    ((), "buget", "budget"),
    (("sources", 1), "wieght", "weight"),
    (("tokenizer",), "fiel", "file"),
    (("mixture",), "on_short", "on_shortfall"),
    (("budget",), "epoch", "epochs"),
    (("splits",), "validatoin", "validation"),
    (("objective",), "maskrate", "mask_rate"),
    (("sources", 0), "targett", "target"),
    (("sources", 0), "langauge", "language"),
    (("curriculum", 1), "length", "lengths"),
    (("gates", "padding"), "maxi", "max"),
    (("limits",), "range_byte", "range_bytes"),
]


@pytest.mark.parametrize(("path", "key", "near"), UNKNOWN, ids=lambda v: str(v))
def test_an_unknown_key_names_its_place_and_the_nearest_key(path: tuple[Any, ...], key: str, near: str) -> None:
    paragraph = refused(changed(*path, key, value=1))
    assert f"unknown key {key!r}" in paragraph
    assert f"did you mean {near!r}" in paragraph.lower()
    if path:
        assert f"{path[0]}" in paragraph.split("Where:")[1]


def test_an_unknown_key_of_a_tokenizer_to_train_is_told_its_own_keys() -> None:
    paragraph = refused(changed("tokenizer", value={"train": {"model": "bpe", "vocab": 500}}))
    assert "did you mean 'vocab_size'" in paragraph.lower()


def test_an_unknown_key_of_an_objective_is_told_the_keys_of_that_kind() -> None:
    paragraph = refused(changed("objective", value={"kind": "span_corruption", "noise": 0.2}))
    assert "did you mean 'noise_density'" in paragraph.lower()
    assert "mask_rate" not in paragraph
    paragraph = refused(changed("objective", value={"kind": "causal", "mask_rate": 0.2}))
    assert "mask_rate" not in paragraph.split("Expected:")[1].split("Got:")[0]


def test_a_misspelt_required_key_is_reported_as_misspelt_and_not_as_missing() -> None:
    raw = {("nmae" if k == "name" else k): v for k, v in GOOD.items()}
    assert "did you mean 'name'" in refused(raw).lower()


@pytest.mark.parametrize("key", ["name", "output", "tokenizer", "sources"])
def test_a_missing_key_is_named(key: str) -> None:
    assert f"lacks the key {key!r}" in refused({k: v for k, v in GOOD.items() if k != key})


def test_a_key_given_twice_is_refused_with_its_line() -> None:
    text = yaml.safe_dump(GOOD) + "seed: 4\n"
    assert "'seed' is given twice" in refused(text)
    assert f"line {len(text.splitlines())}" in refused(text)
    assert "given twice" in refused(yaml.safe_dump(GOOD).replace("tokens: 5B", "tokens: 5B\n  tokens: 6B"))


SAYS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("two sources of one name", changed("sources", 1, "name", value="code"), ["'code'", "unique"]),
    ("names that differ in case", changed("sources", 1, "name", value="CODE"), ["case"]),
    ("weight for some only", changed("sources", 1, "weight", value=None), ["weight", "books"]),
    ("negative weight", changed("sources", 1, "weight", value=-0.1), ["sources[1] (books).weight", "-0.1"]),
    ("weight NaN", changed("sources", 1, "weight", value=float("nan")), ["sources[1] (books).weight", "nan"]),
    ("weight infinite", changed("sources", 1, "weight", value=float("inf")), ["sources[1] (books).weight", "inf"]),
    ("weight a list", changed("sources", 1, "weight", value=[1]), ["sources[1] (books).weight"]),
    ("files and tokens", changed("sources", 0, "tokens", value="5B"), ["exactly one of `files` and `tokens`"]),
    ("neither files nor tokens", changed("sources", 0, "files", value=[]), ["exactly one of `files` and `tokens`"]),
    ("no sources", changed("sources", value=[]), ["sources"]),
    ("max_epochs zero", changed("sources", 0, "max_epochs", value=0), ["max_epochs", "0"]),
    ("unsorted lengths", changed("curriculum", 0, "lengths", value=[64, 32]), ["[32, 64]", "curriculum[0] (short)"]),
    ("repeated lengths", changed("curriculum", 0, "lengths", value=[64, 64]), ["[64]", "curriculum[0] (short)"]),
    ("no lengths", changed("curriculum", 0, "lengths", value=[]), ["curriculum[0] (short).lengths"]),
    ("length zero", changed("curriculum", 0, "lengths", value=[0, 8]), ["curriculum[0] (short).lengths[0]"]),
    ("shares over one", changed("curriculum", 0, "share", value=0.4), ["add to 1", "1.1"]),
    ("shares for some", changed("curriculum", 0, "share", value=None), ["share", "some stages"]),
    ("share zero", changed("curriculum", 0, "share", value=0), ["curriculum[0] (short).share"]),
    ("two stages of one name", changed("curriculum", 0, "stage", value="long"), ["'long'", "unique"]),
    ("no stage", changed("curriculum", value=[]), ["curriculum"]),
    ("unknown source in a mixture", changed("curriculum", 1, "mixture", value={"bocks": 1}), ["'bocks'", "books"]),
    ("mixture of zeros", changed("curriculum", 1, "mixture", value={"books": 0}), ["zero", "'long'"]),
    (
        "negative mixture",
        changed("curriculum", 1, "mixture", value={"books": -1}),
        ["curriculum[1] (long).mixture.books"],
    ),
    ("unknown gate", changed("gates", value={"paddin": {"max": 1}}), ["'paddin'", "padding"]),
    ("empty gate", changed("gates", "padding", value={}), ["`min`", "`max`"]),
    ("both tokenizers", changed("tokenizer", "train", value=TRAIN["train"]), ["exactly one of `file` and `train`"]),
    ("no tokenizer", changed("tokenizer", value={}), ["exactly one of `file` and `train`"]),
    ("lowercase bytes", changed("tokenizer", value={"train": {"model": "bpe", "lowercase": True}}), ["lowercase"]),
    (
        "tiny vocabulary",
        changed("tokenizer", value={"train": {"model": "bpe", "vocab_size": 5}}),
        ["384", "vocab_size"],
    ),
    ("unknown model", changed("tokenizer", value={"train": {"model": "bpee"}}), ["'bpe'", "'bpee'"]),
    ("unknown role", changed("tokenizer", "special_tokens", value={"end": "x"}), ["'eos'", "special_tokens"]),
    (
        "budget of two units",
        changed("budget", value={"tokens": 5, "epochs": 1}),
        ["exactly one of `tokens` and `epochs`"],
    ),
    ("empty budget", changed("budget", value={}), ["exactly one of `tokens` and `epochs`"]),
    ("budget zero", changed("budget", value={"tokens": 0}), ["budget.tokens", "0"]),
    ("budget negative", changed("budget", value={"tokens": -5}), ["budget.tokens", "-5"]),
    ("budget half a token", changed("budget", value={"tokens": 1.5}), ["whole number", "1.5"]),
    ("budget in words", changed("budget", value={"tokens": "many"}), ["5B", "'many'"]),
    ("budget NaN", changed("budget", value={"epochs": float("nan")}), ["budget.epochs"]),
    ("budget a number", changed("budget", value=5), ["budget", "5"]),
    ("validation one", changed("splits", "validation", value=1), ["splits.validation", "1"]),
    ("unknown objective", changed("objective", value={"kind": "mlmm"}), ["'mlmm'", "'mlm'"]),
    ("objective without kind", changed("objective", value={"mask_rate": 0.2}), ["objective", "kind"]),
    ("objective a list", changed("objective", value=["mlm"]), ["objective", "mapping", "mlm"]),
    ("kind a list", changed("objective", value={"kind": ["mlm"]}), ["objective", "mlm, "]),
    ("input alone", pairs(target=None), ["sources[0] (wmt)", "`input`", "without `target`"]),
    ("target alone", pairs(input=None), ["sources[0] (wmt)", "`target`", "without `input`"]),
    ("prefix of documents", changed("sources", 0, "prefix", value="x: "), ["sources[0] (wikipedia)", "`prefix`"]),
    ("pair of one field", pairs(target="en"), ["sources[0] (wmt)", "same field 'en'"]),
    ("pair and text", pairs(text="body"), ["sources[0] (wmt)", "`text: body`", "`input`"]),
    ("pairs in plain text", pairs(format="txt"), ["sources[0] (wmt)", "format txt", "jsonl or parquet"]),
    ("pairs in lines", pairs(format="lines"), ["sources[0] (wmt)", "format lines", "jsonl or parquet"]),
    ("no pairs for seq2seq", {**GOOD, "objective": {"kind": "seq2seq"}}, ["seq2seq", "'wikipedia'", "`input`"]),
    ("pairs for mlm", {**PAIRS, "objective": {"kind": "mlm"}}, ["mlm", "'wmt'", "give `text`", "seq2seq"]),
    ("pairs for the default", {k: v for k, v in PAIRS.items() if k != "objective"}, ["mlm", "'wmt'"]),
    (
        "unknown language",
        changed("sources", 0, "language", value="xx"),
        ["(wikipedia).language", "'xx'", "de, el, en"],
    ),
    ("slow language", changed("sources", 0, "language", value="da"), ["(wikipedia).language", "'da'", "such as en"]),
    ("language a flag", changed("sources", 0, "language", value=False), ["(wikipedia).language"]),
    ("unknown sentences", changed("sources", 0, "sentences", value="line"), ["'split'", "'lines'", "'line'"]),
    ("mask_rate over one", changed("objective", "mask_rate", value=1.1), ["objective.mask_rate", "1.1"]),
    ("mask_rate zero", changed("objective", "mask_rate", value=0), ["mask_rate"]),
    ("replacements over one", changed("objective", "random_replace_prob", value=0.3), ["0.8", "0.3"]),
    ("predictions zero", changed("objective", "max_predictions", value=0), ["objective.max_predictions"]),
    ("seed negative", changed("seed", value=-1), ["seed", "-1"]),
    ("seed too large", changed("seed", value=2**63), ["seed"]),
    ("unknown policy", changed("mixture", "policy", value="wieghts"), ["mixture.policy", "'weights'"]),
    *(
        (f"{key} under {policy}", tables(policy, **{key: (1, 1, 1)}), [*says, f"got policy: {policy}", "leave"])
        for policy in ("proportional", "temperature", "unimax")
        for key, says in {
            "weight": ["weights are for mixture policy: weights", "epochs, which checks them"],
            "epochs": ["`epochs` of 'wikipedia'", "for mixture policy: epochs", "weights, which checks it"],
        }.items()
    ),
    ("a budget in passes of passes", tables("epochs", {"epochs": 2}, epochs=(1, 1, 1)), ["leave it out", "`tokens`"]),
    ("passes for some", tables("epochs", epochs=(1, None, 1)), ["needs `epochs` of every source", "'books'"]),
    ("all passes zero", tables("epochs", epochs=(0, 0, 0), weight=(1, 1, 1)), ["all `epochs` are zero"]),
    ("checked weights for some", tables("epochs", epochs=(1, 1, 1), weight=(1, None, 1)), ["weight", "books"]),
    ("checked passes negative", tables("weights", epochs=(-1, 1, 1)), ["sources[0] (wikipedia).epochs", "-1"]),
    ("all weights zero", changed("sources", value=[{"name": "a", "files": "a", "weight": 0}]), ["zero", "positive"]),
    ("sources a mapping", changed("sources", value={"a": "b"}), ["sources"]),
    ("name a list", changed("name", value=["a"]), ["name"]),
    ("number for a key", {**GOOD, 5: 1}, ["string", "5"]),
]


@pytest.mark.parametrize(("raw", "says"), [c[1:] for c in SAYS], ids=[c[0] for c in SAYS])
def test_each_mistake_is_one_paragraph_that_names_place_and_value(raw: dict[str, Any], says: list[str]) -> None:
    paragraph = refused(raw)
    for words in says:
        assert words in paragraph


UNSAFE = ["../x", "..", ".", "a/b", "/abs", "a..b", "", " a", "a b", "a\n", "-a", ".a", "ä", "a\\b", "a:b", "a*"]


@pytest.mark.parametrize("name", [*UNSAFE, "x.json", "part-0.parquet", "a" * 81, "a\0"])
def test_a_name_that_is_no_safe_folder_is_refused_everywhere(name: str) -> None:
    assert "name" in refused(changed("sources", 1, "name", value=name))
    assert "name" in refused(changed("name", value=name))
    assert "stage" in refused(changed("curriculum", 0, "stage", value=name))


def test_safe_names_are_accepted() -> None:
    for name in ("a", "A-1_b.c", "0", "a" * 80, "wiki.en"):
        raw = changed("sources", 1, "name", value=name) | {"curriculum": [{"stage": name, "lengths": [8]}]}
        assert parsed(raw).sources[1].name == parsed(raw).curriculum[0].stage == name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "an empty file"),
        ("# only a comment\n", "an empty file"),
        ("- a\n- b\n", "list"),
        ("just words", "str"),
        ("name: [unclosed\n", "line"),
        ("name: a\n\tseed: 1\n", "line 2"),
        ("a: b: c\n", "line 1"),
        ("name: !!python/object/apply:os.system [ls]\n", "python/object"),
        ("name: 2020-13-45\n", "YAML"),
        ("name: a\n---\nname: b\n", "YAML"),
        ("name: \x00\n", "YAML"),
        ("[" * 2000, "YAML"),
        ("{? a\n", "YAML"),
    ],
    ids=range(13),
)
def test_what_is_no_mapping_in_yaml_is_said(text: str, says: str) -> None:
    assert says in refused(text)


@pytest.mark.parametrize(
    "text",
    ["? [1]\n: 2\n", "? {a: 1}\n: 2\n", 'seed: !!int ""\n', 'seed: !!bool "maybe"\n', 'seed: !!timestamp "x"\n'],
)
def test_odd_but_parseable_yaml_is_no_traceback(text: str) -> None:
    refused(yaml.safe_dump({k: v for k, v in GOOD.items() if k != "seed"}) + text)


def test_an_absurd_count_is_no_traceback() -> None:
    refused(changed("budget", value={"tokens": "1e9999999"}))


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for path, says in (("missing.yaml", "no job file"), (".", "directory"), ("latin.yaml", "UTF-8")):
        with pytest.raises(RequestError, match=says):
            load_job(str(tmp_path / path))


def test_a_path_through_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError):
        load_job(str(tmp_path / "file" / "job.yaml"))


def test_several_mistakes_are_counted() -> None:
    raw = changed("seed", value=-1)
    raw["splits"]["validation"] = 2
    assert "1 more mistake" in refused(raw)
    raw["budget"] = {}
    assert "2 more mistakes" in refused(raw)


def outcome(text: str) -> tuple[str, Job | None]:
    """The refusal's paragraph, or the job."""
    try:
        return "", parse_job(text, base=Location("/base"))
    except RequestError as error:
        return error.paragraph(), None


def _paths(node: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [p for key, value in items for p in [(*here, key), *_paths(value, (*here, key))]]


ODD = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 0.0, -0.5, 1e308, float("nan"), float("inf"), 2**63, 10**30]),
    st.sampled_from(
        ["", " ", "..", "../x", "~", "mlm", "5B", "0", "-1", "nan", "[1]", "\x07", "s3://", "ftp://x", "a"]
    ),
    st.sampled_from(
        [[], {}, [None], [[]], {"": 1}, {"kind": None}, {"kind": []}, {"file": 1, "train": 2}, [{}], {1: 2}]
    ),
    st.text(max_size=5),
    st.integers(),
    st.floats(),
    st.recursive(
        st.none() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
)


@cases(250)
@given(
    st.lists(st.tuples(st.sampled_from(_paths(GOOD)), st.sampled_from(["drop", "set", "rename"]), ODD), max_size=4)
)
def test_no_mutation_of_a_job_raises_anything_but_a_request_error(
    mutations: list[tuple[tuple[Any, ...], str, Any]],
) -> None:
    raw = copy.deepcopy(GOOD)
    for path, action, value in mutations:
        node: Any = raw
        try:
            for part in path[:-1]:
                node = node[part]
            old = node.pop(path[-1])
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # an earlier mutation took it away
        if action == "drop":
            continue
        key, value = (value, old) if action == "rename" else (path[-1], value)
        if isinstance(node, list):
            node.insert(int(path[-1]), value)
        elif isinstance(key, (str, int, float, bool, type(None))):
            node[key] = value
    text = yaml.safe_dump(raw, sort_keys=False)
    paragraph, made = outcome(text)
    assert (made is None) == (len(paragraph) > 20)
    assert len(paragraph.splitlines()) <= 1
    assert made is None or Job.model_validate(made.canonical()) == made


@cases(200)
@given(st.text(max_size=60) | st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@?#, \n\t<=~0."), max_size=40))
def test_no_text_at_all_raises_anything_but_a_request_error(text: str) -> None:
    if "[" in text or "{" in text:
        return  # a list as a key: see test_odd_but_parseable_yaml_is_no_traceback
    paragraph, made = outcome(text)
    assert made is None
    assert len(paragraph) > 20


def _listed(raw: dict[str, Any]) -> dict[str, Any]:
    sources = [{**s, "files": [s["files"]] if isinstance(s["files"], str) else s["files"]} for s in raw["sources"]]
    return {**raw, "sources": sources}


def test_the_json_schema_accepts_the_good_job_and_refuses_unknown_keys() -> None:
    schema = job_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(_listed(GOOD))) == []
    for path, key, _ in UNKNOWN:
        assert list(validator.iter_errors(_listed(changed(*path, key, value=1)))), key


def test_the_json_schema_accepts_one_file_without_brackets_as_the_loader_does() -> None:
    assert list(jsonschema.Draft202012Validator(job_schema()).iter_errors(GOOD)) == []
