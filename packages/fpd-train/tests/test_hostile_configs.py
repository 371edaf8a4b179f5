"""Run configs that make no sense, or mean harm: one sentence that names the key, before anything starts."""

import json
import math
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fpd_core.config import Config, ConfigError
from fpd_train import checkpointing, manifest
from fpd_train.config import TrainConfig, load_config
from fpd_train.engine_config import OptimizerConfig

REPO = Path(__file__).resolve().parents[3]
SHIPPED = sorted(path for folder in (".", "paper", "rivals") for path in REPO.glob(f"configs/{folder}/*.json"))
SCHEMA = TrainConfig.model_json_schema()


def write(folder, content):
    path = folder / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


TABLE = [
    # Accepted once, trained and exported.
    ("method.objective.bandwidths=[NaN]", "bandwidths holds nan at 0; numbers must be finite"),
    ("method.objective.bandwidths=[0.02, Infinity]", "bandwidths holds inf at 1;"),
    ("method.objective.bandwidths=[0]", r"bandwidths\.0: .*greater than or equal to 0\.0001 \(found 0\)"),
    ("method.objective.bandwidths=[-1]", r"bandwidths\.0: .*found -1"),
    ("method.objective.bandwidths=[1e-320]", r"bandwidths\.0"),
    ("method.objective.bandwidths=[1e300]", r"bandwidths\.0"),
    ("method.objective.bandwidths=[]", "bandwidths"),
    ("method.objective.bandwidths=[true]", r"bandwidths\.0: .*a valid (number|integer)"),
    ('method.objective.bandwidths=["0.1"]', r"bandwidths\.0: .*a valid (number|integer)"),
    ("optimizer.eps=Infinity", r"optimizer\.eps"),
    ("optimizer.eps=1e999", r"optimizer\.eps"),
    ("optimizer.eps=1e-320", r"optimizer\.eps"),
    ("optimizer.eps=0", r"optimizer\.eps"),
    ("optimizer.eps=1e10", r"optimizer\.eps"),
    ("method.objective.temperature=Infinity", "temperature"),
    ("method.objective.temperature=1e300", "temperature"),
    ("method.objective.temperature=0", "temperature"),
    ("method.objective.guidance_scale=-5", r"guidance_scale: .*found -5"),
    ("method.objective.guidance_scale=NaN", "guidance_scale"),
    ("method.objective.guidance_scale=1e30", "guidance_scale"),
    ("method.objective.remask.clamp=[0,0]", r"clamp\.1"),
    ("method.objective.remask.clamp=[0.9,0.1]", "clamp must be two ordered numbers"),
    ("method.objective.remask.clamp=[0.1]", "clamp"),
    ("method.objective.remask.clamp=[-1,2]", "clamp"),
    ('method.objective.remask.end={"clamp": [0, 0]}', r"end\.clamp\.1: .*found 0"),
    ('method.objective.remask.end={"clamp": [0.1, 1.5]}', r"end\.clamp\.1: .*found 1\.5"),
    ('method.objective.remask.end={"clamp": [0.9, 0.1]}', r"end: clamp must be two ordered numbers"),
    ('method.objective.remask.end={"passes": 2}', "unknown key 'passes'"),
    ("method.objective.remask.hold=0.5", r"remask: hold 0\.5 delays the way to an end"),
    ("method.objective.remask.hold=1", r"remask\.hold: .*less than 1"),
    ("method.objective.guidance_scale=sample", r"guidance_scale: .*a number from 0 to 100, 'sampler'.*found 'sample'"),
    ('method.objective.guidance_scale={"at_zero": 1.5}', "guidance_scale: .*both ends of r"),
    ('method.objective.guidance_scale={"at_zero": -1, "at_one": 2}', "guidance_scale: .*from 0 to 100 at both ends"),
    ("method.objective.init_mask_ratio=1e-320", "init_mask_ratio"),
    ("method.objective.init_mask_ratio=1e-9", "init_mask_ratio"),
    ("method.objective.init_mask_ratio=0", "init_mask_ratio"),
    ("method.objective.embedding_noise=1", "embedding_noise"),
    ('method.lift={"backbone": {"blocks": [-1]}}', r"blocks\.0: .*found -1"),
    ('method.lift={"backbone": {"blocks": [99]}}', r"blocks\.0: .*found 99"),
    ('method.lift={"backbone": {"blocks": [1, 1]}}', r"blocks: .*name each of \[1\] once"),
    ('method.lift={"backbone": {"name": "dinov3", "blocks": [12]}}', r"blocks\.0"),
    ('method.lift={"backbone": {"image_size": 8}}', "image_size"),
    ("optimizer.warmup_steps=1e12", "warmup_steps"),
    ("optimizer.warmup_steps=-1", "warmup_steps"),
    ("optimizer.lr=1e30", r"optimizer\.lr"),
    ("optimizer.lr=Infinity", r"optimizer\.lr"),
    ("optimizer.lr=true", r"optimizer\.lr: .*a valid (number|integer)"),
    ('optimizer.lr="1e-3"', r"optimizer\.lr: .*a valid (number|integer)"),
    ("optimizer.lr=1e-320", "optimizer: lr should be 0 or at least 1e-20"),
    ("optimizer.betas=[1, 1]", r"optimizer\.betas"),
    ("optimizer.clip=-1", r"optimizer\.clip"),
    ("micro_batch=1e9", "micro_batch"),
    ("micro_batch=true", "micro_batch: .*a valid (number|integer)"),
    ("steps=1e15", "steps"),
    ("steps=2.5", "steps"),
    ("optimizer.clip=1e-320", "clip should be 0 or at least 1e-20 away from it"),
    ("steps=true", "steps"),
    ("steps=" + "9" * 5000, "steps"),
    ("seed=-1", "seed"),
    ("seed=18446744073709551616", "seed"),
    ("keep_checkpoints=0", "keep_checkpoints"),
    ("engine.accumulation=1e9", r"engine\.accumulation"),
    ("engine.zero_stage=true", r"engine\.zero_stage"),
    ("ema.decay=1", r"ema\.decay"),
    ("ema.warmup=1", r"ema\.warmup"),
    ("method.gather=yes", r"method\.fpd\.gather"),
    ("output=/", "output: .*not the home or working folder or one above it"),
    ("output=.", "output: .*not the home or working folder"),
    ("output=", "output: .*not the home or working folder"),
    ("output=~", "output: .*not the home or working folder"),
    ("output=runs/../..", "output: .*not the home or working folder"),
    ("output=/etc/fpd", "output: .*not one of the system"),
    ("output=/usr", "output: .*not one of the system"),
    ("output=/dev/shm/../null", "output: .*not one of the system"),
    ('output="a\\u0000b"', "output: .*no NUL"),
    ("output=" + "a" * 5000, "output: .*at most 4096 characters"),
    ("output=3", "output"),
    ('data={"name": "caption_shards", "folder": "pipe:touch x;"}', "begins with 'pipe', which is not among allow"),
    ('data={"name": "caption_shards", "folder": "PIPE:touch x;"}', "begins with 'pipe'"),
    ('data={"name": "caption_shards", "folder": "http://host/x", "allow": ["pipe"]}', "begins with 'http'"),
    ('data={"name": "caption_shards", "folder": "file:///etc"}', "begins with 'file'"),
    ('data={"name": "caption_shards", "folder": "x", "allow": ["file"]}', "allow"),
    ('data={"name": "caption_shards", "folder": ""}', "folder"),
    ('data={"name": "caption_shards", "folder": ["x"]}', "folder"),
    ('data={"name": "caption_shards", "folder": "x", "shuffle_shards": 1e9}', "shuffle_shards"),
    ("data.num_classes=1e12", "num_classes"),
    ("method.name=[]", "method"),
    ("method=[]", "method"),
    ("method=null", "method"),
    ("data=3", "data"),
    ("=3", "not of the form"),
    ("a" * 10_000, "not of the form"),
    ("x=" + "[" * 100_000, "--set x nests lists and objects deeper than 64"),
    ("method={", "--set method is not valid JSON"),
]


