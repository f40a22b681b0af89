"""What an object in memory is, as a hash: its arrays, its settings, its code."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch

from serket.errors import GraphError

__all__ = ["fingerprint_of"]


def fingerprint_of(thing: Any, name: str, version: str | None = None) -> str:
    """Return the SHA-256 of an encoder: of its ``version`` where it states one, else of all it holds.

    Raises:
        GraphError: it holds something that has no bytes to hash, such as an open session.
    """
    digest = hashlib.sha256(f"{name}:{version}".encode())
    if version is None:
        _feed(digest, thing, name, {}, getattr(thing, "__module__", None))
    return digest.hexdigest()


def _feed(digest: Any, thing: Any, name: str, seen: dict[int, tuple[int, Any]], home: str | None) -> None:
    def feed(*parts: Any) -> None:
        for one in parts:
            _feed(digest, one, name, seen, home)

    if thing is None or isinstance(thing, bool | int | float | complex | str | bytes | np.generic | torch.dtype):
        digest.update(f"{type(thing).__name__}:{thing!r};".encode())
        return
    if id(thing) in seen:
        digest.update(f"again {seen[id(thing)][0]};".encode())
        return
    seen[id(thing)] = len(seen), thing  # held, or another thing would be given its id
    digest.update(f"{type(thing).__module__}.{type(thing).__qualname__};".encode())
    if isinstance(thing, torch.Tensor):
        feed(thing.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy(), str(thing.dtype), tuple(thing.shape))
    elif isinstance(thing, np.ndarray) and thing.dtype != object:
        digest.update(f"{thing.dtype}{thing.shape}".encode() + np.ascontiguousarray(thing).tobytes())
    elif isinstance(thing, Mapping):
        for key in sorted(thing, key=repr):
            feed(key, thing[key])
    elif isinstance(thing, Set):
        feed(*sorted(thing, key=repr))
    elif isinstance(thing, list | tuple):
        feed(*thing)
    elif isinstance(thing, np.ndarray):
        feed(*thing.ravel().tolist())
    elif isinstance(thing, types.ModuleType):
        feed(thing.__name__, str(getattr(thing, "__version__", "")))
    elif isinstance(thing, functools.partial):
        feed(thing.func, thing.args, thing.keywords)
    elif isinstance(thing, types.MethodType):
        feed(thing.__func__, thing.__self__)
    elif isinstance(thing, types.CodeType):
        feed(thing.co_code, thing.co_names, thing.co_consts)
    elif isinstance(thing, types.FunctionType):
        feed(thing.__qualname__)
        if thing.__module__ == home:  # library code is known by its name
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            used = {key: thing.__globals__[key] for key in _names(thing.__code__) if key in thing.__globals__}
            feed(thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells, used)
    elif isinstance(thing, type | types.BuiltinFunctionType | np.ufunc):
        feed(getattr(thing, "__qualname__", repr(thing)))
    elif isinstance(thing, torch.nn.Module):
        feed(thing.state_dict(), repr(thing))
    elif hasattr(thing, "__getstate__") and isinstance(getattr(thing, "__dict__", None), dict) and vars(thing):
        feed(vars(thing))
    else:
        raise GraphError(
            f"the encoder '{name}' cannot be told from a changed one",
            found=f"it holds a {type(thing).__module__}.{type(thing).__qualname__}, which cannot be hashed",
            fix=f'state a version, and raise it with the weights: @serket.encoder("{name}", version="1")',
        )


def _names(code: types.CodeType) -> set[str]:
    inner = [_names(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return set(code.co_names).union(*inner)
