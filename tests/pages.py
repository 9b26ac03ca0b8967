"""The pages that are made from the code: ``python tests/pages.py`` writes them (`make docs`), a test compares them."""

from pathlib import Path

import reference
import trouble

DOCS = Path(__file__).parents[1] / "deploy" / "docs"


def made():
    """Each page that is made, by its path, as it should be."""
    troubles = DOCS / "troubleshooting.md"
    return {
        DOCS / "cli.md": reference.render(),
        troubles: trouble.render(troubles.read_text() if troubles.exists() else ""),
    }


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text)
