"""A person's mistakes among the settings, answered with what would be right."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import QuotedString
from pydantic import ValidationError

from datamodules.errors import InputError
from experiments.overrides import Typed, groups, options
from experiments.schema import Config

NETWORKS = (("network",), ("baseline",), ("cxr_network",))
BOUNDS = {  # of a number in a JSON schema
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
# Groups that take their values from other keys, which are the ones to change.
STAND_FOR_OTHERS = re.compile(r"recipes\.|inputs\.|models\.[^.]+\.network\.")

KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list such as [a,b]",
    "dict_type": "a group of keys",
    "model_type": "a group of keys",
    "model_attributes_type": "a group of keys",
}


def check_choices(typed: Sequence[Typed], folders: Sequence[Path]) -> None:
    """Raise InputError for GROUP=OPTION without such an option."""
    for override in typed:
        group, value = override.key.split("@")[0], override.parsed.value()
        if not (override.chooses or group.startswith("hydra/")):
            continue
        if override.chooses:
            names = [path.stem for path in options(group, folders)]
        else:
            running = GlobalHydra.instance().hydra
            assert running is not None
            names = running.config_loader.get_group_options(group)
        if override.parsed.is_delete():
            told = f"{override.text}: a {group} there must be, one of {', '.join(names)}."
            raise InputError(told)
        if isinstance(value, QuotedString):
            value = value.text
        if str(value) not in names:
            near = difflib.get_close_matches(str(value), names, 1, 0.3)
            hint = f" Did you mean {group}={near[0]}?" if near else ""
            if isinstance(value, dict):
                hint = f" A value of its file is {override.key.rpartition('@')[2]}.KEY=VALUE."
            if group in ("hydra/launcher", "hydra/sweeper"):
                hint += f" Others are packages: hydra-{value}-{group.removeprefix('hydra/')}."
            raise InputError(f"{override.text}: {group} is one of {', '.join(names)}.{hint}")


def check_parents(files: Mapping[str, Any], typed: Sequence[Typed]) -> None:
    """Raise InputError for a key below one that is not there, or that holds no keys."""
    given = [override.key for override in typed if not override.parsed.is_delete()]
    for override in typed:
        parts = override.key.split(".")
        if override.chooses or override.hydras:
            continue
        if parts[0] in ("models", "inputs", "task") and override.parsed.value() == {}:
            raise InputError(
                f"{override.text}: an empty group takes nothing away. Leave one out with "
                f"'~{parts[0]}.NAME'."
            )
        if re.match(r"models\.[^.]+\.finetune\.", override.key):
            continue  # what of its recipe a model changes is for the schema to judge
        if parts[0] == "pretrain" and len(parts) == 2 and parts[1] not in files["pretrain"]:
            # A pretraining from elsewhere may have any settings, but those its file has.
            hint = nearest(override.key, files)
            raise InputError(f"{override.text}: there is no such key. {hint}")
        value: Any = files
        for depth, part in enumerate(parts[:-1], 1):
            parent, rest = ".".join(parts[:depth]), ".".join(parts[depth:])
            if parent in given:
                break
            if part not in value:
                near = [f"{name}.{rest}" for name in _near_siblings(parent, files, 0.6)]
                hint = _one_of(near) or nearest(override.key, files)
                raise InputError(f"{override.text}: there is no {parent}. {hint}")
            value = value[part]
            if isinstance(value, dict):
                continue
            if other := re.fullmatch(r"\$\{(.*)\}", str(value)):
                told = (
                    f"stands for {other[1]}. Change {other[1]}.{rest}, which may serve others too, "
                    f"or give {parent} its own"
                )
            elif isinstance(value, list):
                told = "is a list. Give the whole of it"
            else:
                told = "is null in this study" if value is None else "holds no keys"
            raise InputError(f"{override.text}: {parent} {told}.")


def complaints(error: ValidationError, values: Mapping[str, Any], typed: Sequence[Typed]) -> str:
    """What is wrong with each of the settings `values`, a line each."""
    errors = error.errors(include_url=False)
    of_networks = {(e["type"], *e["loc"][1:]) for e in errors if e["loc"][:1] in NETWORKS}
    told = [
        _complaint(one, values, typed)
        for one in errors
        # A model's network is one of these, and would be complained of again.
        if not (one["loc"][:1] == ("models",) and (one["type"], *one["loc"][3:]) in of_networks)
    ]
    return "\n".join(dict.fromkeys(told))


def _complaint(error: Any, values: Mapping[str, Any], typed: Sequence[Typed]) -> str:
    """What is wrong with one setting: its full name, its value as typed, and what is right."""
    kind, context = error["type"], error.get("ctx", {})
    place = list(error["loc"])
    if place[:1] in (["cohort"], ["pretrain"]) and len(place) > 1:
        del place[1]  # which of the alternatives it is
    if kind == "union_tag_invalid":
        place.append("source")
    # Of a list's value the whole list is shown: it is what a person types.
    within = next((i for i, part in enumerate(place) if isinstance(part, int)), len(place))
    key = ".".join(map(str, place[:within]))
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    told = next((o.text for o in reversed(typed) if o.key == key), f"{key}={_shown(value)}").lstrip(
        "+"
    )
    item = f"{_shown(error['input'])} " if within < len(place) else "it "
    if context.keys() & {"ge", "gt", "le", "lt"}:
        range_ = next(node for node in _schema_at(place) if node.keys() & BOUNDS.keys())
        words = [f"{word} {range_[b]:g}" for b, word in BOUNDS.items() if b in range_]
        return f"{told}: {item}must be {' and '.join(words)}."
    if kind == "extra_forbidden":
        return f"{told}: there is no such key. {nearest(key, values)}"
    if kind == "missing":
        return f"{key} must be given, for example {key}=VALUE."
    if kind == "value_error":
        text = str(context["error"])
        if key:
            text = f"{key}{'.' if re.match(r'[a-z_.]+[=:]', text) else ': '}{text}"
        return f"{text}."
    if kind in ("literal_error", "union_tag_invalid"):
        choices = re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{told}: it is one of {', '.join(choices)}.{hint}"
    if kind in ("too_short", "too_long"):
        count = context.get("min_length") or context.get("max_length")
        return f"{told}: it has {'fewer' if kind == 'too_short' else 'more'} than {count} values."
    if kind in KINDS:
        return f"{told}: {item}must be {KINDS[kind]}."
    return f"{told}: {error['msg']}."


def _shown(value: Any) -> str:
    """A value as a person would type it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ",".join(map(_shown, value)) + "]"
    else:
        text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def nearest(key: str, values: Mapping[str, Any]) -> str:
    """Every key that a person may have meant, in words."""
    last = key.rsplit(".", 1)[-1]
    known = [
        name
        for name in _keys(values)
        if not f"{name}.".startswith(f"{key}.") and not STAND_FOR_OTHERS.match(name)
    ]
    ends = {name: name.rsplit(".", 1)[-1] for name in known}
    alike = difflib.get_close_matches(last, set(ends.values()), 1, 0.7)
    return (
        _one_of(_near_siblings(key, values, 0.8))
        or _one_of([name for name in known if ends[name] == last])
        or _one_of(_near_siblings(key, values, 0.6)[:1])
        or _one_of([name for name in known if ends[name] in alike])
        or _one_of(difflib.get_close_matches(key, known, 1, 0.5))
        or "--help and --config show the keys."
    )


