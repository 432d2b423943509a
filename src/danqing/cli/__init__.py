"""The command `danqing`: one module per subcommand, which parses, calls the public API and prints.

A command imports no other, and `danqing --help` imports none.
"""

import os
import sys
from collections.abc import Sequence

from danqing import locale, progress
from danqing.cli import overview, streams
from danqing.cli.exit_codes import INTERRUPTED, MISTAKE
from danqing.errors import DanqingError, LostProcessError
from danqing.progress import Verbosity


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code.

    0 success, 2 the user's mistake, 130 interrupted.

    An exception that is not a DanqingError is a bug: it keeps its traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    streams.prepare()
    try:
        locale.set_language(locale.wanted_language(os.environ, (sys.stdout.encoding, sys.stderr.encoding)))
        if overview.is_wanted(words):
            streams.write(overview.text())
            sys.exit(0 if words else MISTAKE)
        from danqing.cli import commands

        sys.exit(commands.run(words))
    except DanqingError as error:
        _leave(error, as_json="--json" in words)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        progress.set_verbosity(Verbosity.NORMAL)  # for the next call in this process
        locale.set_language(locale.ENGLISH)


def _leave(error: DanqingError, *, as_json: bool) -> None:
    """Say what went wrong, and exit."""
    import traceback

    from danqing.cli import output
    from danqing.cluster.launch import LOST, is_launched

    if isinstance(error, LostProcessError) and is_launched():
        sys.exit(LOST)  # the one that launched it says what happened
    if progress.verbosity() is Verbosity.VERBOSE:
        traceback.print_exception(error)
    output.error(str(error), as_json=as_json)
    sys.exit(MISTAKE)