@pytest.mark.parametrize(("override", "message"), TABLE, ids=[row[0][:60] for row in TABLE])
def test_nonsense_is_refused(tmp_path, config, monkeypatch, override, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, config), [override])
    assert len(str(caught.value)) < 1500
    assert len(str(caught.value).splitlines()) <= 3
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["lr", "eps", "clip", "betas"])
def test_numbers_that_come_from_code_are_finite(field, value):
    """Not from JSON, which is refused before."""
    with pytest.raises(ValueError, match=r"finite number"):
        OptimizerConfig.model_validate({field: (value, 0.9) if field == "betas" else value})


NETWORKS = [
    ("depth=-1", "depth"),
    ("depth=0", "depth"),
    ("depth=1099511627776", "depth"),
    ("num_heads=3", "num_heads 3 does not divide the width 128"),
    ("num_heads=0", "num_heads"),
    ("width=-8", "width"),
    ("width=0", "width"),
    ("width=1e9", "width"),
    ("seq_len=0", "seq_len"),
    ("codebook_size=1", "codebook_size"),
    ("codebook_size=1e12", "codebook_size"),
    ("num_classes=0", "num_classes"),
    ("mlp_width=-1", "mlp_width"),
    ("dropout=1", "dropout"),
    ("dropout=NaN", "dropout"),
]


