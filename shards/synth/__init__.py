"""Invented faces in CelebA's layout: enough to try everything on without a download, and known to the last pixel."""

from shards.synth.celeba import synthesize
from shards.synth.faces import draw_face
from shards.synth.traits import ATTRIBUTES

__all__ = ["ATTRIBUTES", "draw_face", "synthesize"]
