"""Smoke alarms: sizes, complexity, layers, and whether docs and code agree. When one rings, find the better cut."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import gossamer
from gossamer.spec import Spec

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gossamer"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
SAFE_LOAD = "torch.load(path, map_location='cpu', weights_only=True, mmap=True)"
"""The one call of torch.load there is: it reads tensors and plain values, and runs nothing."""

FUNCTIONS = [
    (path, node)
    for path, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
]

for module in pkgutil.walk_packages(gossamer.__path__, "gossamer."):
    if "triton" not in module.name or importlib.util.find_spec("triton"):
        importlib.import_module(module.name)


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} {getattr(node, 'name', '')}"


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    documented = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return node.end_lineno - node.lineno + 1 - documented


def all_specs() -> list[type[Spec]]:
    found, queue = [], [Spec]
    while queue:
        for child in queue.pop().__subclasses__():
            queue.append(child)
            if child.__module__.startswith("gossamer."):
                found.append(child)
    return found


def test_files_are_short():
    too_long = {
        str(path.relative_to(ROOT)): lines
        for path in FILES
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > (600 if "kernels" in path.parts else 400)
    }
    assert not too_long


def test_functions_are_short():
    assert not [place(path, node) for path, node in FUNCTIONS if body_lines(node) > 60]


def test_classes_have_few_public_methods():
    crowded = [
        place(path, node)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and sum(isinstance(item, ast.FunctionDef) and not item.name.startswith("_") for item in node.body) > 12
    ]
    assert not crowded


def test_specs_have_at_most_twelve_fields():
    assert len(all_specs()) > 15
    assert not [spec.__name__ for spec in all_specs() if len(dataclasses.fields(spec)) > 12]


def test_there_is_no_drawer_for_everything():
    assert not [str(path) for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]


def test_complexity_stays_low():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "C901", "--output-format", "concise", str(PACKAGE)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout


def test_rooms_import_only_to_the_right():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_no_pickle_is_ever_loaded():
    names = {"pickle", "joblib", "dill", "cloudpickle"}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not names & {alias.name.split(".")[0] for alias in node.names}, place(path, node)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert path == PACKAGE / "interop" / "torch_files.py", f"torch.load in {place(path, node)}"
                assert ast.unparse(node) == SAFE_LOAD, place(path, node)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert "allow_pickle=False" in ast.unparse(node), place(path, node)


def test_every_module_starts_with_what_lives_there():
    assert not [str(path.relative_to(ROOT)) for path, tree in TREES.items() if not ast.get_docstring(tree)]


def test_every_public_name_of_the_package_is_what_its_type_checkers_see():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    declared = set(re.findall(r"import \w+ as (\w+)$", source, flags=re.MULTILINE))
    assert declared == set(gossamer._HOMES)
    for name in gossamer.__all__:
        value = getattr(gossamer, name)
        assert name == "__version__" or value.__doc__, name


def test_the_command_line_page_is_up_to_date():
    script = (
        "import sys; sys.path.insert(0, 'scripts'); import cli_reference as page;"
        "sys.exit(page.PAGE.read_text() != page.reference())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    assert done.returncode == 0, "run: python scripts/cli_reference.py"


def test_every_recipe_can_be_read():
    from gossamer.compare.recipe import Comparison
    from gossamer.training.recipe import Recipe

    recipes = sorted((ROOT / "recipes").glob("*.toml"))
    assert recipes
    for path in recipes:
        (Comparison if path.stem.startswith("compare") else Recipe).read(path)


def test_the_annotated_tree_of_the_readme_names_every_room():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert not {room for room in rooms if f"{room}/" not in readme}


def test_the_changelog_knows_the_version():
    assert f"## {gossamer.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_file_names_a_machine_or_a_registry():
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    words = re.compile(rf"/{'work'}/|/{'root'}/|pypi\.org|files\.pythonhosted")
    texts = [
        ROOT / name for name in tracked if Path(name).suffix in (".py", ".md", ".toml", ".html", ".yml", ".txt", "")
    ]
    assert not [str(path) for path in texts if path.is_file() and words.search(path.read_text(errors="ignore"))]
