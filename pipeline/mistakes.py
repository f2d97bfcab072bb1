"""What is wrong in a manifest, said to its author: file, line, key, what was expected and the nearest valid name."""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticCustomError

Key = tuple[str | int, ...]

_SAID = {
    "missing": "this key is missing",
    "tuple_type": "a list was expected",
    "model_type": "keys with values were expected",
    "dict_type": "keys with values were expected",
    "string_type": "a text was expected",
    "string_too_short": "a text that is not empty was expected",
    "int_type": "a whole number was expected",
    "int_from_float": "a whole number was expected",
    "int_parsing": "a whole number was expected",
    "float_type": "a number was expected",
    "float_parsing": "a number was expected",
    "finite_number": "a number was expected",
    "bool_type": "true or false was expected",
    "bool_parsing": "true or false was expected",
    "greater_than": "a number above {gt} was expected",
    "greater_than_equal": "at least {ge} was expected",
    "less_than": "a number below {lt} was expected",
    "less_than_equal": "at most {le} was expected",
    "multiple_of": "a multiple of {multiple_of} was expected",
    "literal_error": "{expected} was expected",
    "too_short": "the list is empty; at least {min_length} is needed",
    "string_pattern_mismatch": "at most 64 of a-z, 0-9, - and _ were expected, a letter or digit first",
}
_OPENED = ("while parsing a flow sequence", "while parsing a flow mapping", "while scanning a quoted scalar")


def disagreement(found: Sequence[tuple[Key, str]]) -> PydanticCustomError:
    """What a validator of a whole model raises: each message with its key below the model."""
    return PydanticCustomError("disagreement", "parts of the manifest disagree", {"found": list(found)})


def near(name: str, valid: Iterable[str], taken: Iterable[str] = ()) -> str:
    """The end of a message on a name that does not exist: the nearest valid one (not one that is taken), or all."""
    close = _closest(name, {*valid} - {*taken}) or _closest(name, valid, 0.85)
    return f"; did you mean {close!r}?" if close else f"; valid: {', '.join(sorted({*valid}))}"


def _closest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    return next(iter(difflib.get_close_matches(name, sorted(valid), n=1, cutoff=cutoff)), None)


def line_of(node: yaml.Node, key: Iterable[str | int]) -> int:
    """The line of a key, or of the nearest key above that is there."""
    return _find(node, key)[0]


def _find(node: yaml.Node, key: Iterable[str | int]) -> tuple[int, yaml.Node]:
    line: int = node.start_mark.line + 1
    for part in key:
        if isinstance(node, yaml.MappingNode):
            match = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if match is None:
                break
            line, node = match[0].start_mark.line + 1, match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line, node


def explain(errors: Sequence[ErrorDetails], node: yaml.Node, path: str, root: type[BaseModel]) -> list[str]:
    """One sentence a mistake, ``file:line: key: message``, in the order of the file."""
    found: list[tuple[Key, str]] = []
    extra = {error["loc"]: _instead(error["loc"], node, root) for error in errors if error["type"] == "extra_forbidden"}
    for error in errors:
        kind, loc = error["type"], error["loc"]
        is_above = any(other["loc"][: len(loc)] == loc for other in errors if other is not error)
        is_misspelt = any(loc[:-1] == place[:-1] and meant == loc[-1] for place, (meant, _) in extra.items() if loc)
        if (kind == "missing" and is_misspelt) or (kind == "too_short" and is_above):
            continue
        key, _ = _walk(root, loc)
        if kind == "disagreement":
            found += [(key + tuple(below), message) for below, message in error["ctx"]["found"]]
        elif kind == "extra_forbidden":
            found.append((key, extra[loc][1]))
        else:
            found.append(((*key, "kind") if kind.startswith("union_tag") else key, _message(error, root)))
    told = sorted((line_of(node, key), number) for number, (key, _) in enumerate(found))
    lines = [f"{path}:{line}: {'.'.join(map(str, found[n][0])) or 'manifest'}: {found[n][1]}" for line, n in told]
    return list(dict.fromkeys(lines))