@pytest.mark.parametrize(("override", "message"), NETWORKS)
def test_networks_that_cannot_be_built(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(REPO / "configs/fashion-teacher.json", [f"method.network.{override}"])


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("fashion-tokenizer", "method.tokenizer.widths=[1, 8, 8]"),
        ("fashion-tokenizer", "method.tokenizer.code_dim=-1"),
        ("fashion-tokenizer", "method.codebook_decay=0"),
        ("fashion-tokenizer", "method.perceptual_weight=Infinity"),
        ("fashion-tokenizer", "method.dead_code_threshold=-1"),
        ("fashion-classifier", "method.classifier.widths=[0, 0, 0]"),
        ("fashion-classifier", "method.shift=1e9"),
        ("fashion-classifier", "data.image_size=1e9"),
        ("fashion-teacher", "method.visible_weight=1e300"),
        ("maskgen", "method.teacher.aesthetic_score=-Infinity"),
    ],
)
def test_other_methods(name, override):
    with pytest.raises(ConfigError, match=override.partition("=")[0].rpartition(".")[2]):
        load_config(REPO / f"configs/{name}.json", [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "found a list"),
        (b"null", "found null"),
        (b"3", "found a number"),
        (b'"text"', "found text"),
        (b"[" * 100_000, "JSON_DEPTH"),
        (b'{"a":' * 100_000, "JSON_DEPTH"),
        (b'{"steps": 1, "steps": 2}', "gives the key 'steps' twice"),
        (b'{"seed": NaN}', "holds nan at seed; numbers must be finite"),
        (b'{"optimizer": {"lr": Infinity}}', r"holds inf at optimizer\.lr; numbers"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b"", "not valid JSON"),
        (b'{"' + b"a" * 10**6 + b'": 1}', "unknown key"),
        (b'{"' + b'": 1, "'.join(b"%d" % n for n in range(20_000)) + b'": 1}', "unknown key"),
    ],
)
@pytest.mark.parametrize("overrides", [[], ["seed=1"], ["method.objective.weighting=plain"]])
def test_files_that_hold_no_config(tmp_path, content, message, overrides):
    with pytest.raises(ConfigError, match=rf"run\.json.*{message}") as caught:
        load_config(write(tmp_path, content), overrides)
    assert len(str(caught.value)) < 1500


