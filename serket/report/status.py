"""How a command ends: what is said of an error, and the exit status."""

from __future__ import annotations

import errno
import sys
import textwrap
import traceback
from collections.abc import Callable

from rich.console import Console

from serket.errors import SerketError

__all__ = ["say", "status"]

_FIX = "check the path and the disk, then run the same command again"
_FIXES = {
    errno.ENOSPC: "make room, or choose another --out",
    errno.EDQUOT: "make room, or choose another --out",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.EROFS: "choose another --out: this disk cannot be written to",
    errno.ENOENT: "check the path; folders in it must exist",
    errno.EISDIR: "name a file: this is a folder",
    errno.ENOTDIR: "check the path: a part of it is a file, not a folder",
}


def status(command: Callable[[], object], console: Console, *, resumes: bool = True) -> int:
    """Run a command and return its exit status: 0 done, 1 our own mistake, 2 the user's, 130 interrupted.

    Args:
        command: what is run.
        console: where errors go.
        resumes: whether the command, interrupted, goes on with what it has fitted.
    """
    try:
        command()
    except SerketError as error:
        say(console, f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return _interrupted(console, resumes)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
        return _interrupted(console, resumes) if code == 130 else code
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        fix = _FIXES.get(error.errno or 0, _FIX)
        told = SerketError(error.strerror or str(error), where=error.filename, fix=fix)
        say(console, f"error: {told}")
        return 2
    except Exception:
        console.print("internal error: this is a defect of serket, not of your graph or data", style="bold")
        console.print(traceback.format_exc(), markup=False)
        return 1
    return 0


def say(console: Console, text: str) -> None:
    """Print an error, a warning or a note: on a terminal at its width, each line hanging under its field's text."""
    lines = text.splitlines()
    if console.is_terminal:
        for place, line in enumerate(lines):
            field, colon, _ = line.partition(": ")
            hanging = " " * (len(field + colon) if colon and len(field) <= 12 else 2)
            lines[place] = textwrap.fill(line, console.width, subsequent_indent=hanging, break_long_words=False,
                                         break_on_hyphens=False)  # fmt: skip
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _interrupted(console: Console, resumes: bool) -> int:
    console.print("interrupted" + ("; the same command goes on with the modules that are fitted" if resumes else ""))
    return 130
