"""A report as one HTML page that needs nothing else: no network, no script, pictures inside."""

from __future__ import annotations

import base64
from pathlib import Path

from prunekit.report.document import Document

PIXELS_PER_INCH = 96


def page(document: Document, folder: Path) -> str:
    """The page, with the SVG pictures that `folder` holds. All text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prunekit.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    shown = [
        {
            "title": picture.title,
            "caption": picture.caption,
            "width": round(picture.figure.get_figwidth() * PIXELS_PER_INCH),
            "svg": base64.b64encode((folder / f"{picture.name}.svg").read_bytes()).decode(),
        }
        for picture in document.pictures
    ]
    return environment.get_template("page.html.j2").render(document=document, pictures=shown)
