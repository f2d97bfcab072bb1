"""The page of every key of a manifest, from its models: ``python -m pipeline.manifest_docs > docs/manifest.md``."""

from collections.abc import Iterator
from typing import Any

from pipeline.manifest import Manifest

_HEAD = """\
# Every key of a manifest

Made by `python -m pipeline.manifest_docs > docs/manifest.md` from the models of `pipeline.manifest`; a test compares
the two. Paths are local or fsspec URLs, relative to the manifest's folder. `[]` is an entry of a list. **needed**: the
key has no default. Any other key stops the build. `manifests/` holds two whole examples.

| key | value | default | meaning |
| --- | --- | --- | --- |
"""
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
_BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "multipleOf": "in steps of {}"}

Spec = dict[str, Any]


def document() -> str:
    """The page, in Markdown."""
    schema = Manifest.model_json_schema()
    rows: dict[str, list[Spec]] = {}
    for key, spec in _keys(schema, "", schema["$defs"], {}):
        rows.setdefault(key, []).append(spec)
    return _HEAD + "".join(f"| `{key}` | {' | '.join(_cells(specs))} |\n" for key, specs in rows.items())


def _keys(model: Spec, prefix: str, models: Spec, places: dict[str, str]) -> Iterator[tuple[str, Spec]]:
    """Every key of a model and of those below it. ``places``: under which key each model is told."""
    kind = model["properties"].get("kind", {}).get("const", "")
    for name, spec in model["properties"].items():
        key = prefix + name
        below = [(f"{key}[]." if is_list else f"{key}.", ref) for is_list, ref in _models(spec)]
        told = next((places[ref] for place, ref in below if places.get(ref, place) != place), "")
        yield key, spec | {"needed": name in model.get("required", ()), "kind": kind, "as": told.rstrip("[].")}
        for place, ref in below:
            if places.setdefault(ref, place) == place:
                yield from _keys(models[ref], place, models, places)


def _models(spec: Spec, is_list: bool = False) -> Iterator[tuple[bool, str]]:
    """The models that a value may be, and whether as entries of a list."""
    if "$ref" in spec:
        yield is_list, spec["$ref"].rsplit("/", 1)[1]
    for choice in [*spec.get("anyOf", ()), *spec.get("oneOf", ())]:
        yield from _models(choice, is_list)
    if "items" in spec:
        yield from _models(spec["items"], True)


def _cells(specs: list[Spec]) -> tuple[str, str, str]:
    """Value, default and meaning of a key, which several kinds of sources may have."""
    first, kinds = specs[0], [spec["kind"] for spec in specs if spec["kind"]]
    if any("const" in spec for spec in specs) and len(specs) > 1:
        told = "; ".join(f"`{spec['const']}`: {spec['description']}" for spec in specs)
        return "one of these", "**needed**", told
    of = f" ({', '.join(kinds)})" if 0 < len(kinds) < 4 else ""
    return _value(first), _default(first), _meaning(first) + of


def _meaning(spec: Spec) -> str:
    told = str(spec.get("description", ""))
    return f"{told}; keys as in `{spec['as']}`" if spec["as"] else told


def _value(spec: Spec) -> str:
    choices = [choice for choice in spec.get("anyOf", ()) if choice.get("type") != "null"]
    if choices:
        return " or ".join(map(_value, choices))
    if "const" in spec or "enum" in spec:
        return ", ".join(f"`{value}`" for value in spec.get("enum", [spec.get("const")]))
    if spec.get("type") == "array":
        return f"list of {_value(spec['items'])}"
    if spec.get("type") == "object":
        values = [spec.get("additionalProperties"), *spec.get("patternProperties", {}).values()]
        return f"names, each with: {_value(next(value for value in values if value))}"
    if "type" not in spec:
        return "keys"
    bounds = " ".join(said.format(f"{spec[name]:.12g}") for name, said in _BOUNDS.items() if name in spec)
    return f"{_WORDS[spec['type']]} {bounds}".strip()


def _default(spec: Spec) -> str:
    if spec["needed"]:
        return "**needed**"
    value = spec.get("default")
    if value in (None, [], {}, ""):
        return "none"
    if isinstance(value, dict):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(document(), end="")
