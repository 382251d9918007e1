"""The pages hang together: links, headings and images exist, every page is reachable, every public name is documented.

Their examples are run by pytest itself, and the site is built without a warning by .ci/run.
"""

import re
from pathlib import Path

import pytest

import modeq

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(path for path in DOCS.rglob("*.md") if "generated" not in path.parts), ROOT / "README.md"]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
TREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(page):
    """The text of a page without its examples and formulas in code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page):
    """What the headings of a page are called in links: lower case, punctuation dropped, spaces as hyphens."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page, text):
    """The links of a text on a page that lead nowhere."""
    found = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (heading and heading not in anchors(path)):
            found.append(target)
    return found


def in_tree(page):
    """The pages that the trees on a page list."""
    entries = [line.strip() for tree in TREE.findall(page.read_text(encoding="utf-8")) for line in tree.splitlines()]
    names = [re.sub(r".*<(.*)>", r"\1", entry) for entry in entries if entry and not entry.startswith(":")]
    return [(page.parent / f"{name}.md").resolve() for name in names]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_images_lead_somewhere(page):
    assert broken(page, prose(page)) == []


def test_a_broken_link_is_found():
    page = DOCS / "tour.md"
    text = (
        "[a](forms.md#c-phase-space) [b](nowhere.md) ![c](none.png) [d](forms.md#no-such-heading) [e](https://x.org/y)"
    )
    assert broken(page, text) == ["nowhere.md", "none.png", "forms.md#no-such-heading"]


def test_every_page_is_reachable_from_the_first():
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        assert page.exists(), f"a tree lists {page.relative_to(ROOT)}, which does not exist"
        if page not in reached:
            reached.add(page)
            waiting += in_tree(page)
    assert {page for page in PAGES if DOCS in page.parents} == reached


def test_every_image_is_shown_and_every_figure_has_its_script():
    shown = {(page.parent / target).resolve() for page in PAGES for target in LINK.findall(prose(page))}
    assert set(DOCS.rglob("*.png")) <= shown
    assert all(path.with_suffix(".py").exists() for path in (DOCS / "figures").glob("*.png"))


def test_every_public_name_is_in_the_reference():
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    listed = [module for line in re.findall(r"^```\{public\} (.*)$", pages, re.MULTILINE) for module in line.split()]
    assert sorted(listed) == sorted([*modeq._PUBLIC, *(f"modeq.{module}" for module in modeq._MODULES)])
    names = {name for module in listed if module in modeq._PUBLIC for name in modeq._PUBLIC[module]}
    assert names | set(modeq._MODULES) | {"__version__"} == set(modeq.__all__)


def test_what_contributors_are_told_to_touch_exists():
    text = (DOCS / "contributing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:modeq|tests|docs|validation)/[\w./]*)`", text))
    assert len(named) > 15
    installed = Path(modeq.__file__).parents[1]
    assert sorted(name for name in named if not any((where / name).exists() for where in (ROOT, installed))) == []


def test_the_version_is_one():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest.groups() == (modeq.__version__, re.search(r"^date-released: (\S+)$", citation, re.MULTILINE)[1])
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == modeq.__version__
