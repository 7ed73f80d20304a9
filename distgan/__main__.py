"""``python -m distgan`` is the ``distgan`` command."""

from distgan.cli import main

main()
