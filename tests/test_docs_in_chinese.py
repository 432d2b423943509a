"""The Chinese pages of the documentation keep up with the English ones."""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ENGLISH_ONLY = {"results", "architecture", "add-a-family", "extending"}  # figures, and what contributors read
NOT_YET: set[str] = set()  # pages that are still to be translated; readers get them in English
PAGES = sorted({path.stem for path in DOCS.glob("*.md")} - {path.stem for path in DOCS.glob("*.zh.md")})
TRANSLATED = [name for name in PAGES if name not in ENGLISH_ONLY | NOT_YET]
FENCE = re.compile(r"^( *)```(\w*).*?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def page(name: str, language: str = "") -> str:
    return (DOCS / f"{name}{language}.md").read_text(encoding="utf-8")


def code(text: str) -> list[tuple[str, list[str]]]:
    """Return the language and the lines of each fenced block, without comments."""
    return [
        (language, [re.sub(r"\s*#.*", "", line) for line in lines.splitlines()])
        for _, language, lines in FENCE.findall(text)
    ]


def prose(text: str) -> str:
    return FENCE.sub("", text)


def slug(heading: str) -> str:
    """Return the anchor that Python-Markdown gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def anchors(text: str) -> list[tuple[int, str]]:
    """Return the level and the anchor of each heading below the title."""
    seen: Counter[str] = Counter()
    found = []
    for level, heading in re.findall(r"^(#+) (.*)$", prose(text), re.MULTILINE):
        explicit = re.search(r"\{ ?#([\w-]+) ?\}$", heading)
        anchor = explicit[1] if explicit else slug(heading)
        if not explicit:
            seen[anchor] += 1
            anchor += f"_{seen[anchor] - 1}" if seen[anchor] > 1 else ""
        found.append((len(level), anchor))
    return [(level, anchor) for level, anchor in found if level > 1]


def tables(text: str) -> list[tuple[int, int]]:
    """Return the rows and columns of each table."""
    found = re.findall(r"(?:^ *\|.*\n)+", prose(text), re.MULTILINE)
    return [(len(rows.splitlines()), len(re.findall(r"(?<!\\)\|", rows.splitlines()[1]))) for rows in found]


def names(text: str) -> set[str]:
    """Return what is set as code within sentences: commands, options, files, settings."""
    return set(re.findall(r"`[^`\n]+`", re.sub(r"\n *", " ", prose(text))))


def links(text: str) -> Counter[str]:
    return Counter(target.replace(".zh.md", ".md") for target in re.findall(r"\]\(([^)]+)\)", prose(text)))


COMPARED = {
    "headings and their anchors, which the Chinese page sets as {#anchor}": anchors,
    "code blocks (apart from comments)": code,
    "rows and columns of tables": tables,
    "items of lists": lambda text: len(re.findall(r"^ *- ", prose(text), re.MULTILINE)),
    "commands that are indented": lambda text: re.findall(r"^    (python .*)$", text, re.MULTILINE),
    "names in `code`": names,
    "links": links,
}


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_page_has_a_chinese_twin_with_the_same_content(name: str) -> None:
    advice = (
        f"docs/{name}.zh.md is to say in Chinese what docs/{name}.md says: make the same change there. "
        f"If you do not write Chinese, delete it and add {name!r} to NOT_YET in {Path(__file__).name}, so "
        "that readers get the English page."
    )
    assert (DOCS / f"{name}.zh.md").is_file(), advice
    english, chinese = page(name), page(name, ".zh")
    for what, read in COMPARED.items():
        assert read(chinese) == read(english), f"The {what} differ. {advice}"


def test_the_lists_of_pages_without_a_twin_are_true() -> None:
    assert set(PAGES) >= ENGLISH_ONLY | NOT_YET, "a page of ENGLISH_ONLY or NOT_YET does not exist"
    twins = {path.name.removesuffix(".zh.md") for path in DOCS.glob("*.zh.md")}
    assert twins == set(TRANSLATED), "Chinese pages without an English one, or of ENGLISH_ONLY or NOT_YET"


@pytest.mark.parametrize("name", TRANSLATED)
def test_links_of_a_chinese_page_lead_to_chinese_pages(name: str) -> None:
    english = {f"{each}.md" for each in TRANSLATED}
    targets = re.findall(r"\]\(([\w-]+\.md)", page(name, ".zh"))
    assert set(targets) & english == set(), "link to the page that ends in .zh.md"


def test_the_chinese_readme_links_to_chinese_pages() -> None:
    targets = re.findall(r"\]\(docs/([\w-]+)\.md", (ROOT / "README.zh-CN.md").read_text(encoding="utf-8"))
    assert set(targets) & set(TRANSLATED) == set(), "link to the page that ends in .zh.md"


def test_every_title_of_the_navigation_is_translated() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    (plugin,) = [each["i18n"] for each in site["plugins"] if "i18n" in each]
    chinese = next(each for each in plugin["languages"] if each["locale"] == "zh")
    titles = {title for entry in site["nav"] for title, path in entry.items() if path[:-3] not in NOT_YET}
    missing = titles - set(chinese["nav_translations"])
    assert missing == set(), f"add the Chinese of {missing} to nav_translations in mkdocs.yml"
