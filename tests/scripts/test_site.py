"""The site: it builds without a warning or a network, no link of it leads nowhere, and a browser shows the answer."""

import os
import shutil
import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from scripts import site
from scripts.site_docstrings import as_markdown
from tests.conftest import ROOT

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (  # a browser without a screen, that does not look for a network
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    assert site.main(["--to", str(folder)]) == 0
    return folder


class Links(HTMLParser):
    """Where a page's links and pictures lead, and the places in it that a link may lead to."""

    def __init__(self, page: Path):
        super().__init__()
        self.targets, self.places = [], set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places.add(found.get("id"))
        if (target := found.get({"a": "href", "img": "src", "link": "href", "script": "src"}.get(tag))) is not None:
            self.targets.append(target)


@pytest.mark.slow
def test_no_link_or_picture_leads_nowhere(built):
    pages = {page: Links(page) for page in built.rglob("*.html") if page.name != "404.html"}
    assert len(pages) > 15
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https", "data", "mailto"):
                continue
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            path = path / "index.html" if path.is_dir() else path
            place = not parts.fragment or path not in pages or unquote(parts.fragment) in pages[path].places
            if not path.is_file() or not place:
                broken.append(f"{page.relative_to(built)}: {target}")
    assert not broken


@pytest.mark.slow
def test_nothing_is_fetched_when_a_page_is_opened(built):
    for page in built.rglob("*.html"):
        assert not [target for target in Links(page).targets if target.startswith(("http", "//")) and ".js" in target]
        assert "fonts.googleapis" not in page.read_text()


@pytest.mark.slow
def test_every_public_name_of_the_library_has_a_place(built):
    import sobolev

    places = Links(built / "reference" / "sobolev.html").places
    homes = {name: f"sobolev.{module}.{name}" for name, module in sobolev._HOMES.items()}
    assert {name for name, place in homes.items() if place not in places} == set()


@pytest.mark.skipif(not BROWSER, reason="no browser here")
@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_a_browser_shows_the_front_page_and_no_page_is_wider_than_the_screen(built, width, height):
    page = built / "measured.html"
    page.write_text(
        f"<iframe id=page src=index.html width={width} height={height}></iframe><script>"
        "onload = () => { const body = document.getElementById('page').contentDocument; "
        "const bottom = (part) => body.querySelector(part).getBoundingClientRect().bottom; "
        "document.title = JSON.stringify([body.documentElement.scrollWidth, bottom('#the-answer + p')]) }"
        "</script>"
    )
    with tempfile.TemporaryDirectory() as profile:
        command = [BROWSER, *QUIET, "--allow-file-access-from-files", f"--user-data-dir={profile}", "--dump-dom"]
        shown = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300, env=os.environ)
    title = shown.stdout.partition("<title>")[2].partition("</title>")[0]
    widest, in_short = (float(number) for number in title.strip("[]").split(","))
    assert widest <= width
    assert in_short < height


def test_a_folder_that_is_no_site_is_kept(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("text")
    assert site.main(["--to", str(tmp_path)]) == 1
    assert "name another folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()


def test_doctests_become_code_and_an_issues_number_no_heading():
    found = as_markdown("What it does (\n#12).\n\n>>> x = 1\n>>> x\n1\n\nMore.")
    assert found == "What it does (\n\\#12).\n\n```pycon\n>>> x = 1\n>>> x\n1\n```\n\nMore."


def test_navigation_has_every_guide_and_package(built):
    named = (ROOT / "mkdocs.yml").read_text()
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in named] == []
    packages = [path.stem for path in (built / "reference").glob("*.html")]
    assert len(packages) > 5
    assert [name for name in packages if f"reference/{name}.md" not in named] == []
