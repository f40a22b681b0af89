"""The command line: one thin command per library call."""

from serket.cli.app import app, main

__all__ = ["app", "main"]
