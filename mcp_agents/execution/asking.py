"""What an agent may ask a person: a message and a flat form, checked before anybody sees it.

The form is the subset of JSON Schema that MCP's elicitation can show: texts, numbers, choices, yes and no. An agent
may not ask for secrets, since its questions travel through clients and stand in the log. Pure. Above: the loop.
"""

import re
import unicodedata
from typing import Any, Final

import msgspec

from mcp_agents.agents.schema import violations
from mcp_agents.kernel.errors import AgentsError
from mcp_agents.kernel.messages import ToolCall

MESSAGE_LIMIT: Final = 2_000
FIELDS: Final = 20
TEXT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "title": "Answer", "maxLength": 10_000}},
    "required": ["answer"],
}
"""The form of a question without one."""

_SAID: Final = 300
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_COMMON: Final = frozenset({"type", "title", "description", "default"})
_WORDS: Final = {
    "string": _COMMON | {"minLength", "maxLength", "format", "enum", "enumNames"},
    "number": _COMMON | {"minimum", "maximum"},
    "integer": _COMMON | {"minimum", "maximum"},
    "boolean": _COMMON,
}
_FORMATS: Final = frozenset({"email", "uri", "date", "date-time"})
_SECRET: Final = re.compile(
    r"pass.?(word|phrase|code)|secret|credential|api.?key|private.?key|access.?key|token|\bpin\b|\bcvv\b|\bcvc\b"
    r"|one.?time|\botp\b|card.?number|seed.?phrase",
    re.IGNORECASE,
)


class Unfit(Exception):
    """The question is not put; the text says why, for the model."""


def form(call: ToolCall) -> tuple[str, dict[str, Any]]:
    """The message and the schema of a call of `ask_user`. Raises `Unfit`."""
    message, schema = call.arguments.get("message"), call.arguments.get("schema")
    if unknown := call.arguments.keys() - {"message", "schema"}:
        raise Unfit(f"It takes `message` and `schema`, not {min(unknown)[:64]}.")
    if not isinstance(message, str) or not plain(message).strip() or len(message) > MESSAGE_LIMIT:
        raise Unfit(f"`message` is a text of 1 to {MESSAGE_LIMIT} characters.")
    if schema is None:
        return plain(message), TEXT
    return plain(message), _schema(schema)


def plain(text: str) -> str:
    """The text without what a reader cannot see, which could make it read like something else."""
    return "".join(char for char in text if char in "\n\t" or not unicodedata.category(char).startswith("C"))


def shown(arguments: Any, limit: int) -> str:
    """Arguments of a call as a person is shown them, in one line, every unseen character written out."""
    text = msgspec.json.encode(arguments).decode()
    text = "".join(char if plain(char) else f"\\u{ord(char):04x}" for char in text)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _schema(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise Unfit("`schema` is a JSON Schema of an object.")
    if unknown := schema.keys() - {"type", "properties", "required", "additionalProperties", "title", "description"}:
        raise Unfit(f"`schema` cannot hold {min(unknown)[:64]}.")
    properties, required = schema.get("properties"), schema.get("required", [])
    if not isinstance(properties, dict) or not 1 <= len(properties) <= FIELDS:
        raise Unfit(f"`schema` has 1 to {FIELDS} properties.")
    if not isinstance(required, list) or any(str(name) not in properties for name in required):
        raise Unfit("`required` lists names of properties.")
    fields = {name: _field(name, part) for name, part in properties.items()}
    return {"type": "object", "properties": fields, "required": required}


def _field(name: str, part: Any) -> dict[str, Any]:
    if not _NAME.fullmatch(name):
        raise Unfit("A property's name is 1 to 64 of A-Z, a-z, 0-9, _ and -.")
    if not isinstance(part, dict) or str(part.get("type")) not in _WORDS:
        raise Unfit(f"{name} is of type string, number, integer or boolean; nothing can be nested.")
    if unknown := part.keys() - _WORDS[part["type"]]:
        raise Unfit(f"{name} cannot have {min(unknown)[:64]}.")
    texts = {word: plain(part[word]) for word in ("title", "description") if isinstance(part.get(word), str)}
    if any(len(text) > _SAID for text in texts.values()):
        raise Unfit(f"Title and description of {name} have at most {_SAID} characters.")
    if str(part.get("format", "date")) not in _FORMATS:
        raise Unfit(f"The format of {name} is one of {', '.join(sorted(_FORMATS))}.")
    if _SECRET.search(" ".join((name.replace("_", " "), *texts.values()))):
        raise Unfit(f"{name} looks like a secret, which must not be asked for.")
    _choice(name, part)
    fresh = {**{word: value for word, value in part.items() if word not in ("title", "description")}, **texts}
    _sensible(name, fresh)
    return fresh


def _choice(name: str, part: dict[str, Any]) -> None:
    choices, names = part.get("enum", [""]), part.get("enumNames", [])
    if not isinstance(choices, list) or not 1 <= len(choices) <= 100 or not isinstance(names, list):
        raise Unfit(f"{name} has 1 to 100 choices.")
    for each in (*choices, *names[:100]):
        if not isinstance(each, str) or len(each) > _SAID:
            raise Unfit(f"The choices of {name} are texts of at most {_SAID} characters.")


def _sensible(name: str, part: dict[str, Any]) -> None:
    """That the field is a schema, and its default fits it."""
    try:
        wrong = violations(
            {"type": "object", "properties": {"it": part}}, {"it": part["default"]} if "default" in part else {}
        )
    except AgentsError as error:
        raise Unfit(f"{name}: {error.public}") from error
    if wrong:
        raise Unfit(f"The default of {name} does not fit it.")
