"""Adapt docstrings to Markdown, for mkdocs.yml."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class Docstrings(Extension):
    """Turns doctests into code blocks, and escapes issue numbers at the start of a line, which would be headings."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    paragraphs = [
        f"```pycon\n{paragraph}\n```" if paragraph.lstrip().startswith(">>>") else paragraph
        for paragraph in docstring.split("\n\n")
    ]
    return re.sub(r"^#(?=\d)", r"\#", "\n\n".join(paragraphs), flags=re.MULTILINE)
