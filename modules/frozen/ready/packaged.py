"""Files of installed packages that an extra brings."""

from __future__ import annotations

import hashlib
from pathlib import Path

from serket.errors import GraphError, StateError
from serket.modules.frozen.files import needed

__all__ = ["EXTRA", "packaged"]

EXTRA = "senses"


def packaged(package: str, path: str, sha256: str) -> Path:
    """Return a file of an installed package, if it is the very file that is meant.

    Raises:
        GraphError: the package is not installed; the error names the extra.
        StateError: the file is another one, so that embeddings would be others under the same name.
    """
    file = Path(str(needed(package, EXTRA).__file__)).parent / path
    fix = f'pip install --force-reinstall "serket-perception[{EXTRA}]"'
    if not file.is_file():
        raise GraphError(f"the package {package} lacks a file", where=str(file), fix=fix)
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise StateError("the encoder's weights are not those it is named for", where=str(file),
                         expected=f"SHA-256 {sha256[:12]}...", found=f"{found[:12]}...", fix=fix)  # fmt: skip
    return file
