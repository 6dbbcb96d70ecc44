"""``python -m asyncdsb``."""

from asyncdsb.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
