"""``python -m asyncdsb``."""

from asyncdsb.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
