"""E-mail addresses, IP addresses and keys in text, replaced by ``<EMAIL>``, ``<IP_ADDRESS>`` and ``<KEY>``.

The kinds and placeholders are BigCode's (StarCoder, arXiv 2305.06161, section 4.1). A kernel looks at the bytes first
and lets only texts with a candidate pass on to RE2, so clean text costs little and hostile text linear time. In a text
the kinds go in the order key, e-mail, address; the rules are such that redacting twice changes nothing:

* **key**: private key blocks (PEM, PGP), tokens with a known prefix (AWS, GitHub, GitLab, Slack, Google, Stripe, npm,
  JWT), an AWS secret after its name, and in quotes after a name like ``api_key`` a value of at least 20 characters with
  10 distinct ones and 4 changes between letter and digit. AWS's own sample keys (``...EXAMPLE``) stay.
* **e-mail**: a whole run of local characters, ``@``, a domain whose top level is a country's or one of ``_GENERIC``.
  Example domains (RFC 2606, 6761), ``git@``, ``hg@`` and ``svn@`` addresses of repositories, and what is followed by
  ``(``, ``[`` or ``_`` (a matrix product, not an address) stay.
* **address**: IPv4 in dotted form and IPv6 in the global range, whole. Private, reserved and documentation ranges (IANA
  special-purpose registries) and public resolvers (BigCode's list) stay, and so does what looks like the number of a
  version, a section or an OID: all four numbers below 10 (BigCode), ending in ``.0.0``, starting with 1.2, 1.3 or 2.5,
  after ``name/``, ``>=`` or a word like ``version`` or ``section``, touching a part of a name, or all four below 64
  without the mark of an address: ``://`` or ``@`` before, a port after, a word before like ``server`` (BigCode) or
  ``ip`` (Presidio).
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import re2
from numpy.typing import NDArray

from filters.redact_kernel import ASSIGNED_LIKE, EMAIL, IPV4_LIKE, IPV6_LIKE, TOKEN_LIKE, gate
from filters.words import buffers

KINDS = ("EMAIL", "IP_ADDRESS", "KEY")


class Redacted(NamedTuple):
    """Of n texts: ``text``, where the placeholders stand, and ``counts`` u32[n, 3], what was replaced, as in KINDS."""

    text: pa.LargeStringArray
    counts: NDArray[np.uint32]


def redact(text: pa.LargeStringArray) -> Redacted:
    """Redact n texts; without a finding the array itself comes back. Raises TypeError unless it is ``large_string``."""
    data, offsets = buffers(text)
    counts = np.zeros((len(text), 3), np.uint32)
    flags = np.zeros(len(text), np.uint8)
    gate(data, offsets, flags)
    pieces: list[memoryview | bytes] = []
    lengths = np.diff(offsets)
    view = data.data
    copied = int(offsets[0])
    for i in np.flatnonzero(flags).tolist():
        start, stop = int(offsets[i]), int(offsets[i + 1])
        found, counts[i] = _redact(view[start:stop].tobytes(), int(flags[i]))
        if counts[i].any():
            pieces += [view[copied:start], found]
            lengths[i] = len(found)
            copied = stop
    if not pieces:
        return Redacted(text, counts)
    pieces.append(view[copied : int(offsets[-1])])
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    arrays = [pa.py_buffer(bounds), pa.py_buffer(b"".join(pieces))]
    return Redacted(pa.LargeStringArray.from_buffers(len(text), *arrays), counts)


def _redact(raw: bytes, flags: int) -> tuple[bytes, list[int]]:
    counts = [0, 0, 0]
    for flag, kind, spans in _PASSES:
        if flags & flag:
            raw, found = _replace(raw, spans, f"<{KINDS[kind]}>".encode())
            counts[kind] += found
    return raw, counts


def _replace(raw: bytes, spans: Callable[[bytes], Iterator[tuple[int, int]]], placeholder: bytes) -> tuple[bytes, int]:
    pieces = []
    done = 0
    for start, stop in spans(raw):
        pieces += [raw[done:start], placeholder]
        done = stop
    return (b"".join([*pieces, raw[done:]]), len(pieces) // 2) if pieces else (raw, 0)


_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_NAME = _WORD | frozenset(b".-")
_LOCAL, _AFTER, _CALL = _NAME | frozenset(b"%+"), _WORD | frozenset(b"-%+@"), frozenset(b"([_")
_DOT, _COLON = b".:"

# No single dash is followed by another in the body, so that a block without an end can't swallow the next one.
_BLOCK = re2.compile(
    rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    rb"((?:-?[A-Za-z0-9+/=,:.()\\\"'@\s])*)"
    rb"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
)
# Each alternative is settled within 64 bytes: one that waits without end beside others would cost quadratic time.
_TOKEN = re2.compile(
    rb"A[KS]IA[A-Z2-7]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}|glpat-[A-Za-z0-9_-]{20,}"
    rb"|xox[abeoprs]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|npm_[A-Za-z0-9]{36}"
)
_JWT = re2.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")
_ASSIGNED = re2.compile(
    rb"(?i)(?:secret|token|passwd|password|credential|api_?key|access_?key|auth_?key|private_?key)[a-z0-9_-]{0,20}"
    rb"[\"']?\]?\s{0,4}(?:=>|:=|=|:)\s{0,4}[\"']([a-z0-9+/_=.-]{20,})[\"']"
)
_AWS_SECRET = re2.compile(rb"(?i)aws_secret_access_key[\"']?\s{0,4}[=:]\s{0,4}[\"']?([a-z0-9/+]{40})(?:[\s\"',;)]|$)")


def _blocks(raw: bytes) -> Iterator[tuple[int, int]]:
    for match in _BLOCK.finditer(raw):
        if sum(byte in _WORD for byte in match.group(1)) >= 64:
            yield match.span()


def _tokens(raw: bytes) -> Iterator[tuple[int, int]]:
    spans = []
    for pattern, before in ((_TOKEN, _WORD), (_JWT, _NAME)):
        for match in pattern.finditer(raw):
            alone = _at(raw, match.start() - 1) not in before and _at(raw, match.end()) not in _WORD
            if alone and not match.group().endswith(b"EXAMPLE"):
                spans.append(match.span())
    return _disjoint(spans)


def _aws_secrets(raw: bytes) -> Iterator[tuple[int, int]]:
    for match in _AWS_SECRET.finditer(raw):
        if not match.group(1).endswith(b"EXAMPLEKEY"):
            yield match.span(1)


def _assigned(raw: bytes) -> Iterator[tuple[int, int]]:
    return (match.span(1) for match in _ASSIGNED.finditer(raw) if _looks_random(match.group(1)))


def _disjoint(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    done = 0
    for start, stop in sorted(spans):
        if start >= done:
            yield start, stop
            done = stop


def _looks_random(value: bytes) -> bool:
    changes = sum(a != b for a, b in pairwise(byte < 58 for byte in value if byte in _WORD and byte != 95))
    return len(set(value)) >= 10 and changes >= 4 and not value.endswith(b"EXAMPLEKEY")


def _at(raw: bytes, position: int) -> int:
    """The byte at a position, or -1 outside."""
    return raw[position] if 0 <= position < len(raw) else -1


_ADDRESS_SPEC = re2.compile(rb"([A-Za-z0-9._%+-]+)@([A-Za-z0-9.-]+)")
_GENERIC = frozenset(
    (
        b"com org net edu gov mil int info biz name pro academy agency app art blog build business camp cloud club"
        b" codes community company computer consulting design dev digital email engineering expert foundation fun"
        b" global group guru health host icu institute law life link live ltd media network news ninja one online page"
        b" party press rocks shop site social software solutions space store studio support systems team tech"
        b" technology today tools top university ventures website wiki work works world xyz zone"
    ).split()
)  # a choice of ICANN's generic top-level domains, the frequent ones
_COUNTRIES = (
    b"acadaeafagaialamaoaqarasatauawaxazbabbbdbebfbgbhbibjbmbnbobrbsbtbwbybzcacccdcfcgchcickclcmcncocrcucvcwcxcyczdedjdkdm"
    b"dodzeceeegereseteufifjfkfmfofrgagbgdgegfggghgiglgmgngpgqgrgsgtgugwgyhkhmhnhrhthuidieiliminioiqirisitjejmjojpkekgkhki"
    b"kmknkpkrkwkykzlalblclilklrlsltlulvlymamcmdmemgmhmkmlmmmnmompmqmrmsmtmumvmwmxmymznancnenfngninlnonpnrnunzompapepfpgph"
    b"pkplpmpnprptpwpyqarerorsrurwsasbscsdsesgshsiskslsmsnsosrssstsusvsxsysztctdtftgthtjtktltmtntotrtttvtwtzuaugukusuyuzva"
    b"vcvevgvivnvuwfwsyeytzazmzw"
)  # ISO 3166-1 alpha-2 as delegated by IANA, with ac, eu, su and uk
_TOP_LEVELS = _GENERIC | {_COUNTRIES[i : i + 2] for i in range(0, len(_COUNTRIES), 2)}
_EXAMPLES, _REPOSITORIES = {b"example", b"test", b"invalid", b"localhost", b"local"}, {b"git", b"hg", b"svn"}


def _emails(raw: bytes) -> Iterator[tuple[int, int]]:
    run = -1  # where the last address that goes ended: what touches one that stays, stays too
    for match in _ADDRESS_SPEC.finditer(raw):
        local = match.group(1).lstrip(b".+-")
        domain = match.group(2).rstrip(b".-")
        labels = domain.lower().split(b".")
        stop = match.start(2) + len(domain)
        if (
            1 <= len(local) <= 64
            and local.lower() not in _REPOSITORIES
            and len(labels) >= 2
            and labels[-1] in _TOP_LEVELS
            and not _EXAMPLES.intersection(labels[-2:])
            and all(label and not label.startswith(b"-") and not label.endswith(b"-") for label in labels)
            and _at(raw, match.end()) not in _CALL
            and (match.start() == run or _at(raw, match.start() - 1) not in _NAME)
        ):
            run = match.end()
            yield match.end(1) - len(local), stop


_IPV4 = re2.compile(rb"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}")
_IPV6 = re2.compile(rb"[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}")
# IANA special-purpose address registries; multicast and class E as one
_SPECIAL_IPV4 = (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 "
    "203.0.113.0/24 224.0.0.0/3"
)
_SPECIAL_IPV6 = "2001::/23 2001:db8::/32 2002::/16 3fff::/20"
_RESOLVERS = (
    "8.20.247.20 8.26.56.26 76.76.19.19 76.223.122.150 94.140.14.14 94.140.15.15 149.112.112.112 "
    "208.67.220.220 208.67.222.222"
)
_SPECIAL = [ipaddress.ip_network(network) for network in f"{_SPECIAL_IPV4} {_SPECIAL_IPV6} {_RESOLVERS}".split()]
_SMALL = 64  # of random addresses one in 256 has four numbers below it
_VERSION = re2.compile(
    r"(?i)(?:[a-z]/|[!=]=|(?:[<>~]=|~>) ?|(?:version|release|revision|firmware|section|clause|chapter|annex|appendix"
    r"|§|\b(?:build|rev|ver))s?\.?[ \t\"'=:(,>]*)$".encode()
)
_MARKED = re2.compile(
    rb"(?i)(?:://|@|(?:(?:^|[^a-z])ip|(?-i:[a-z]I[Pp])|addr|address|host|server|dns|gateway)(?:e?s|_?v4)?"
    rb"(?:=>|[ \t\"'=:(,\[])*)$"
)


def _ipv4(raw: bytes) -> Iterator[tuple[int, int]]:
    return (match.span() for match in _IPV4.finditer(raw) if _is_host(raw, *match.span()))


def _ipv6(raw: bytes) -> Iterator[tuple[int, int]]:
    for match in _IPV6.finditer(raw):
        start, stop = match.span()
        if raw[stop - 1 : stop] == b":" != raw[stop - 2 : stop - 1]:
            stop -= 1
        # A dotted tail makes it another address, also once the tail is a placeholder.
        more = _at(raw, stop) == _COLON and _at(raw, stop + 1) in _WORD | {_COLON}
        more |= raw.startswith((b"<IP_ADDRESS>", b":<IP_ADDRESS>"), stop)
        if _stands_alone(raw, start, stop) and _at(raw, start - 1) != _COLON and not more:
            with suppress(ValueError):
                if not _is_special(ipaddress.IPv6Address(raw[start:stop].decode())):
                    yield start, stop


def _stands_alone(raw: bytes, start: int, stop: int) -> bool:
    """Whether nothing touches it that may be part of a name or an e-mail address, but a dot that ends a sentence."""
    after = _at(raw, stop)
    if after == _DOT:
        after = _at(raw, stop + 1)
    return _at(raw, start - 1) not in _LOCAL and after not in _AFTER


def _is_host(raw: bytes, start: int, stop: int) -> bool:
    parts = raw[start:stop].split(b".")
    numbers = [int(part) for part in parts]
    if max(numbers) > 255 or any(len(part) > 1 and part.startswith(b"0") for part in parts):
        return False
    if max(numbers) < 10 or numbers[2:] == [0, 0] or numbers[:2] in ([1, 2], [1, 3], [2, 5]):
        return False
    before = raw[max(0, start - 24) : start]
    marked = _MARKED.search(before) or (_at(raw, stop) == _COLON and raw[stop + 1 : stop + 2].isdigit())
    if _VERSION.search(before) or (max(numbers) < _SMALL and not marked) or not _stands_alone(raw, start, stop):
        return False
    return not _is_special(ipaddress.IPv4Address(bytes(numbers)))


def _is_special(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address in network for network in _SPECIAL)


_PASSES: tuple[tuple[int, int, Callable[[bytes], Iterator[tuple[int, int]]]], ...] = (
    (TOKEN_LIKE, 2, _blocks),
    (TOKEN_LIKE, 2, _tokens),
    (TOKEN_LIKE, 2, _aws_secrets),
    (ASSIGNED_LIKE, 2, _assigned),
    (EMAIL, 0, _emails),
    (IPV6_LIKE, 1, _ipv6),
    (IPV4_LIKE, 1, _ipv4),
)
