"""Unquoted scalars: the core schema of YAML 1.2, without what other versions read otherwise."""

from __future__ import annotations

import math
import re

from serket.errors import GraphError

__all__ = ["Scalar", "scalar"]

Scalar = str | int | float | bool | None
_NUMBER = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
_LEADING_ZERO = re.compile(r"[-+]?0\d+(\.\d*)?([eE][-+]?\d+)?", re.ASCII)
_RADIX = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_NOT_FINITE = re.compile(r"\.(nan|NaN|NAN)|[-+]?\.(inf|Inf|INF)")
_WORDS = {"": None, "~": None} | {
    form: value
    for word, value in {"null": None, "true": True, "false": False}.items()
    for form in (word, word.title(), word.upper())
}
_YAML_1_1 = {"on", "off", "yes", "no"}


def scalar(text: str) -> Scalar:
    """Read an unquoted scalar.

    Raises:
        GraphError: a word or number that versions of YAML read differently, or a number that is not finite.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text.lower() in _YAML_1_1:
        raise GraphError(f"the bare word '{text}' is a switch to some readers of YAML, text to others", found=text,
                         expected="true, false, or text in quotes", fix=f'write true or false, or "{text}" in quotes '
                         "if it is a name")  # fmt: skip
    if _NOT_FINITE.fullmatch(text):
        raise GraphError("a number that is not finite", expected="a finite number", found=text, fix="write a number")
    if _LEADING_ZERO.fullmatch(text):
        raise GraphError("a number with a leading zero: octal to some readers, decimal to others", found=text,
                         expected="a number without it", fix=f'write {_without_zeros(text)}, or "{text}" if it is a '
                         "name")  # fmt: skip
    if _RADIX.fullmatch(text):
        return _in_range(int(text, 0), text) if len(text) < 32 else _in_range(2**64, text)
    if match := _NUMBER.fullmatch(text):
        whole = match[2] is None and match[3] is None and not match[1].startswith(".")
        return _in_range(int(text) if whole and len(text) < 32 else float(text), text)
    return text


def _in_range(number: int | float, text: str) -> int | float:
    if not math.isfinite(number) or (isinstance(number, int) and abs(number) >= 2**63):
        raise GraphError(
            "a number that is too large", expected="a 64-bit number", found=text[:40], fix="write a smaller one"
        )
    return number


def _without_zeros(text: str) -> str:
    sign = text[0] if text[0] in "+-" else ""
    return sign + re.sub(r"^0+(?=\d)", "", text.removeprefix(sign))
