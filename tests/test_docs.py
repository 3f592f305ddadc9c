"""The site is built from docs/ without a warning, is whole, and needs nothing from elsewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rocketqa_haystack.cli.parser import COMMANDS, command_parser

ROOT = Path(__file__).parents[1]

#: Attributes by which a page has a browser fetch something, by tag. A plain link fetches nothing.
FETCHING = {"href": {"link"}, "src": None, "srcset": None, "data": {"object"}, "poster": None}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


class Page(HTMLParser):
    """What a page fetches, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.ids.add(value or "")
            elif name in FETCHING and tag in (FETCHING[name] or {tag}):
                self.fetched.append(value or "")


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert [address for address in Page(page).fetched if re.match("(https?:)?//", address)] == [], page
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*[\"']?\s*(?:https?:)?//[^)\"']*", text) == [], style


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    text, page = (site / "commands.html").read_text(encoding="utf-8"), Page(site / "commands.html")
    for name in COMMANDS:
        assert name in page.ids
        section = text.partition(f'id="{name}"')[2].partition("<h2")[0]
        for option in command_parser(name)._option_string_actions:
            assert option in ("-h", "--help") or option in section, f"{name} {option}"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    described = {id.rpartition(".")[2] for page in (site / "api").glob("*.html") for id in Page(page).ids if "." in id}
    packages = [*ROOT.glob("rocketqa_haystack/**/__init__.py"), *ROOT.glob("trainers/**/__init__.py")]
    public = {name for package in packages for name in exported(package)}
    assert {"DualEncoder", "JointTrainer", "load_squad", "fuse"} <= public
    assert public - described == set()


def exported(module: Path) -> list[str]:
    for statement in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(statement.value)
            return names
    return []


def test_every_example_and_benchmark_has_its_page(site: Path) -> None:
    for script in ("compose_pipeline", "hybrid_retrieval", "fine_tune", "read_answers", "sampling_rule"):
        text = (site / "how-to" / f"{script}.html").read_text(encoding="utf-8")
        assert "Expect" in text
        assert "<code>" in text
    text = (site / "benchmarks.html").read_text(encoding="utf-8")
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert script.name == "sides.py" or f"python benchmarks/{script.name}" in text  # sides.py is what they import


def test_formulas_need_no_script(site: Path) -> None:
    text = (site / "concepts.html").read_text(encoding="utf-8")
    source = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    assert text.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"') == source.count("\n$$\n\n")
    assert "arithmatex" not in text
