from __future__ import annotations

import signal
import subprocess
import sys


def blocked() -> set[signal.Signals | int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_reaches_the_parent_alone() -> None:
    script = (
        "import signal\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from shards.processes import worker_context\n"
        "from tests.shards.test_processes import blocked\n"
        "if __name__ == '__main__':\n"
        "    with ProcessPoolExecutor(1, worker_context()) as pool:\n"
        "        assert signal.SIGINT in pool.submit(blocked).result()\n"
        "    assert signal.SIGINT not in blocked()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)  # in another process, as a server is kept
