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
LINK = re.compile(r"(\]\()([^)#:\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and images from outside docs/."""
    paths = [ROOT / name for name in OUTSIDE] + sorted(ROOT.glob(IMAGES))
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to another page of the site lead there; links to other files become code."""
    source = page.file.src_uri
    folder = ROOT if source in OUTSIDE else ROOT / "docs"
    here = folder / Path(source).parent if source in OUTSIDE else (ROOT / "docs" / source).parent

    def moved(link: re.Match[str]) -> str:
        target = (here / link[2]).resolve()
        name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else link[2]
        name = name.removeprefix("docs/")
        up = "../" * source.count("/")
        return link[1] + up + name

    return LINK.sub(moved, markdown)
