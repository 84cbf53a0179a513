"""The rule-based offline model: no LLM, no network, no key; for demos, tests and benchmarks.

It fills the kernel's `Model` port and says what it is: its model name is `rule-based`, and where no rule
applies it answers that it follows rules. It is not a simulation of a language model and not an evaluator:
the same request always gets the same answer, from nothing but the text it was sent.

The rules come from the latest user message, or from the system prompt when that message holds none. What
stands in a `<context>` block is data and never a rule. One rule a line; words are case-insensitive, and a
list mark, `please` or `then` may come first:

| line | what happens |
| --- | --- |
| `call TOOL with {json}`, `use TOOL {json}` | asks for that tool; several lines are called one a turn, in order |
| `call in parallel: TOOL with {json}; TOOL with {json}` | all in one turn; the calls may also follow, one a line |
| `ask NAME: text` | without a `call` line: calls the tool whose name ends in NAME with `{"prompt": text}` |
| `say TEXT` | the final answer, after the calls |
| `json {…}` or `json […]` | that text as the final answer, after the calls |

TOOL is an offered name, `server/tool`, or what follows the `__` of an offered name. Arguments that are no
JSON object are asked for as malformed, as a language model would. `{{last}}` is the text of the newest tool
result, `{{prompt}}` the latest user message. After its calls, and without `say` or `json`, the model reports:
`The result is: …`, or `The tool TOOL failed: …` for a result that begins with an error code (`TOOL_DOWN: …`).

Above it: the model router, and `rule_model_http` with the same rules on OpenAI's wire. Below: nothing.
"""

import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import anyio.lowlevel
import msgspec

from mcp_agents.kernel.messages import Message, ToolCall, Usage
from mcp_agents.kernel.model import ModelAnswer, ModelRequest, TextDelta, ToolSchema

NAME: Final = "rule-based"
ECHO: Final = "[rule-based model] I follow simple rules, not a language model. You said: "
_ECHO_LENGTH: Final = 200

_LEAD: Final = r"^\s*(?:[-*]\s+|\d+[.)]\s+)?(?:(?:please|then)\s+)?"
_PARALLEL: Final = re.compile(_LEAD + r"call in parallel:\s*(?P<rest>.*)$", re.IGNORECASE)
_CALL: Final = re.compile(_LEAD + r"(?:call|use)\s+(?P<rest>\S.*)$", re.IGNORECASE)
_LISTED: Final = re.compile(_LEAD + r"(?:(?:call|use)\s+)?(?P<rest>\S.*)$", re.IGNORECASE)
_ASK: Final = re.compile(r"\bask\s+(?P<name>[A-Za-z0-9_-]+):\s*(?P<text>\S.*)$", re.IGNORECASE)
_SAY: Final = re.compile(_LEAD + r"say\s+(?P<text>\S.*)$", re.IGNORECASE)
_JSON: Final = re.compile(_LEAD + r"json\s+(?P<text>[\[{].*)$", re.IGNORECASE)
_TARGET: Final = re.compile(r"(?P<tool>[A-Za-z0-9_./-]+)(?:\s+with)?\s*")
_BETWEEN: Final = re.compile(r"[\s;,]*(?:and\s+)?", re.IGNORECASE)
_CONTEXT: Final = re.compile(r"<context>.*?(?:</context>|\Z)", re.DOTALL | re.IGNORECASE)
_FAILED: Final = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+: ")
_PLACE: Final = re.compile(r"\{\{(last|prompt)\}\}")
_WORDS: Final = re.compile(r"\S+\s*|\s+")
_scan: Final = json.JSONDecoder().raw_decode


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One call a rule asks for, before it is matched with the offered tools; `raw` is empty without arguments."""

    tool: str
    raw: str
    by_ending: bool = False


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a text asks for: turns of calls, then a final answer ("" for none)."""

    turns: tuple[tuple[_Wanted, ...], ...] = ()
    answer: str = ""


