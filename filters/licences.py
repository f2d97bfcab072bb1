"""What a package says of its licence, in the metadata files that package managers read. Nothing is guessed from texts.

Formats: Python's core metadata (packaging.python.org, fields ``License-Expression``, ``License``, ``Classifier``) and
npm's ``package.json`` (docs.npmjs.com, field ``license``).
"""

import re

_MAX_CHARS = 200
_METADATA = re.compile(rb"[^/]+\.dist-info/METADATA|(?:EGG-INFO/)?PKG-INFO")
_HEADER = re.compile(r"(License-Expression|License|Classifier):[ \t]*(.*(?:\n[ \t].*)*)", re.IGNORECASE)
_NOTHING = frozenset({"", "unknown", "none"})


def licence_of(path: bytes, raw: bytes) -> str | None:
    """The licence that a file tells of the package that it describes: one printable line of at most 200 characters.

    ``path`` is the path in the package. Only its own files count, never those of a package that it brings along.
    None where the file is none of them, is damaged or says nothing.
    """
    if _METADATA.fullmatch(path):
        return _core_metadata(raw)
    return _package_json(raw) if path == b"package.json" else None


def _core_metadata(raw: bytes) -> str | None:
    """``License-Expression``, else ``License``, else the last parts of the classifiers, in their order."""
    text = raw.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    fields: dict[str, list[str]] = {}
    for line in re.split(r"\n(?![ \t])", text.partition("\n\n")[0]):
        if match := _HEADER.fullmatch(line):
            fields.setdefault(match[1].lower(), []).append(match[2].strip())
    classifiers = [c for c in fields.get("classifier", ()) if c.startswith("License ::")]
    named = ", ".join(dict.fromkeys(c.rpartition("::")[2].strip() for c in classifiers))
    for value in (*fields.get("license-expression", ()), *fields.get("license", ()), named):
        if licence := _line(value):
            return licence
    return None


def _package_json(raw: bytes) -> str | None:
    """``license``, a string or (before npm 3) an object with a type."""
    import orjson

    try:
        package = orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return None
    licence = package.get("license") if isinstance(package, dict) else None
    if isinstance(licence, dict):
        licence = licence.get("type")
    return _line(licence) if isinstance(licence, str) else None


def _line(value: str) -> str | None:
    """The value, if it is one short line that says something (whole licence texts stand in such fields too)."""
    value = value.strip()
    fits = len(value) <= _MAX_CHARS and value.isprintable() and value.lower() not in _NOTHING
    return value if fits else None
