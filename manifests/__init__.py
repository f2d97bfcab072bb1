"""Builds as YAML, commented, and the input of the demo."""