class RuleModel:
    """The rule-based model behind the `Model` port."""

    async def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        """The decided answer, word by word, without waiting between the words. Raises nothing of its own."""
        answer = decide(request.messages, request.tools)
        for word in words(answer.text):
            await anyio.lowlevel.checkpoint()
            yield TextDelta(word)
        await anyio.lowlevel.checkpoint()
        yield answer


def words(text: str) -> list[str]:
    """The text in word-sized pieces that join to exactly it."""
    return _WORDS.findall(text)


def decide(messages: Sequence[Message], tools: Sequence[ToolSchema]) -> ModelAnswer:
    """The answer to a conversation, by the rules in the head of this module.

    Usage counts whitespace-separated words of the texts and of the arguments; it is no tokenizer's count.
    Never raises, whatever the texts hold.
    """
    messages = tuple(messages)
    at = max((place for place, message in enumerate(messages) if message.role == "user"), default=-1)
    prompt = messages[at].text if at >= 0 else ""
    since = messages[at + 1 :]
    results = [message for message in since if message.role == "tool"]
    done = sum(1 for message in since if message.tool_calls)
    fill = {"last": results[-1].text if results else "", "prompt": prompt}
    rules = _rules(prompt, tools)
    if rules == _Rules():
        rules = _rules("\n".join(message.text for message in messages if message.role == "system"), tools)
    calls: tuple[ToolCall, ...] = ()
    if done < len(rules.turns):
        wanted = rules.turns[done]
        if missing := [want.tool for want in wanted if _find(want, tools) is None]:
            return _answer(messages, _not_offered(missing, tools), ())
        turn = sum(1 for message in messages if message.role == "assistant") + 1
        calls = tuple(_call(want, tools, f"call_{turn}_{place}", fill) for place, want in enumerate(wanted, 1))
        return _answer(messages, "", calls)
    if rules.answer:
        return _answer(messages, _filled(rules.answer, fill), ())
    if results:
        return _answer(messages, _report(results, since), ())
    said = " ".join(prompt.split())
    return _answer(messages, ECHO + (said if len(said) <= _ECHO_LENGTH else said[:_ECHO_LENGTH] + "…"), ())


def _rules(text: str, tools: Sequence[ToolSchema]) -> _Rules:
    turns: list[tuple[_Wanted, ...]] = []
    asks: list[tuple[_Wanted, ...]] = []
    answer = ""
    lines = _CONTEXT.sub("", text).splitlines()
    while lines:
        line = lines.pop(0)
        if match := _PARALLEL.match(line):
            batch = _several(match["rest"])
            while lines and (found := _listed(lines[0], tools)):
                batch.append(found)
                lines.pop(0)
            turns += [tuple(batch)] if batch else []
        elif (match := _CALL.match(line)) and (found := _one(match["rest"], tools)):
            turns.append((found,))
        elif match := _SAY.match(line) or _JSON.match(line):
            answer = answer or match["text"].rstrip()
        elif match := _ASK.search(line):
            want = _Wanted(match["name"], json.dumps({"prompt": match["text"].strip()}), by_ending=True)
            asks += [(want,)] if _find(want, tools) else []
    return _Rules(tuple(turns or asks), answer)


def _one(rest: str, tools: Sequence[ToolSchema]) -> _Wanted | None:
    """The call on a line, or None for ordinary prose: the tool must be on offer, or arguments must follow it."""
    match = _TARGET.match(rest)
    if match is None:
        return None
    raw = rest[match.end() :].strip()
    arguments = _object(raw) if raw.startswith("{") else ""
    want = _Wanted(match["tool"], arguments)
    if _find(want, tools):
        return want if arguments or raw in ("", ".") else None
    return want if _is_json(arguments) else None


def _listed(line: str, tools: Sequence[ToolSchema]) -> _Wanted | None:
    match = _LISTED.match(line)
    return _one(match["rest"], tools) if match else None


