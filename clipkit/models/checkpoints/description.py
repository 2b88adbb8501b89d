"""A model's architecture as plain types, and back: ``{"class_path": ..., "init_args": {...}}``."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.joint.fusion import Fusion
from clipkit.models.joint.joint_encoder import JointEncoder
from clipkit.models.joint.word_head import WordHead
from clipkit.models.multimodal_encoder import MultimodalEncoder
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.models.towers.base import ImageTower, SignalTower, TextTower, Tower

_PUBLIC: Final = "clipkit.models"
_PAIR: Final = ("image_tower", "text_tower", "label_head")
_JOINT: Final = ("fusion", "word_head")
_NAMED_PARTS: Final = ("towers", "label_heads")
_NAMES: Final = "class_names"
_BASES: Final = (ImageTower, TextTower, SignalTower, LabelHead, Fusion, WordHead)

# of classes that get values which they do not expect
_REFUSALS: Final = (
    *(ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
)

Part = Tower | LabelHead | Fusion | WordHead


def describe(model: TowerEncoder | Part) -> dict[str, Any]:
    """Describe a model's architecture as plain types, without its weights.

    Class names of a label head are added to its arguments, unless the arguments contain them.

    Args:
        model: An encoder, or one of its parts.

    Returns:
        Plain types: lists, dictionaries, strings and numbers.

    Examples:
        >>> describe(LinearLabelHead(8, 3))
        {'class_path': 'clipkit.models.LinearLabelHead',
         'init_args': {'embedding_dim': 8, 'num_classes': 3}}
    """
    init_args: dict[str, Any] = model.config()
    if isinstance(model, DualEncoder):
        parts = {name: getattr(model, name) for name in _PAIR}
        init_args = {
            **{name: None if part is None else describe(part) for name, part in parts.items()},
            **init_args,
        }
    elif isinstance(model, NamedTowerEncoder):
        if isinstance(model, JointEncoder):
            parts = {name: getattr(model, name) for name in _JOINT}
            described_parts = {n: None if p is None else describe(p) for n, p in parts.items()}
            init_args = {**described_parts, **init_args}
        init_args = {
            "towers": {name: describe(part) for name, part in model.towers.items()},
            "label_heads": {name: describe(part) for name, part in model.heads.items()},
            **init_args,
        }
    described = {"class_path": _class_path(_own_class(model)), "init_args": init_args}
    names = list(model.class_names) if isinstance(model, LabelHead) else []
    if any(names) and names != init_args.get(_NAMES):
        described[_NAMES] = names
    return described


def build_encoder(description: Mapping[str, Any], where: str) -> TowerEncoder:
    """Build the encoder that ``describe`` described, randomly initialised.

    Only clipkit's own classes, and subclasses of its towers and heads whose modules are imported
    already, are ever called: a checkpoint cannot make this process run anything else.
    """
    kinds = {_class_path(kind): kind for kind in (DualEncoder, MultimodalEncoder, JointEncoder)}
    class_path = description.get("class_path")
    if class_path not in kinds:
        raise CheckpointError(
            f"{where}: encoder: expected {' or '.join(kinds)}, got {class_path!r}"
        )
    init_args = dict(_init_args(description, where))
    for name in (*_PAIR, *_JOINT):
        if init_args.get(name) is not None:
            init_args[name] = _build_part(init_args[name], f"{where}: {name}")
    for name in _NAMED_PARTS:
        if name in init_args:
            init_args[name] = _build_named(init_args[name], f"{where}: {name}")
    encoder: TowerEncoder = _call(kinds[class_path], init_args, where)
    return encoder


def _build_named(descriptions: Any, where: str) -> dict[str, Part]:
    if not isinstance(descriptions, Mapping):
        raise CheckpointError(f"{where}: expected parts by name, got {str(descriptions)[:80]}")
    return {name: _build_part(one, f"{where}.{name}") for name, one in descriptions.items()}


def _build_part(description: Mapping[str, Any], where: str) -> Part:
    known = {_class_path(cls): cls for base in _BASES for cls in _concrete_subclasses(base)}
    class_path = description.get("class_path") if isinstance(description, Mapping) else None
    if class_path not in known:
        raise CheckpointError(
            f"{where}: {class_path!r} is not a known tower, head or fusion; clipkit has "
            f"{', '.join(sorted(known))}; import the module of your own class before loading"
        )
    part: Part = _call(known[class_path], _init_args(description, where), where)
    if isinstance(part, LabelHead) and _NAMES in description:
        part.class_names = _checked_names(description[_NAMES], part.num_classes, where)
    return part


def _checked_names(names: Any, num_classes: int, where: str) -> tuple[str, ...]:
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or len(names) != num_classes:
        raise CheckpointError(
            f"{where}: {_NAMES}: expected a list of {num_classes} texts, one per class of the "
            f"label head, got {str(names)[:80]}"
        )
    return tuple(names)


def _init_args(description: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    init_args = description.get("init_args")
    if not isinstance(init_args, Mapping):
        raise CheckpointError(f"{where}: expected init_args, got {init_args!r}")
    return init_args


def _call(cls: Any, init_args: Mapping[str, Any], where: str) -> Any:
    unknown = set(init_args) - set(inspect.signature(cls.__init__).parameters)
    if unknown:
        raise CheckpointError(
            f"{where}: {cls.__name__} of this clipkit has no argument {sorted(unknown)[0]!r}"
        )
    try:
        return cls(**init_args)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except _REFUSALS as error:
        raise CheckpointError(
            f"{where}: {cls.__name__} cannot be built with the described arguments: "
            f"{type(error).__name__}: {first_line(error)}; the description is damaged, or of "
            f"another clipkit"
        ) from error


def _concrete_subclasses(base: Any) -> list[Any]:
    found: list[Any] = [] if inspect.isabstract(base) else [base]
    for subclass in base.__subclasses__():
        found += _concrete_subclasses(subclass)
    return found


def _own_class(model: nn.Module) -> type:
    """Return the class of a model, without the class that sharding (FSDP2) puts over it."""
    from torch.distributed.fsdp import FSDPModule

    return next(cls for cls in type(model).__mro__ if not issubclass(cls, FSDPModule))


def _class_path(cls: type) -> str:
    """Return the public path of a class of clipkit, which stays the same if its module moves."""
    own = cls.__module__.startswith(f"{_PUBLIC}.")
    return f"{_PUBLIC if own else cls.__module__}.{cls.__qualname__}"
