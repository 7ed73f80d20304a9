"""The ``distgan`` command, and ``python -m distgan``.

A module of its own, as each worker process imports what the program began with: this imports nothing until it is run.
"""

import sys


def main() -> None:
    """Run the command line; exit as it says."""
    try:
        from distgan import cli
    except ModuleNotFoundError as error:
        if (error.name or "distgan").partition(".")[0] in ("distgan", "jobs", "shards"):
            raise
        sys.stderr.write(
            f"error: {sys.executable} has no {error.name}: this is not the environment that distgan was installed "
            "into. On a Ray cluster a job runs the python on the PATH of `ray start`: put that environment first there "
            "(activate it), on every machine\n"
        )
        sys.exit(2)
    cli.main()


if __name__ == "__main__":
    main()
