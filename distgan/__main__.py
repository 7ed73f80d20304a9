"""The ``distgan`` command, and ``python -m distgan``.

A module of its own, as each worker process imports what the program began with: this imports nothing until it is run.
"""


def main() -> None:
    """Run the command line; exit as it says."""
    from distgan import cli

    cli.main()


if __name__ == "__main__":
    main()
