"""``python -m distgan`` is the ``distgan`` command."""

import sys

try:
    from distgan.cli import main
except ModuleNotFoundError as error:
    if (error.name or "distgan").partition(".")[0] in ("distgan", "jobs", "shards"):
        raise
    sys.stderr.write(
        f"error: {sys.executable} has no {error.name}: this is not the environment that distgan was installed into. "
        "On a Ray cluster a job runs the python on the PATH of `ray start`: put that environment first there (activate "
        "it), on every machine\n"
    )
    sys.exit(2)

main()
