"""A workspace: one state that views write into and are told of."""
