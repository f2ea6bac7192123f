"""Writes docs/structure.txt: every module, what it is for, and what of edgeinfer it imports.

    python docs/structure.py            # write it
    python docs/structure.py --check    # status 1 where it differs from the code

Imports in parentheses happen when a function is called. Nothing is imported here: the source is parsed.
"""

import ast
import sys
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path

from generated import write_or_check  # beside this script

_REPOSITORY = Path(__file__).resolve().parent.parent
_TARGET = _REPOSITORY / "docs" / "structure.txt"
_PARTS = ("runtime", "quantize", "devices", "sync")
_HEADER = """\
Every module of edgeinfer: what it is for, and which others it imports (in parentheses: only when called).
Written by `make docs` from the code. Layers: cli > console > (quantize | sync) > runtime > devices.
"""


def structure(repository: Path) -> str:
    """The whole document."""
    roots = [repository / part for part in _PARTS]
    modules = {_module_name(root, path) for root in roots for path in root.rglob("*.py")}
    return _HEADER + "".join(_part(root, modules) for root in roots)


def _part(root: Path, modules: AbstractSet[str]) -> str:
    lines = [f"\n{root.name}/"]
    for path in sorted(root.rglob("*.py")):
        lines += _module(root, path, modules)
    return "\n".join(lines) + "\n"


def _module(root: Path, path: Path, modules: AbstractSet[str]) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    module = _module_name(root, path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    at_start = _imported(tree.body, package, modules) - {module}
    anywhere = _imported(ast.walk(tree), package, modules) - {module}
    names = [_short(name) for name in sorted(at_start)]
    names += [f"({_short(name)})" for name in sorted(anywhere - at_start)]
    summary = (ast.get_docstring(tree) or "").split("\n", maxsplit=1)[0]
    lines = [f"  {path.relative_to(root / 'edgeinfer')}: {summary}".rstrip(": ")]
    return [*lines, f"      {' '.join(names)}"] if names else lines


def _module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _short(module: str) -> str:
    return module.removeprefix("edgeinfer.")


def _imported(nodes: Iterable[ast.AST], package: str, modules: AbstractSet[str]) -> set[str]:
    """The modules of edgeinfer that the import statements among `nodes` name."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found |= _from_import(_resolve(node, package), node.names, modules)
    return {name for name in found if name.startswith("edgeinfer.")}


def _from_import(source: str, names: list[ast.alias], modules: AbstractSet[str]) -> set[str]:
    """`from package import module` names a module; `from module import name` names only where it comes from."""
    submodules = {f"{source}.{alias.name}" for alias in names} & modules
    return submodules if len(submodules) == len(names) else {source, *submodules}


def _resolve(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


if __name__ == "__main__":
    sys.exit(write_or_check(_TARGET, structure(_REPOSITORY), sys.argv[1:]))
