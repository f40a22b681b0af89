"""The module library: one class a file, registered by name."""