def test_a_byte_order_mark_is_skipped(tmp_path, config):
    assert load_config(write(tmp_path, b"\xef\xbb\xbf" + json.dumps(config).encode())).steps == 6


def test_a_foreign_folder_is_no_run_folder(tmp_path, config, teacher_folder):
    with pytest.raises(ConfigError, match=r"is no run folder: no run wrote its config\.json"):
        load_config(write(tmp_path, config), [f"output={teacher_folder}"])
    earlier = load_config(write(tmp_path, config))
    earlier.output.mkdir()
    (earlier.output / "config.json").write_text(earlier.model_dump_json())
    assert load_config(write(tmp_path, config)) == earlier


# A resolved config is all that a run depends on: these are the shipped files' values, default by default.
def test_shipped_configs_resolve_as_before():
    known = json.loads((Path(__file__).parent / "resolved.json").read_text())
    found = {path.relative_to(REPO / "configs").as_posix(): path for path in SHIPPED}
    assert sorted(known) == sorted(found)
    for name, path in found.items():
        assert load_config(path).model_dump(mode="json") == known[name], name


def sections(model, seen=None):
    """A config class and every section below it."""
    seen = {} if seen is None else seen
    if model not in seen:
        seen[model] = True
        for field in model.model_fields.values():
            for part in parts_of(field.annotation):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    sections(part, seen)
    return list(seen)


def parts_of(annotation):
    yield annotation
    for argument in get_args(annotation):
        yield from parts_of(argument)


def every_section():
    """Those of runs, and all others of fpd-core and fpd-train: of weight folders, samplers, checkpoints."""
    found = [*sections(TrainConfig), checkpointing.State, manifest.Manifest]
    waiting = [Config]
    while waiting:
        for child in waiting.pop().__subclasses__():
            waiting.append(child)
            if child.__module__.startswith(("fpd_core.", "fpd_train.")) and child not in found:
                found.append(child)
    return found


MEASURED = {"quality"}  # of a finished run's record: whatever came out


def leaves(schema, definitions, path=()):
    """(path, schema) of every number below a schema."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for variant in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from leaves(variant, definitions, path)
    for item in (*schema.get("prefixItems", ()), *([schema["items"]] if isinstance(schema.get("items"), dict) else ())):
        yield from leaves(item, definitions, (*path, "[]"))
    for name, child in schema.get("properties", {}).items():
        yield from leaves(child, definitions, (*path, name))
    if schema.get("type") in ("number", "integer"):
        yield path, schema


@pytest.mark.parametrize("section", every_section(), ids=lambda section: section.__name__)
def test_every_number_has_two_bounds_and_takes_no_text_or_truth(section):
    schema = section.model_json_schema()
    for path, leaf in leaves(schema, schema.get("$defs", {})):
        where = f"{section.__name__}.{'.'.join(path)}"
        if "const" in leaf:
            continue
        assert {"minimum", "exclusiveMinimum"} & leaf.keys(), f"{where} has no least value"
        assert {"maximum", "exclusiveMaximum"} & leaf.keys(), f"{where} has no greatest value"
    for name, field in section.model_fields.items():
        if {bool, int, float} & set(parts_of(field.annotation)) and name not in MEASURED:
            assert "Strict(strict=True)" in repr(field), f"{section.__name__}.{name} is no Number, Whole or Flag"
            kinds = [type(bound) for bound in field.metadata]
            assert len(set(kinds)) == len(kinds), f"{section.__name__}.{name} has a bound twice; one of them is ignored"


def test_the_walk_finds_the_sections():
    names = {section.__name__ for section in every_section()}
    assert names >= {
        "TrainConfig",
        "ObjectiveConfig",
        "MaskGitConfig",
        "SamplerConfig",
        "GenerationConfig",
        "EngineConfig",
    }


# --- the fuzz: valid configs, changed at places that the schema names ---


def places(schema, path=()):
    """Paths of every key of the schema, over all variants of its unions."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    for variant in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from places(variant, path)
    for item in (*schema.get("prefixItems", ()), *([schema["items"]] if isinstance(schema.get("items"), dict) else ())):
        yield from places(item, (*path, 0))
    for name, child in schema.get("properties", {}).items():
        yield (*path, name)
        yield from places(child, (*path, name))


