"""Print the size of the package as JSON: lines, functions, packages, comments and examples.

    python tools/count_lines.py [FOLDER of the package, clipkit when left out]

A line counts if it is not blank. The lines of a function are counted without its docstring; its
arguments without ``self`` and ``cls``. The share of comments includes docstrings.
"""

from __future__ import annotations

import ast
import io
import json
import statistics
import sys
import tokenize
from collections import Counter
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef | ast.Module


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "clipkit")
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))}
    functions = {
        f"{path.relative_to(root)}:{node.name}": (function_lines(node, text), arguments(node))
        for path, text in texts.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, Function)
    }
    longest = max(functions, key=lambda name: functions[name][0])
    widest = max(functions, key=lambda name: functions[name][1])
    constructors = {name: n[1] for name, n in functions.items() if name.endswith(":__init__")}
    packages = Counter[str]()
    for path, text in texts.items():
        packages[path.relative_to(root).parts[0] if path.parent != root else "."] += not_blank(text)
    folder, size = Counter(path.parent for path in texts).most_common(1)[0]
    lines = sum(not_blank(text) for text in texts.values())
    explaining = sum(explaining_lines(text) for text in texts.values())
    examples = [
        line
        for text in texts.values()
        for line in text.splitlines()
        if line.lstrip().startswith(">>> ")
    ]
    figures = {
        "files": len(texts),
        "lines": lines,
        "lines_of_comments_and_docstrings": explaining,
        "comment_share": round(explaining / lines, 3),
        "functions": len(functions),
        "function_lines_median": statistics.median(length for length, _ in functions.values()),
        "function_lines_max": [functions[longest][0], longest],
        "arguments_max": [functions[widest][1], widest],
        "constructor_arguments_max": max(constructors.values(), default=0),
        "largest_folder": [size, str(folder.relative_to(root))],
        "examples": len(examples),
        "examples_skipped": sum("+SKIP" in line for line in examples),
        "lines_by_package": dict(sorted(packages.items())),
    }
    print(json.dumps(figures, indent=2))


def not_blank(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())


def docstring_lines(node: Documented) -> set[int]:
    """The numbers of the lines of a node's docstring."""
    if ast.get_docstring(node, clean=False) is None:
        return set()
    return set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))


def function_lines(node: Function, text: str) -> int:
    source = text.splitlines()
    numbers = set(range(node.lineno, (node.end_lineno or 0) + 1)) - docstring_lines(node)
    return sum(bool(source[number - 1].strip()) for number in numbers)


def arguments(node: Function) -> int:
    listed = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    extra = [node.args.vararg, node.args.kwarg]
    names = [argument.arg for argument in [*listed, *extra] if argument is not None]
    return len([name for name in names if name not in {"self", "cls"}])


def explaining_lines(text: str) -> int:
    """Lines that are a comment alone, or part of a docstring, and not blank."""
    numbers = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Documented):
            numbers |= docstring_lines(node)
    source = text.splitlines()
    return sum(bool(source[number - 1].strip()) for number in numbers)


if __name__ == "__main__":
    main()
