"""The house rules of docs: what a reader may rely on everywhere, held by a test instead of by memory."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from luthier.core.registry import Folder
from luthier.core.spec import Spec

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "luthier"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]

DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "other", "others", "extras", "extra", "stuff"}
LONGEST_FUNCTION, LONGEST_FILE, MOST_SETTINGS = 60, 300, 60

WRITTEN_BY_ALEMBIC = "store/migrations/versions/0"
"""Steps of the tables (`scripts/revision.py`): as long as the tables are."""

LONG_ALLOWED: dict[str, str] = {}
"""``file`` or ``file:function`` -> why it may be longer. The list may only shrink."""


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_file_is_a_drawer() -> None:
    found = [path for path in [*FILES, *(p for p in PACKAGE.rglob("*") if p.is_dir())] if path.stem.strip("_").lower() in DRAWERS]
    assert not found, "name these after the idea in them"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_and_functions_are_short(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    if name.startswith(WRITTEN_BY_ALEMBIC):
        pytest.skip("a list of columns, written once by a program")
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE or name in LONG_ALLOWED, f"{name} has {lines} lines"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION or f"{name}:{node.name}" in LONG_ALLOWED, f"{name}:{node.name} has {length} lines"


def test_the_list_of_long_ones_is_not_stale() -> None:
    assert set(LONG_ALLOWED) <= {f for n, p in zip(NAMES, FILES, strict=True) for f in [n, *(f"{n}:{x}" for x in _functions(p))]}


def _functions(path: Path) -> list[str]:
    return [node.name for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(_tree(path)), "a file begins with what it is for"


def test_every_folder_says_what_it_is_for() -> None:
    folders = {path.parent for path in FILES}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_is_unpickled(path: Path) -> None:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
            assert node.attr not in {"load", "save"}, "safetensors only"
        if isinstance(node, ast.keyword):
            assert node.arg not in {"trust_remote_code", "allow_pickle"}


@pytest.mark.parametrize(
    "folder", ["methods", "objectives", "data/readers", "evaluation/metrics", "models/families", "export", "cli/verbs"]
)
def test_siblings_of_an_open_folder_do_not_know_each_other(folder: str) -> None:
    package = "luthier." + folder.replace("/", ".")
    parts = {f"{package}.{name}" for name in Folder(package, "part").names()}
    for path in (PACKAGE / folder).glob("*.py"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ImportFrom) and not path.stem.startswith("_"):
                imported = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
                assert not imported & parts, f"{path.name} imports its sibling"


def _fields(kind: type[BaseModel]) -> list[str]:
    names = []
    for name, info in kind.model_fields.items():
        nested = info.annotation
        is_section = isinstance(nested, type) and issubclass(nested, BaseModel) and nested.__name__ != "Part"
        names += _fields(nested) if is_section else [name]
    return names


def test_settings_stay_few_and_explained() -> None:
    """A run has the settings of the Spec, of one method and of one objective."""
    kinds: list[type[BaseModel]] = [Spec]
    most = len(_fields(Spec))
    for package, noun in (("luthier.methods", "method"), ("luthier.objectives", "objective")):
        folder = Folder(package, noun)
        kinds += [folder.load(name).Options for name in folder.names()]
        most += max(len(_fields(folder.load(name).Options)) for name in folder.names())
    assert most <= MOST_SETTINGS, f"{most} settings: derive one instead of adding one"
    unexplained = [f"{kind.__name__}.{name}" for kind in kinds[1:] for name, info in kind.model_fields.items() if not info.description]
    assert not unexplained


def _error_codes() -> set[str]:
    """Codes given as ``code="..."`` to an error or a Problem, and class-level ``code = "..."`` of core/errors.py."""
    codes = set()
    for path in FILES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Call):
                codes |= {
                    k.value.value
                    for k in node.keywords
                    if k.arg == "code" and isinstance(k.value, ast.Constant) and isinstance(k.value.value, str)
                }
    classes = re.findall(r'^    code(?:, exit_code)? = "(\w+)"', (PACKAGE / "core" / "errors.py").read_text(), re.M)
    return (codes | set(classes)) - {""}


def test_every_error_code_has_its_entry() -> None:
    documented = set(re.findall(r"^#+ `(\w+)`", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.M))
    assert not sorted(_error_codes() - documented), "add these to docs/errors.md"
    assert not sorted(documented - _error_codes() - _dynamic_codes()), "docs/errors.md explains codes that do not exist"


def _dynamic_codes() -> set[str]:
    """Codes that are put together or passed on, found as plain strings anywhere in the package."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    registries = {f"unknown_{noun}" for noun in re.findall(r'Folder\("[\w.]+", "(\w+)"\)', text)}
    return registries | set(re.findall(r'"(\w+)"', text))


COMMAND = re.compile(r"^(?:\$ )?luthier (\w+)|`luthier (\w+)", re.M)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_commands_of_the_pages_exist(page: Path) -> None:
    said = {a or b for a, b in COMMAND.findall(page.read_text(encoding="utf-8"))} - {"VERB"}
    assert said <= set(Folder("luthier.cli.verbs", "verb").names()) | {"help", "version"}


def test_links_between_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and f"]({page.name})" not in index]


def test_the_map_of_the_readme_names_every_floor() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    floors = {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert not {floor for floor in floors if f"{floor}/" not in readme}


def test_only_machine_independent_text_is_committed() -> None:
    secret_or_local = re.compile(r"/work/|/home/\w|/root/|index-url|BEGIN (RSA |EC )?PRIVATE KEY")
    pages = [
        *FILES,
        *ROOT.glob("*.md"),
        *ROOT.glob("*.lock"),
        *ROOT.glob("*.txt"),
        *ROOT.glob("*.toml"),
        ROOT / "Makefile",
        *(ROOT / "docs").glob("*.md"),
    ]
    assert not [str(p) for p in pages if secret_or_local.search(p.read_text(encoding="utf-8"))]
