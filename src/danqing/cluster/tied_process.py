"""A `danqing` command that ends with the process that started it.

It is started with `python -m danqing.cluster.tied_process WORDS`, and its standard input is a pipe. When the
pipe is closed, on request or because the starter was killed, the command gets SIGTERM and ends as usual.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

from danqing import interpreter


def main() -> None:
    """Run the command in the arguments; exit with its code."""
    command = subprocess.Popen(
        interpreter.command("danqing", *sys.argv[1:]),
        stdin=subprocess.DEVNULL,
        env=interpreter.environment(),
        start_new_session=True,
    )
    signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    threading.Thread(target=_end_when_alone, args=(command,), daemon=True).start()
    sys.exit(command.wait())


def _end_when_alone(command: "subprocess.Popen[bytes]") -> None:
    # Not by sys.stdin: its lock, held by a thread that waits, would break the interpreter's end.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    command.terminate()


if __name__ == "__main__":
    main()
