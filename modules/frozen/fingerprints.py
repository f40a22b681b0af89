"""What an object in memory is, as a hash: its arrays, its settings, its code."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
import sys
import types
import weakref
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from serket.errors import GraphError

__all__ = ["fingerprint_of"]

SAVING = re.compile(r"training|_(load_)?state_dict\w*hooks|_backward\w*hooks|_is_full_backward_hook")  # of a module
SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)  # a class's own machinery


def fingerprint_of(thing: Any, name: str, version: str | None = None) -> str:
    """Return the SHA-256 of an encoder: of its ``version`` where it states one, else of all it holds.

    Values, tensors, and the code of functions and classes, also of those that it uses from other files of the user's;
    the standard library and installed packages are known by names.

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

    if (
        thing is None
        or thing is ...
        or isinstance(thing, bool | int | float | complex | str | bytes | np.generic | torch.dtype)
    ):
        digest.update(f"{type(thing).__name__}:{thing!r};".encode())
        return
    if not isinstance(thing, tuple | frozenset | types.CodeType):  # of these Python shares equal ones as it likes
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
        feed(len(thing))
        for key in sorted(thing, key=repr):
            feed(key, thing[key])
    elif isinstance(thing, Set):
        feed(len(thing), *sorted(thing, key=repr))
    elif isinstance(thing, list | tuple):
        feed(len(thing), *thing)
    elif isinstance(thing, np.ndarray):
        feed(thing.shape, *thing.ravel().tolist())
    elif isinstance(thing, types.ModuleType):
        feed(thing.__name__, str(getattr(thing, "__version__", "")))
    elif isinstance(thing, logging.Logger):
        feed(thing.name)
    elif isinstance(thing, functools.partial):
        feed(thing.func, thing.args, thing.keywords)
    elif isinstance(thing, types.MethodType):
        feed(thing.__func__, thing.__self__)
    elif isinstance(thing, types.CodeType):
        feed(thing.co_code, thing.co_names, thing.co_consts)
    elif isinstance(thing, types.FunctionType):
        feed(thing.__qualname__)
        if _own(thing, home):
            cells = [cell.cell_contents for cell in thing.__closure__ or ()]
            used = _used(_names(thing.__code__), thing.__globals__, home)
            feed(thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells, used)
    elif isinstance(thing, type):
        feed(thing.__qualname__, *_classes(thing))
    elif isinstance(thing, types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType):
        feed(thing.__qualname__)
    elif isinstance(thing, np.ufunc | np.dtype | torch.device | range | slice | re.Pattern | PurePath):
        feed(repr(thing))
    elif isinstance(thing, staticmethod | classmethod | functools._lru_cache_wrapper):
        feed(thing.__wrapped__)
    elif isinstance(thing, property):
        feed(thing.fget)
    elif isinstance(thing, functools.cached_property):
        feed(thing.func)
    elif isinstance(thing, weakref.ref):
        feed(thing())
    elif isinstance(thing, torch.jit.ScriptModule):
        feed(thing.state_dict(), str(thing.inlined_graph))
    elif isinstance(thing, torch.fx.GraphModule):
        feed(thing.code, thing._parameters, thing._buffers, thing._modules)
    elif isinstance(thing, torch.nn.Module):
        feed(_held(thing), *_classes(type(thing)))
    elif isinstance(getattr(thing, "__dict__", None), dict) and (vars(thing) or _plain(type(thing))):
        feed(vars(thing), *_classes(type(thing)))
    else:
        raise GraphError(
            f"the encoder '{name}' cannot be told from a changed one",
            found=f"it holds a {type(thing).__module__}.{type(thing).__qualname__}, which cannot be hashed",
            fix=f'state a version, and raise it with the weights: @serket.encoder("{name}", version="1")',
        )


def _names(code: types.CodeType) -> set[str]:
    inner = [_names(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return set(code.co_names).union(*inner)


def _own(thing: Any, home: str | None = None) -> bool:
    """Tell whether a function, class or module is the encoder's own or the user's, so that its code may change."""
    name = str(thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__)
    root = name.partition(".")[0]
    if name == home:
        return True
    if root == "serket" or root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(PurePath(file).parts)


def _held(module: torch.nn.Module) -> dict[str, Any]:
    """Return what a module's embeddings depend on: attributes, and buffers that its state leaves out, too.

    It is used in evaluation mode, whatever its mode is now; hooks are numbered as they were made in this process.
    """
    held = {key: value for key, value in vars(module).items() if not SAVING.fullmatch(key)}
    return held | {key: list(held[key].values()) for key in held if re.fullmatch(r"_forward\w*hooks\w*", key)}


def _used(names: set[str], there: Mapping[str, Any], home: str | None) -> dict[str, Any]:
    """Return what code uses of the names of its module, and by these of the user's other modules."""
    used: dict[str, Any] = {}
    waiting = [("", there)]
    while waiting:
        path, there = waiting.pop()
        for name in sorted(names & set(there)):
            if path + name not in used:
                used[path + name] = one = there[name]
                if isinstance(one, types.ModuleType) and _own(one, home) and path.count(".") < 4:
                    waiting.append((f"{path}{name}.", vars(one)))
    return used


def _classes(kind: type) -> list[Any]:
    """Return the methods and attributes of a class and its bases, as far as they are the user's."""
    return [
        {
            name: value
            for name, value in vars(one).items()
            if not isinstance(value, SLOTS)
            and name != "_abc_impl"
            and (isinstance(value, types.FunctionType) or not name.startswith("__"))
        }
        for one in kind.__mro__
        if _own(one)
    ]


def _plain(kind: type) -> bool:
    """Tell whether objects of a class hold nothing but their attributes: it is written in Python, with its bases."""
    return all(one is object or one.__module__ == "dataclasses" or _own(one) for one in kind.__mro__)