def _several(rest: str) -> list[_Wanted]:
    """Calls on one line, one behind another."""
    found: list[_Wanted] = []
    at = 0
    while match := _TARGET.match(rest, at):
        at = match.end()
        raw = _object(rest[at:]) if rest.startswith("{", at) else ""
        found.append(_Wanted(match["tool"], raw))
        between = _BETWEEN.match(rest, at + len(raw))
        at = between.end() if between else len(rest)
    return found


def _object(text: str) -> str:
    """The JSON at the beginning of the text, without what follows it; all of it when it is not JSON."""
    try:
        return text[: _scan(text)[1]]
    except (ValueError, RecursionError):
        return text


def _is_json(text: str) -> bool:
    try:
        _scan(text)
    except (ValueError, RecursionError):
        return False
    return True


def _find(want: _Wanted, tools: Sequence[ToolSchema]) -> ToolSchema | None:
    """The offered tool that is meant: the exact name first, then the ending, in the order of the offer."""
    name = want.tool.replace("/", "__")
    exact = (tool for tool in tools if tool.name == name)
    behind_server = (tool for tool in tools if tool.name.endswith("__" + name))
    ending = (tool for tool in tools if want.by_ending and tool.name.endswith(name))
    return next(chain(exact, behind_server, ending), None)


def _call(want: _Wanted, tools: Sequence[ToolSchema], call_id: str, fill: dict[str, str]) -> ToolCall:
    tool = _find(want, tools)
    name = tool.name if tool else want.tool
    if not want.raw:
        return ToolCall(call_id=call_id, tool=name)
    for raw, inside in ((want.raw, True), (_filled(want.raw, fill), False)):
        try:
            arguments = msgspec.json.decode(raw)
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            continue
        if isinstance(arguments, dict):
            return ToolCall(call_id=call_id, tool=name, arguments=_deep(arguments, fill) if inside else arguments)
    return ToolCall(call_id=call_id, tool=name, malformed=want.raw)


def _deep(value: Any, fill: dict[str, str]) -> Any:
    """The value with the placeholders in its strings replaced; they were JSON strings before, so they stay so."""
    match value:
        case str():
            return _filled(value, fill)
        case dict():
            return {key: _deep(item, fill) for key, item in value.items()}
        case list():
            return [_deep(item, fill) for item in value]
        case _:
            return value


def _filled(text: str, fill: dict[str, str]) -> str:
    """One pass: what is filled in is not looked at again."""
    return _PLACE.sub(lambda match: fill[match[1]], text)


def _report(results: Sequence[Message], since: Sequence[Message]) -> str:
    names = {call.call_id: call.tool for message in since for call in message.tool_calls}
    good = [result.text for result in results if not _FAILED.match(result.text)]
    bad = [
        f"The tool {result.tool or names.get(result.call_id, 'without a name')} failed: {result.text}"
        for result in results
        if _FAILED.match(result.text)
    ]
    return " ".join((["The result is: " + "; ".join(good)] if good else []) + bad)


def _not_offered(missing: Sequence[str], tools: Sequence[ToolSchema]) -> str:
    offered = ", ".join(tool.name for tool in tools) or "none"
    return f"[rule-based model] There is no tool {', '.join(missing)}. Offered: {offered}."


def _answer(messages: Sequence[Message], text: str, calls: tuple[ToolCall, ...]) -> ModelAnswer:
    read = sum(len(message.text.split()) + _call_words(message.tool_calls) for message in messages)
    return ModelAnswer(
        text=text,
        tool_calls=calls,
        usage=Usage(input_tokens=read, output_tokens=len(text.split()) + _call_words(calls)),
        model=NAME,
        finish_reason="tool_calls" if calls else "stop",
    )


def _call_words(calls: Sequence[ToolCall]) -> int:
    return sum(1 + len((call.malformed or json.dumps(call.arguments)).split()) for call in calls)
