"""The process that makes the measurements of one section of ``distgan bench gpu``.

``python -m distgan.bench.measurements SECTION FOLDER OUT`` writes what it finds into ``FOLDER/SECTION.jsonl``, line by
line as it finds it, so that nothing is lost when it ends with a crash. Called again, it goes on after the measurement
that it ended in.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distgan.bench.sections import SECTIONS
from distgan.bench.sections.base import CUT_AT, Place, Section

DEVICE_ERROR = 3
"""The exit status of a process whose device can compute no more, as after an error in a kernel."""


def main(name: str, folder: str, out: str, *options: str, sections: Mapping[str, Section] = SECTIONS) -> None:
    """Make the measurements of a section that have not been begun yet, and write down what they find."""
    place, section = Place(Path(folder), Path(out), "small" in options), sections[name]
    record = place.folder / f"{name}.jsonl"
    begun = {line["began"] for line in read_record(record) if "began" in line}
    torn = record.exists() and not record.read_bytes().endswith(b"\n")  # by the end of the last process
    with record.open("a", encoding="utf-8") as file:
        file.write("\n" * torn)

        def note(**line: Any) -> None:
            file.write(json.dumps(line, default=str) + "\n")
            file.flush()

        measurements = section.measurements(place)
        if not begun:
            note(planned=list(measurements))
        for what, measurement in measurements.items():
            if what in begun:
                continue
            sys.stdout.write(f"--- {name}: {what}\n")
            sys.stdout.flush()
            note(began=what)
            began = time.perf_counter()
            faulthandler.dump_traceback_later(section.each, exit=True)
            try:
                for row in measurement():
                    note(of=what, row=row)
            except Exception as error:
                traceback.print_exc()
                note(failed=what, error=f"{type(error).__name__}: {error}"[:CUT_AT])
                if "CUDA error" in str(error):  # every later call would fail as this one did
                    sys.exit(DEVICE_ERROR)
            else:
                note(ended=what, seconds=time.perf_counter() - began)
            finally:
                faulthandler.cancel_dump_traceback_later()


def read_record(path: Path) -> list[dict[str, Any]]:
    """The lines that a section's process has written; a last one that it could not end is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text("utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main(*sys.argv[1:])
