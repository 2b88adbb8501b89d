"""Load tokenizers of open_clip's configurations, transformers and tiktoken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from clipkit.data.text.clip_bpe import open_clip_folder
from clipkit.errors import ConfigError, first_line
from clipkit.hub import hub_file, is_hub_name
from clipkit.remote_code import OPTION, is_trusted, load_trusted, refuse_remote_code
from clipkit.suggestions import did_you_mean

_CONFIG_FILE_NAME: Final = "open_clip_config.json"


def open_clip_models() -> list[str]:
    """Return the names of the configurations of the installed open_clip."""
    return sorted(path.stem for path in (open_clip_folder() / "model_configs").glob("*.json"))


def open_clip_text_config(model: str) -> tuple[Mapping[str, Any], Path | None]:
    """Return ``text_cfg`` of a model's configuration, and its folder if it contains files."""
    path = Path(model.removeprefix("local-dir:"))
    folder = path if path.is_dir() else None
    if is_hub_name(model):
        return _text_section(_read(hub_file(model, _CONFIG_FILE_NAME)), model), None
    builtin = open_clip_folder() / "model_configs" / f"{model}.json"
    file = folder / _CONFIG_FILE_NAME if folder else path if path.suffix == ".json" else builtin
    if not file.is_file():
        raise ConfigError(
            f"tokenizer: {model!r} is no model of open_clip and no JSON configuration"
            f"{did_you_mean(model, open_clip_models())}"
        )
    return _text_section(_read(file), str(file)), folder


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: expected JSON, got: {error}") from error


def _text_section(config: Any, where: str) -> Mapping[str, Any]:
    config = config.get("model_cfg", config) if isinstance(config, Mapping) else {}
    if not isinstance(config.get("text_cfg"), Mapping):
        raise ConfigError(f"{where}: expected a section 'text_cfg', got keys {sorted(config)}")
    section: Mapping[str, Any] = config["text_cfg"]
    return section


def refuse_options(model: str, config: Mapping[str, Any]) -> None:
    """Refuse variants of the CLIP vocabulary that no shipped configuration uses."""
    if config.get("tokenizer_kwargs"):
        raise ConfigError(
            f"tokenizer of {model}: options {config['tokenizer_kwargs']} of the CLIP vocabulary "
            f"are not supported; remove 'tokenizer_kwargs' from the configuration"
        )


def padding_id(tokenizer: Any, name: str) -> int:
    """Return the padding id; without one, the end id, as transformers recommends."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise ConfigError(f"tokenizer {name}: it has neither a padding nor an end token; define one")


def loading(name: str, load: Callable[[], Any]) -> Any:
    """Return what ``load`` returns; its errors become a ``ConfigError``."""
    try:
        return load()
    except ConfigError:
        raise
    except (OSError, ValueError, ImportError, TypeError) as error:
        raise ConfigError(
            f"tokenizer of {name}: cannot be loaded: {first_line(error)}. Load it once with a "
            f"network, or name a local folder"
        ) from error


def load_transformers(path: str, name: str) -> Any:
    """Load the tokenizer of a local folder or hub name."""
    from transformers import AutoTokenizer

    def load(trusted: bool) -> Any:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trusted)

    return loading(name, lambda: load_trusted(f"tokenizer of {name}", load))


def load_of_open_clip(source: str, model: str, options: Mapping[str, Any]) -> Any:
    """Load open_clip's wrapper of a tokenizer of transformers."""
    what = f"tokenizer of {model}: {source!r}"
    if options.get(OPTION) and not is_trusted():
        raise refuse_remote_code(f"{what}, with tokenizer_kwargs {dict(options)} in its file,")
    from open_clip.tokenizer import HFTokenizer

    def load(trusted: bool) -> Any:
        wanted = {"context_length": None, **options, OPTION: trusted}
        return HFTokenizer(source, **wanted)

    return loading(model, lambda: load_trusted(what, load))


def load_tiktoken(encoding: str) -> Any:
    """Load an encoding of tiktoken."""
    try:
        import tiktoken
    except ImportError as error:
        raise ConfigError("tiktoken is missing: pip install 'clipkit[tiktoken]'") from error
    known = tiktoken.list_encoding_names()
    if encoding not in known:
        raise ConfigError(f"tiktoken: unknown encoding {encoding!r}, expected one of {known}")
    return loading(f"tiktoken:{encoding}", lambda: tiktoken.get_encoding(encoding))
