"""The command line: ``python -m asyncdsb``."""
