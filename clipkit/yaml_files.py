"""Read YAML files, and report every error on one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import yaml

from clipkit.errors import ConfigError, first_line


@final
class _Loader(yaml.SafeLoader):
    """Loader that refuses duplicate keys; PyYAML would drop the first value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping without duplicate keys."""
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = (key.tag, str(key.value))
            if name in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} occurs twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file.

    Examples:
        >>> read_yaml("configs/trainer/cpu.yaml")["trainer"]["accelerator"]
        'cpu'
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: expected a YAML file, got bytes that are not UTF-8 (at {error.start})"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r}: expected the name of a YAML file: {error}") from error
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        reason = getattr(error, "problem", None) or first_line(error)
        raise ConfigError(f"{path}:{line} not YAML: {reason}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply to be a configuration") from error
    except Exception as error:  # a wrong tag, such as !!int x, raises any error
        raise ConfigError(f"{path}: not YAML: {first_line(error)}") from error
    if holds_itself(content):
        raise ConfigError(
            f"{path}: an alias (*name) is inside the value that it names; write the value out"
        )
    return content


def holds_itself(content: Any) -> bool:
    """Return whether a mapping or list contains itself; reading it would not terminate.

    Examples:
        >>> holds_itself({"a": [1, 2]})
        False
    """
    finished: set[int] = set()
    open_ids: set[int] = set()
    waiting = [(content, False)]
    while waiting:
        value, is_done = waiting.pop()
        if not isinstance(value, dict | list) or id(value) in finished:
            continue
        if is_done:
            open_ids.remove(id(value))
            finished.add(id(value))
        elif id(value) in open_ids:
            return True
        else:
            open_ids.add(id(value))
            items = value.values() if isinstance(value, dict) else value
            waiting += [(value, True), *((item, False) for item in items)]
    return False
