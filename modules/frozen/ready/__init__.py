"""Encoders that somebody else trained and an extra installs, each under a name for ``type: callable``."""
