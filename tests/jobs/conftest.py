"""Recipes are tried on the same discs as everything that trains."""

from tests.distgan.conftest import pack_discs

__all__ = ["pack_discs"]
