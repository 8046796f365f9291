"""YAML in and out, such that what is written is read back as the same values, and nothing in a text can do harm.

Unlike in YAML 1.1, `1e3` and `5e-4` are numbers and dates are texts. Explicit tags, keys that come twice, deep nesting
and aliases that unfold without end are refused.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

_MAX_DEPTH = 32
_MAX_VALUES = 20_000  # with aliases unfolded
_LEFT_OUT = {"float", "timestamp", "value"}  # of PyYAML's ways to read a bare word
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


class _Reader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in keys:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
            keys.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)


class _Writer(yaml.SafeDumper):
    pass


for _class in (_Reader, _Writer):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _LEFT_OUT]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: On one line, if it is no YAML or is refused.
    """
    try:
        _check_events(text)
        value = yaml.load(text, _Reader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem or error.context}{place}") from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"{error.reason} (character {error.position + 1})") from error
    except (yaml.YAMLError, ArithmeticError, LookupError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    _check_size(value, {})
    return value


def write(value: Any) -> str:
    """YAML of plain values, in their order."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False)


def write_line(value: Any) -> str:
    """YAML of a list or a mapping of plain values, in their order, on one line but for texts that have several."""
    return yaml.dump(value, Dumper=_Writer, sort_keys=False, default_flow_style=True, width=math.inf).strip()


def _check_events(text: str) -> None:
    # Before anything is composed: composing is recursive.
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        place = f"line {event.start_mark.line + 1}" if event.start_mark else "the text"
        if tag := getattr(event, "tag", None):
            raise ValueError(f"the explicit tag {tag!r} in {place} has no meaning; leave it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"{place} is nested more than {_MAX_DEPTH} deep")


def _check_size(value: Any, known: dict[int, int]) -> int:
    """How many values there are with aliases unfolded, by the identity of what they stand for."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = _MAX_VALUES  # of one that holds itself
        children = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_check_size(child, known) for child in children)
    if known[id(value)] > _MAX_VALUES:
        raise ValueError("an alias unfolds without end")
    return known[id(value)]
