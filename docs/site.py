"""Pages that live outside docs/ are part of the site too, and links to them lead there.

On GitHub the same pages link to each other by their places in the repository.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
IMAGES = "benchmarks/images/*.png"
LINK = re.compile(r"(!?\[)([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and images from outside docs/."""
    paths = [ROOT / name for name in OUTSIDE] + sorted(ROOT.glob(IMAGES))
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to pages of the site lead there; of links to other files the path stays.

    A link that leads nowhere is left as it is, so that the strict build fails.
    """
    source = page.file.src_uri
    place = ROOT / source if source in OUTSIDE else ROOT / "docs" / source
    up = "../" * source.count("/")

    def moved(link: re.Match[str]) -> str:
        opening, text, to, anchor = link.groups()
        target = (place.parent / to).resolve()
        if not target.is_relative_to(ROOT):
            return link[0]
        name = target.relative_to(ROOT).as_posix()
        uri = name.removeprefix("docs/")
        if target.exists() and files.get_file_from_path(uri) is None:
            return f"{text} (`{name}`)" if text != name else f"`{name}`"
        return f"{opening}{text}]({up}{uri}{anchor or ''})"

    return LINK.sub(moved, markdown)