PLACES = sorted(set(places(SCHEMA)), key=str)
BASES = [json.loads(path.read_text()) for path in SHIPPED] + [
    load_config(path).model_dump(mode="json") for path in SHIPPED
]
NUMBERS = [0, -0.0, -1, 1, 2, 3, 0.5, 1e-320, 5e-324, -5e-324, 1e-30, 1e30, 1e308, -1e308, 2**31, 2**63, 2**64, 10**30]
TEXTS = [
    "",
    "x",
    "NaN",
    "1",
    "true",
    "null",
    "../..",
    "/",
    "a\0b",
    "pipe:touch x;",
    "\x1b[2J",
    "é" * 5000,
    "fpd",
    "fashion",
]
SCALARS = st.sampled_from([*NUMBERS, *TEXTS, True, False, None]) | st.floats(allow_nan=False, allow_infinity=False)
HOSTILE = st.recursive(
    SCALARS | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "path", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(("set", "delete", "insert")), HOSTILE), min_size=1, max_size=3
)


def changed(tree, changes):
    """A copy of `tree` with values set, deleted or added at the places that exist or can be made."""
    tree = json.loads(json.dumps(tree))
    for path, action, value in changes:
        node = tree
        for part in path[:-1]:
            if isinstance(node, dict) and isinstance(part, str):
                node = node.setdefault(part, {})
            elif isinstance(node, list) and node and part == 0:
                node = node[0]
        last = path[-1]
        if isinstance(node, list):
            node.insert(0, value) if action == "insert" else node.__setitem__(slice(0, 1), [value])
        elif isinstance(node, dict) and isinstance(last, str):
            match action:
                case "delete":
                    node.pop(last, None)
                case "set":
                    node[last] = value
                case "insert":
                    node[f"{last}x"] = value
    return tree


def numbers_of(value):
    match value:
        case dict():
            for child in value.values():
                yield from numbers_of(child)
        case list() | tuple():
            for child in value:
                yield from numbers_of(child)
        case bool():
            pass
        case int() | float():
            yield value


def keys_of(tree):
    match tree:
        case dict():
            for key, child in tree.items():
                yield key
                yield from keys_of(child)
        case list():
            for child in tree:
                yield from keys_of(child)


def attempt(path):
    try:
        return load_config(path), ""
    except ConfigError as error:
        return None, str(error)


@pytest.mark.fuzz
def test_changed_configs_load_or_are_refused_by_a_sentence(tmp_path, cases):
    """From the schema: any value at any place. All that loads is finite, bounded and the same when loaded again."""
    outcomes = {"loaded": 0, "refused": 0}
    for base in BASES:  # pydantic builds a section's validator when one is first loaded
        attempt(write(tmp_path, base))
    every_key = {part for path in PLACES for part in path if isinstance(part, str)}

    @settings(
        max_examples=cases(3000),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(base=st.sampled_from(BASES), changes=CHANGES)
    def check(base, changes):
        tree = changed(base, changes)
        path, began = write(tmp_path, tree), time.process_time()
        loaded, message = attempt(path)
        assert time.process_time() - began < 1
        if loaded is None:
            outcomes["refused"] += 1
            assert any(key in message for key in every_key | set(keys_of(tree))), message
            assert len(message.splitlines()) <= 12
            return
        outcomes["loaded"] += 1
        resolved = loaded.model_dump(mode="json")
        assert all(math.isfinite(number) and abs(number) < 2**63 for number in numbers_of(resolved))
        assert load_config(write(tmp_path, resolved)) == loaded

    check()
    print(outcomes)
    assert min(outcomes.values()) > 100
