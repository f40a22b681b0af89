"""An encoder per view into one space, made to agree."""
