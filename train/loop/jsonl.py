"""Records in files of JSON lines, to which programs add that may be stopped at any time."""

import json
from pathlib import Path
from typing import Any


def add_line(path: Path, record: dict[str, Any]) -> None:
    """Append a record, on a line of its own also where the last one was not finished."""
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records, without those that were not finished."""
    records = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
