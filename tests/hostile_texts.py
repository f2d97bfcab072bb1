"""Hostile texts and pages: what hangs or misleads the code that parses, decodes, redacts or tokenises them."""

import gzip
import hashlib
import json
from collections.abc import Sequence
from typing import Any

DOCUMENT = "document"
EOS, BOS = "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"
SENTINELS = ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>")
OTHERS = ("<|endoftext|>", "<|EOT|>", "<fim_prefix>", "<s>", "</s>", "<pad>", "<unk>", "[CLS]", "\ufeff", "Ċ", "Ġ")
SPECIALS = (EOS, BOS, *SENTINELS, *OTHERS)
OK = b"def fine():\n    return 'a document among hostile ones'\n"


def noise(size: int, low: int = 0, count: int = 256, key: bytes = b"") -> bytes:
    """Bytes from ``low`` on, ``count`` different ones, equal in every run."""
    table = bytes(low + byte % count for byte in range(256))
    return hashlib.shake_256(key).digest(size).translate(table)


def parsers() -> dict[bytes, bytes]:
    """What hangs or crashes grammars (languages reference, section 4, and what was found since)."""
    size = 64_000
    function = b"void foo()\n{\n}\n"
    mumps = b"".join(b'L%d(A,B) ;c\n S X=$G(^A(%d)) I X D F^B Q:X=""\n' % (i, i) for i in range(70))
    nested = b"".join(b" " * i + b"a:\n" for i in range(900))
    made = {b"hang%d.%s" % (i, end): function for i, end in enumerate((b"cob", b"cbl", b"cpy", b"ccp", b"d", b"v"))}
    made |= {b"hang": function, b"mumps.m": mumps, b"levels.dm": _indented(700), b"deep.yaml": nested}
    made |= {b"flow.yaml": b"[" * 5000, b"heredoc.sh": b"cat <<A\n" * 8000, b"tags.jl": b"<a>" * 20_000}
    made |= {b"backslash.bzl": b"x\\\n" * (size // 3), b"regexp.frag": b"/[" * (size // 2)}
    made |= {b"comment.frag": b"\n/*" * (size // 3), b"comment.h": b"\n/*" * (size // 3)}
    for end in (b"pl", b"pm", b"t", b"scala", b"jl", b"typ", b"hs", b"pony", b"purs", b"jinja", b"f", b"m", b"cls"):
        made[b"brackets." + end] = b"[" * size + end
        made[b"parentheses." + end] = b"(" * size + end
    for end in (b"sh", b"h", b"ts", b"pp", b"scm", b"inc", b"fs", b"sql", b"cl", b"bzl", b"frag", b"workflow"):
        made[b"noise." + end] = noise(size, 32, 95, end) + b"\n"
        made[b"blanks." + end] = b" \t" * (size // 2) + end + b"\n"
    return made


def _indented(levels: int) -> bytes:
    return b"".join(b"\t" * level + b"if(a)\n" for level in range(levels))


def texts() -> dict[bytes, bytes]:
    """Texts at the edges of Unicode and of what a file may hold, and the tokenizer's own tokens spelled out."""
    spelled = [f"def f{i}():\n    return '{token}' + \"{token * 3}\"\n" for i, token in enumerate(SPECIALS)]
    made = {b"special%02d.py" % i: text.encode() for i, text in enumerate(spelled)}
    made[b"specials.md"] = ("A text with " + " and ".join(SPECIALS) + "\n").encode()
    made[b"specials_only.py"] = "".join((*SENTINELS, EOS, BOS)).encode() * 50
    made |= {
        b"empty.py": b"",
        b"newlines.py": b"\n" * 100_000,
        b"returns.py": b"\r" * 50_000,
        b"bom.py": b"\xef\xbb\xbf",
    }
    made |= {b"late_nul.py": OK * 200 + b"\0" * 5000, b"controls.py": bytes(range(1, 32)) * 100 + b"\x7f"}
    made |= {
        b"one.py": b"1",
        b"blank.py": b" " * 5000,
        b"boms.py": b"\xef\xbb\xbf" * 500,
        b"max.py": b"# " + b"m" * (1 << 20),
    }
    made[b"max.py"] = made[b"max.py"][: 1 << 20]
    made |= {
        b"right.py": "\u202e\u2066x = 'ש' # \u2069\u202c\n".encode() * 500,
        b"joined.md": ("\U0001f468\u200d\U0001f469\u200d" * 5000 + "\n").encode(),
        b"combining.md": ("e" + "\u0301" * 60_000 + "\n").encode(),
        b"noncharacters.md": ("\uffff\ufffe\U0010ffff\ufdd0\U000e0001" * 2000 + "\n").encode(),
        b"crlf.py": b"x = 1\r\n" * 3000 + b"\r\r\n",
    }
    return made


def redactions() -> dict[bytes, bytes]:
    """Texts made for the regular expressions that find addresses and keys."""
    parts = [b"@", b"a@", b"a@b.", b"a@b.co", b".", b"1.", b"1.2.3.4", b"255.255.255.", b"-", b"-----BEGIN ", b"eyJ"]
    parts += [b"-----BEGIN PRIVATE KEY-----\n", b"eyJaaaaaaaaaaaaaa.", b":", b"2001:", b"2001:db8::", b"AKIA", b"ghp_"]
    parts += [b"secret=", b"token='", b'password = "', b"secret_", b'key"]=>"a1b2', b"aws_secret_access_key=", b"%.+-_"]
    made = {b"redact%02d.py" % i: part * (300_000 // len(part)) + b"\n" for i, part in enumerate(parts)}
    mails = b"".join(b"m%d@mail%d.org 8.8.%d.%d\n" % (i, i, i % 200 + 1, i % 250 + 1) for i in range(5000))
    return made | {b"mails.md": mails}


def notebook(sources: Sequence[str], output: str = "") -> bytes:
    outputs = [{"output_type": "stream", "name": "stdout", "text": output}] if output else []
    cells = [{"cell_type": "code", "source": source, "outputs": outputs, "metadata": {}} for source in sources]
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}).encode()


def pages() -> dict[bytes, tuple[Any, ...]]:
    """By name: body, HTTP headers, and outcome."""
    html, count = b"Content-Type: text/html", 100_000
    zipped = html + b"\r\nContent-Encoding: gzip"
    attributes = b" ".join(b"a%d=%d" % (i, i) for i in range(50_000))
    formatting = b"".join(b"<b id=%d>" % i for i in range(20_000)) + b"<p>text" * 20_000
    bodies = {
        b"nested": b"<div>" * count + b"the text in the depth",
        b"attributes": b"<p " + attributes + b">the text behind attributes",
        b"formatting": formatting,
        b"surrogates": b"<p>lone &#xD800; and &#55296; and \xed\xa0\x80 and &#0; and &#x110000; surrogates</p>" * 20,
        b"late_nul": html_page(b"nul") * 200 + b"<pre>\0007\0 a\0</pre>",
        b"line": b"<p>" + b"".join(b"word%d of one line " % i for i in range(300_000)),
        b"pre": b"<pre>" + b"".join(b"code%d of one line " % i for i in range(100_000)) + b"</pre>",
        b"pres": b"<pre><code>x = 1" * 20_000,
        b"tables": b"<table><tr><td>cell" * 20_000,
        b"spans": b"<table>" + b"<tr><td colspan=1000 rowspan=65534>x" * 20_000,
        b"lists": b"<ul><li>item" * 20_000,
        b"forms": b"<form><p>text" * 20_000,
        b"entities": b"&" * 500_000 + b"&amp" * count,
        b"angles": b"<" * 1_000_000,
        b"comment": b"<!--" * count + b"--><p>the text behind a comment",
        b"formulas": b"<span class=katex><math>" * 5000 + b"application/x-tex math/tex",
        b"tokens": ("<p>" + " the ".join(SPECIALS) + "</p>").replace("<｜", "&lt;｜").encode() * 20,
    }
    made: dict[bytes, tuple[Any, ...]] = {name: (body, html, DOCUMENT) for name, body in bodies.items()}
    made[b"nul"] = (b"<p>\0</p>", html, "binary")
    made[b"empty"] = (b"", html, "empty")
    made[b"script"] = (b"<script>" * count, html, "empty")
    made[b"bomb"] = (gzip.compress(bytes(32 << 20), mtime=0), zipped, "too_large")
    made[b"gzip"] = (gzip.compress(html_page(b"gzip"), mtime=0)[:-20], zipped, "truncated")
    made[b"plain"] = (html_page(b"no gzip"), zipped, DOCUMENT)
    made[b"large"] = (b"a" * 8_100_000, html, "too_large")
    made[b"type"] = (html_page(b"type"), b"Content-Type: text/" + b"t" * 5000, "content_type")
    made[b"charset"] = (html_page(b"charset"), html + b'; charset="\xff\0' + b"x" * 5000 + b'"', DOCUMENT)
    made[b"chunks"] = (b"fffffff\r\n" + html_page(b"chunks"), html + b"\r\nTransfer-Encoding: chunked", DOCUMENT)
    made[b"headers"] = (html_page(b"headers"), html + b"\r\nX: y" * 500, DOCUMENT)
    return made


def html_page(text: bytes) -> bytes:
    return b"<html><body><p>A page of " + text + b" with the words to be kept</p></body></html>"