def explain_yaml(error: yaml.YAMLError, text: str, path: str) -> str:
    """What is wrong with a file that is no YAML."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{path}: not valid YAML: {error}"
    line, problem, context = mark.line, getattr(error, "problem", ""), getattr(error, "context", None)
    began = getattr(error, "context_mark", None) or mark
    if "".join(text.splitlines()[line : line + 1]).lstrip(" ").startswith("\t"):
        problem = "the line begins with a tab; indent with spaces"
    elif context == "while scanning a simple key":
        line, problem = began.line, "a key, a colon and a space were expected"
    elif context == "while scanning an alias" or problem == "found undefined alias":
        problem = "what begins with * must stand in quotes"
    elif problem == "found character that cannot start any token":
        problem = "a text that begins with such a character must stand in quotes"
    elif context in _OPENED and began.line != line:
        problem += f" ({context} that begins on line {began.line + 1})"
    return f"{path}:{line + 1}: not valid YAML: {problem}"


def _message(error: ErrorDetails, root: type[BaseModel]) -> str:
    kind, given, loc = error["type"], error.get("input"), error["loc"]
    if kind == "union_tag_invalid":
        return f"unknown kind {given.get('kind')!r}" + near(str(given.get("kind")), _options(_walk(root, loc)[1]))
    if kind == "union_tag_not_found":
        return f"the source's kind is missing ({', '.join(_options(_walk(root, loc)[1]))})"
    if kind not in _SAID:
        return error["msg"].removeprefix("Value error, ")
    message = _SAID[kind].format(**{name: _plain(value) for name, value in error.get("ctx", {}).items()})
    if kind in ("missing", "too_short"):
        return message
    return f"{message}, got {_shown(given)}{_hint(kind, given, _walk(root, loc)[1])}"


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(given: Any) -> str:
    if isinstance(given, str):
        return repr(given)
    if isinstance(given, list | dict):
        return "a list" if isinstance(given, list) else "keys"
    return "nothing" if given is None else json.dumps(given)


def _hint(kind: str, given: Any, expected: Any) -> str:
    if kind == "tuple_type" and isinstance(given, dict):
        return "; begin each entry with a dash"
    if kind == "tuple_type" and isinstance(given, str):
        return f"; write [{given}]"
    if kind == "string_type" and isinstance(given, bool):
        return "; YAML reads yes, no, on and off so: put it in quotes"
    if kind == "string_type" and isinstance(given, int | float):
        return "; put it in quotes"
    if kind == "literal_error":
        close = difflib.get_close_matches(str(given), typing.get_args(expected), n=1, cutoff=0.6)
        return f"; did you mean {close[0]!r}?" if close else ""
    if kind == "model_type":
        return f"; its keys: {', '.join(expected.model_fields)}"
    if kind == "dict_type" and _options(expected):
        return "; the first keys of a source are name and kind"
    if kind == "string_pattern_mismatch":
        return f"; write {re.sub('[^a-z0-9]+', '-', given.lower()).strip('-')[:64] or 'a-name'}"
    return ""


def _instead(loc: Key, node: yaml.Node, root: type[BaseModel]) -> tuple[str | None, str]:
    """Of an unknown key: which is meant, and what to say. It may be one of another kind of source."""
    name, valid = str(loc[-1]), _walk(root, loc[:-1])[1].model_fields
    kinds = _options(_walk(root, loc[:-2])[1]) if len(loc) > 1 else {}
    others = [kind for kind, model in kinds.items() if name in model.model_fields]
    if others:
        has = f"sources of kind {' and '.join(others)} have it, one of kind {loc[-2]} has {', '.join(valid)}"
        return None, f"unknown key; {has}"
    _, place = _find(node, _walk(root, loc[:-1])[0])
    taken = [str(key.value) for key, _ in place.value] if isinstance(place, yaml.MappingNode) else []
    return _closest(name, {*valid} - {*taken}), "unknown key" + near(name, valid, taken)


def _walk(root: type[BaseModel], loc: Iterable[str | int]) -> tuple[Key, Any]:
    """The key of an error in the file (without the kinds of sources that pydantic puts in), and the type there."""
    key: list[str | int] = []
    kind: Any = root
    for part in loc:
        options = _options(kind)
        if options:
            kind = options[str(part)]
            continue
        key.append(part)
        kind = _below(kind, part)
    return tuple(key), kind


def _below(kind: Any, part: str | int) -> Any:
    """The type of what stands under a key of a model, in a list or in a mapping."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = kind.model_fields[str(part)].annotation if part in kind.model_fields else None
    else:
        kind = next((a for a in reversed(typing.get_args(kind)) if a is not ...), None)
    while typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(a for a in typing.get_args(kind) if a is not type(None))
    return kind


def _options(kind: Any) -> dict[str, Any]:
    """The models of a union that is told apart by ``kind``; none of any other type."""
    union = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else None
    models = typing.get_args(union) if typing.get_origin(union) in (typing.Union, types.UnionType) else ()
    return {typing.get_args(model.model_fields["kind"].annotation)[0]: model for model in models}
