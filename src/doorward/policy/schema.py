"""JSON Schema (draft 2020-12) of a policy, for editors: completion and hints; ``doorward check`` has the last word.

policy ─ name | list of (name | rules) | {dialect, rules}
rules  ─ {allow | deny: {operator: [term | {operator: …}]}, name}
term   ─ {criterion: value | {matcher: operand} | {key: …}}
"""

import re
from typing import Any, TypeAlias

from doorward.policy.criteria import CRITERIA
from doorward.policy.criteria.port import Criterion, Key, Kind, Operand, Parameter, Several
from doorward.policy.nodes import Action, Operator
from doorward.policy.parser import PLAIN_WORDS
from doorward.policy.reference_text import ON_ONE, ON_SEVERAL

Schema: TypeAlias = dict[str, Any]

_SET: Schema = {
    "type": "object",
    "properties": {"set": {"type": "string"}},
    "required": ["set"],
    "additionalProperties": False,
}
_SCALARS: dict[Kind, list[str]] = {
    Kind.TEXT: ["string"],
    Kind.WORD: ["string", "number", "boolean"],
    Kind.NUMBER: ["number", "string"],
    Kind.BOOLEAN: ["boolean"],
}


def policy_definitions() -> dict[str, Schema]:
    """The definitions ``Policy``, ``PolicyRules``, ``PolicyOperators``, ``PolicyTerm`` and ``PolicySets``, for ``$defs``."""
    rules = _reference("PolicyRules")
    return {
        "Policy": {
            "description": "Who may use the route.",
            "oneOf": [
                {"type": "string", "description": "A policy by name."},
                {"type": "array", "minItems": 1, "items": {"oneOf": [{"type": "string"}, rules]}},
                rules,
                {
                    "type": "object",
                    "properties": {
                        "version": {"const": 1},
                        "dialect": {"const": "ppl", "description": "As it was written for Pomerium."},
                        "rules": {"oneOf": [rules, {"type": "array", "minItems": 1, "items": rules}]},
                    },
                    "required": ["rules"],
                    "additionalProperties": False,
                },
            ],
        },
        "PolicyRules": {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "name": {"type": "string", "description": "A name for the rule in decision records."},
                **{str(action): _reference("PolicyOperators") for action in Action},
            },
            "additionalProperties": False,
        },
        "PolicyOperators": {
            "type": "object",
            "minProperties": 1,
            "properties": {
                word: {"type": "array", "minItems": 1, "items": _reference("PolicyTerm")}
                for word in (*map(str, Operator), *PLAIN_WORDS)
            },
            "additionalProperties": False,
        },
        "PolicyTerm": _terms(),
        "PolicySets": {
            "type": "object",
            "additionalProperties": {
                "type": "array",
                "minItems": 1,
                "items": {"type": ["string", "number", "boolean"]},
            },
        },
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _terms() -> Schema:
    named = {item.name: _criterion(item) for item in CRITERIA if not item.takes_argument or item.argument_optional}
    patterns = {f"^{re.escape(item.name)}/.": _criterion(item) for item in CRITERIA if item.takes_argument}
    operators = {
        word: {"type": "array", "minItems": 1, "items": _reference("PolicyTerm")}
        for word in (*map(str, Operator), *PLAIN_WORDS)
    }
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {**named, **operators},
        "patternProperties": patterns,
        "additionalProperties": False,
    }


def _criterion(criterion: Criterion) -> Schema:
    described = f"{criterion.summary} {criterion.detail}".strip()
    if criterion.operand is Operand.NOTHING:
        return {"description": described, "oneOf": [{"const": True}, {"type": "null"}, {"const": 1}, _empty()]}
    shapes: list[Schema] = [{"const": True}, _empty()] if criterion.takes_true else []
    own = criterion.keys.get("")
    if own is not None:
        shapes += _plain(own)
    properties: dict[str, Schema] = {name: _key(key) for name, key in criterion.keys.items() if name}
    if own is not None:
        severals = criterion.operand is Operand.STRINGS
        for comparison, parameter in own.comparisons.items():
            words = (
                (ON_SEVERAL if severals else ON_ONE).get(comparison) or ON_ONE.get(comparison) or ON_SEVERAL[comparison]
            )
            properties[str(comparison)] = {**_operand(parameter), "description": f"Holds when {words}."}
    if criterion.may_be_absent:
        properties["optional"] = {
            "type": "boolean",
            "description": "Whether an absent value is one that does not match.",
        }
    if criterion.folds_case:
        properties["ignore_case"] = {"type": "boolean"}
    shapes.append({"type": "object", "minProperties": 1, "properties": properties, "additionalProperties": False})
    return {"description": described, "anyOf": shapes}


def _empty() -> Schema:
    return {"type": "object", "maxProperties": 0}


def _plain(key: Key) -> list[Schema]:
    """What may stand in the place of a mapping."""
    shape = _operand(key.comparisons[key.default])
    lists = any(parameter.several is not Several.ONE for parameter in key.comparisons.values())
    scalar = {"type": _SCALARS[key.comparisons[key.default].kind]}
    return [shape, {"type": "array", "minItems": 1, "items": scalar}, _SET] if lists else [shape]


def _key(key: Key) -> Schema:
    if len(key.comparisons) == 1:
        return {**_operand(key.comparisons[key.default]), "description": key.summary}
    properties = {str(comparison): _operand(parameter) for comparison, parameter in key.comparisons.items()}
    mapping = {"type": "object", "minProperties": 1, "properties": properties, "additionalProperties": False}
    return {"description": key.summary, "anyOf": [*_plain(key), mapping]}


def _operand(parameter: Parameter) -> Schema:
    scalar: Schema = {"type": _SCALARS[parameter.kind]}
    if parameter.words and parameter.kind is not Kind.BOOLEAN:
        scalar = {"enum": list(parameter.words)}
    several: Schema = {"type": "array", "minItems": 1, "items": scalar}
    # A list of one may be written as its value, and a name of the configuration's sets stands for a list.
    return {"anyOf": [scalar, several, _SET]}
