"""The languages: the 338 names as a table, and the classifier from path and text to one of them or to `other:NAME`."""

from languages.cascade import Verdict, classify, classify_batch
from languages.names import Language, kind_of, outside, table

CONTENT_VERSIONS: tuple[str, ...] = ("google-re2", "tree-sitter", "tree-sitter-language-pack")
"""Distributions whose version decides what the classifier answers; they enter the fingerprint of every stage that
uses it."""

__all__ = ["CONTENT_VERSIONS", "Language", "Verdict", "classify", "classify_batch", "kind_of", "outside", "table"]
