"""Gives the site (``mkdocs.yml``) what its pages link to outside of ``docs/``, so that these links are checked as well.

The repository's own pages become pages of the site, a source file becomes a page that shows it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "overview.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""By their path in the repository: where they stand in the site."""

LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
HREF = re.compile(r'href="([^":#]+\.(?:md|ipynb))(?=["#])')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's own pages, and each source file that a page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for path in sorted({source for page in files.documentation_pages() for source in _sources(page)}):
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"source/{path}.md", content=f"# `{path}`\n\n````text\n{text}````\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their target stands in the site; one without a target stays, and ends the build."""
    here = page.file.src_uri
    folder = posixpath.dirname(here)
    return LINK.sub(lambda found: posixpath.relpath(_in_site(_target(here, found[1])), folder), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let a notebook's links lead to pages of the site, which is done for Markdown alone.

    Raises ``PluginError`` for one that leads nowhere.
    """

    def found(link: re.Match[str]) -> str:
        target = files.get_file_from_path(posixpath.normpath(posixpath.join(posixpath.dirname(here), link[1])))
        if target is None:
            raise PluginError(f"{here} has a link to {link[1]}, which is not there.")
        return f'href="{target.url_relative_to(page.file)}'

    here = page.file.src_uri
    return HREF.sub(found, html) if here.endswith(".ipynb") else html


def _sources(page: File) -> Iterator[str]:
    if page.src_uri.endswith(".md"):
        for link in LINK.findall(page.content_string):
            path = _target(page.src_uri, link)
            if not path.startswith("docs/") and path not in PAGES and (ROOT / path).is_file():
                yield path


def _target(page: str, link: str) -> str:
    """Where a page's link leads, as a path in the repository."""
    stands = next((path for path, name in PAGES.items() if name == page), f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(stands), link))


def _in_site(path: str) -> str:
    """Where a file of the repository stands in the site."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"
