"""Imports go down only: a module imports lower floors or its own room."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "counterstain"

FLOORS = {
    "errors": 0,
    "__version__": 0,
    "geometry": 0.5,
    "files": 0.5,
    "cache": 0.5,
    "results": 1,
    "layouts": 1.5,
    "filled": 1,
    "settings": 1,
    "log": 1,
    "slides": 2,
    "synth": 2,
    "tissue": 3,
    "tiles": 3,
    "stain": 3,
    "data": 4,
    "models": 4,
    "losses": 4,
    "metrics": 4,
    "training": 5,
    "infer": 5,
    "methods": 6,
    "export": 6,
    "recipes": 1,
    "jobs": 7,
    "report": 7.5,
    "cli": 8,
    "viewer": 8,
}
OUTSIDE = {"testing", "__init__", "__main__", "_version"}  # suites for contributors and the public names: any floor

# Below the rooms that need them, these stay out of the way until a function asks: a machine with torch alone runs models.
LAZY_ROOMS = ("models", "losses", "stain", "training", "methods")
LAZY = {
    "pydantic",
    "zarr",
    "shapely",
    "imagecodecs",
    "openslide",
    "tifffile",
    "pandas",
    "lightning",
    "timm",
    "torchvision",
}

MODULES = sorted(path for path in SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported(path: Path) -> list[tuple[str, int]]:
    """Every module of ours that a file imports, at any depth, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, node.lineno))
            if node.module == "counterstain":
                found += [(f"counterstain.{alias.name}", node.lineno) for alias in node.names]
    return [(name, line) for name, line in found if name.startswith("counterstain.")]


def imported_at_load(path: Path) -> set[str]:
    """Top-level packages that a file imports when it is itself imported."""
    found: set[str] = set()
    pending = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        pending += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room in OUTSIDE:
        return
    assert room in FLOORS, f"{path.name}: give the room {room!r} a floor"
    wrong = [
        f"line {line}: {name}"
        for name, line in imported(path)
        if (other := name.split(".")[1]) != room and FLOORS.get(other, 99) >= FLOORS[room]
    ]
    type_only = _type_only_lines(path)
    wrong = [entry for entry in wrong if int(entry.split(":")[0].removeprefix("line ")) not in type_only]
    assert not wrong, (
        f"{path.relative_to(SOURCE)} (floor {FLOORS[room]}) imports its own floor or a higher one: {wrong}"
    )


def _type_only_lines(path: Path) -> set[int]:
    """Lines under `if TYPE_CHECKING`: names for the type checker make no dependency at run time."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.stmt) and is_type_checking(node):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room_of(path) in LAZY_ROOMS], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_models_and_methods_load_with_torch_alone(path: Path) -> None:
    assert not imported_at_load(path) & LAZY


def test_only_the_log_prints() -> None:
    printing = [
        str(path.relative_to(SOURCE))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert set(printing) <= {"log.py"}


def test_a_type_only_import_is_told_from_a_real_one(tmp_path: Path) -> None:
    source = "if TYPE_CHECKING:\n    from counterstain.cli import main\nimport counterstain.cli\n"
    path = tmp_path / "module.py"
    path.write_text(source)
    assert _type_only_lines(path) == {1, 2}
    assert sorted(line for _, line in imported(path)) == [2, 3]
