"""Adapters to models that others trained: one registered type a file, none of which runs code from a file."""