def _one_of(names: Sequence[str]) -> str:
    *others, last = names or [""]
    told = f"{', '.join(others)} or {last}" if others else last
    return f"Did you mean {told}?" if last else ""


def _near_siblings(key: str, values: Mapping[str, Any], cutoff: float) -> list[str]:
    *parents, last = key.split(".")
    node: Any = values
    for part in parents:
        node = node.get(part) if isinstance(node, Mapping) else None
    there = node if isinstance(node, Mapping) else {}
    known = (_of_schema(parents, there) or set(there)) - {last}
    known |= set() if parents else groups()
    near = difflib.get_close_matches(last, sorted(map(str, known)), 3, cutoff)
    return [".".join([*parents, name]) for name in near]


def _of_schema(place: Sequence[str], there: Mapping[str, Any]) -> set[str]:
    """The keys that the schema knows at a place; of several kinds of group, those of the one that
    is `there`."""
    known: set[str] = set()
    for node in _schema_at(place):
        keys = node.get("properties", {})
        if all(there.get(key) == of["const"] for key, of in keys.items() if "const" in of):
            known |= keys.keys()
    return known


def _schema_at(place: Sequence[str | int]) -> list[dict[str, Any]]:
    """The parts of the JSON schema that hold at a place: several where it may be null, say."""
    schema = Config.model_json_schema()

    def whole(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        parts = node.get("anyOf") or node.get("oneOf")
        if parts:
            for part in parts:
                yield from whole(part)
        else:
            yield node

    nodes = [schema]
    for part in place:
        below = []
        for node in nodes:
            child = node.get("items")
            if isinstance(part, str):
                child = node.get("properties", {}).get(part, node.get("additionalProperties"))
            below += list(whole(child)) if isinstance(child, dict) else []
        nodes = below
    return nodes


def _keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
