"""For Beam's --setup_file, which ships the packages to workers; everything stands in pyproject.toml."""

from setuptools import setup

setup()
