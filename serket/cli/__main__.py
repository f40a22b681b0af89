"""``python -m serket.cli``."""

from serket.cli import main

main()
