"""``python -m server.results``: the files of a run and their fields as Markdown.

``--write`` brings ``docs/files.md`` and the JSON schemas in ``docs/schemas`` up to date.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from server.results.schemas import as_markdown, schema_name, schemas

DOCS = Path(__file__).resolve().parents[2] / "docs"


def made() -> dict[Path, str]:
    """What the page and the schemas should be, by their path."""
    found = schemas()
    texts = {schema_name(file): json.dumps(schema, indent=2) + "\n" for file, schema in found.items()}
    return {DOCS / "files.md": as_markdown(found), **{DOCS / "schemas" / name: text for name, text in texts.items()}}


def main() -> None:
    """Print the page, or write what is made of the types."""
    parser = argparse.ArgumentParser(prog="python -m server.results", description="the files of a run as Markdown")
    parser.add_argument("--write", action="store_true", help="bring docs/files.md and docs/schemas up to date")
    if parser.parse_args().write:
        for path, text in made().items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    else:
        print(as_markdown(schemas()), end="")


if __name__ == "__main__":
    main()
