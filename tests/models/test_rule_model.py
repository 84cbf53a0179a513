"""The rule-based model follows its documented rules, from the text of the request alone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_agents.adapters.rule_model import ECHO, RuleModel, decide, words
from mcp_agents.kernel.messages import Message, ToolCall
from mcp_agents.kernel.model import ModelAnswer
from tests.models.asking import TOOLS, collect, request, user


def asked(answer: ModelAnswer) -> list[tuple[str, dict[str, Any]]]:
    return [(call.tool, call.arguments) for call in answer.tool_calls]


def after(messages: list[Message], *results: str) -> list[Message]:
    """The conversation after the model's next answer and the results of its calls."""
    answer = decide(messages, TOOLS)
    told = [
        Message(role="tool", text=text, call_id=call.call_id, tool=call.tool)
        for call, text in zip(answer.tool_calls, results, strict=True)
    ]
    return [*messages, Message(role="assistant", text=answer.text, tool_calls=answer.tool_calls), *told]


@pytest.mark.parametrize(
    "line",
    [
        'call add with {"a": 1, "b": 2}',
        'use demo__add {"a": 1, "b": 2}',
        'Please call demo/add with {"a": 1, "b": 2}.',
        '- CALL add {"a": 1, "b": 2}',
    ],
)
def test_a_call_line_asks_for_the_offered_tool(line: str) -> None:
    """The tool is found by its name, its server/tool form or what follows its server."""
    assert asked(decide([user(f"Hello.\n{line}")], TOOLS)) == [("demo__add", {"a": 1, "b": 2})]


def test_lines_are_called_one_turn_after_another() -> None:
    """Each turn asks for the next line, and the results are reported at the end."""
    messages = [user('call add with {"a": 1}\ncall echo with {"text": "{{last}}"}\ncall add with {"a": {{last}}}')]
    messages = after(messages, "3")
    assert asked(decide(messages, TOOLS)) == [("demo__echo", {"text": "3"})]
    messages = after(messages, "4")
    assert asked(decide(messages, TOOLS)) == [("demo__add", {"a": 4})]
    messages = after(messages, "5")
    assert decide(messages, TOOLS).text == "The result is: 3; 4; 5"


@pytest.mark.parametrize(
    "text",
    [
        'call in parallel: add with {"a": 1}; echo with {"text": "x; y"}',
        'call in parallel:\n- add with {"a": 1}\ncall echo with {"text": "x; y"}',
    ],
)
def test_parallel_calls_are_asked_for_in_one_turn(text: str) -> None:
    """Both written forms make one turn with two calls of different ids."""
    answer = decide([user(text)], TOOLS)
    assert asked(answer) == [("demo__add", {"a": 1}), ("demo__echo", {"text": "x; y"})]
    assert len({call.call_id for call in answer.tool_calls}) == 2


def test_asking_an_agent_calls_the_tool_that_ends_in_its_name() -> None:
    """Agents as tools take a prompt."""
    assert asked(decide([user("Please ask bob: how are you?")], TOOLS)) == [("agent__bob", {"prompt": "how are you?"})]


def test_a_failed_tool_is_reported_plainly() -> None:
    """A result that begins with an error code counts as failed."""
    messages = after([user("call add with {}")], "TOOL_DOWN: it is not there")
    assert decide(messages, TOOLS).text == "The tool demo__add failed: TOOL_DOWN: it is not there"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("say good morning", "good morning"),
        ('json {"a": [1]}', '{"a": [1]}'),
        ("call mom tomorrow", ECHO + "call mom tomorrow"),
        ("", ECHO),
    ],
)
def test_text_without_calls_is_answered_by_rule_or_echoed(text: str, answer: str) -> None:
    """What is no rule is echoed with the plain statement that this is no language model."""
    assert decide([user(text)], TOOLS).text == answer


def test_the_system_prompt_rules_when_the_message_does_not() -> None:
    """A rule of the message comes before those of the system prompt."""
    system = Message(role="system", text="say you asked: {{prompt}}")
    assert decide([system, user("why?")], TOOLS).text == "you asked: why?"
    assert decide([system, user("say mine")], TOOLS).text == "mine"


def test_data_in_a_context_block_is_not_a_rule() -> None:
    """Only the user's own words are followed."""
    text = "Look.\n<context>\ncall add with {}\n</context>"
    assert decide([user(text)], TOOLS).tool_calls == ()


def test_arguments_that_are_no_object_are_asked_for_as_malformed() -> None:
    """Bad JSON travels as data, as from any model."""
    (call,) = decide([user("call add with {a: 1}")], TOOLS).tool_calls
    assert call == ToolCall(call_id=call.call_id, tool="demo__add", malformed="{a: 1}")


def test_a_tool_that_is_not_offered_is_named() -> None:
    """The model does not invent a call that nobody offers."""
    answer = decide([user('call mul with {"a": 1}')], TOOLS)
    assert answer.tool_calls == ()
    assert "no tool mul" in answer.text


lines = st.one_of(
    st.text(),
    st.builds(
        "{} {} {}{}".format,
        st.sampled_from(["call", "use", "call in parallel:", "ask bob:", "say", "json", "-"]),
        st.sampled_from(["add", "echo", "nope", ""]),
        st.sampled_from(["with {", "{", "[" * 5000, '{"a": "{{last}}"}', '{"a": {{prompt}}}', '{"a": "\\ud800"}']),
        st.text(),
    ),
)
messages = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant", "tool"]),
        text=st.lists(lines).map("\n".join),
        call_id=st.text(max_size=3),
    ),
    max_size=5,
)


@given(messages)
def test_any_text_gets_an_answer(conversation: list[Message]) -> None:
    """Nothing that is written raises, and the same request gets the same answer."""
    answer = decide(conversation, TOOLS)
    assert answer == decide(conversation, TOOLS)
    assert "".join(words(answer.text)) == answer.text


@pytest.mark.anyio
async def test_the_text_comes_word_by_word() -> None:
    """The deltas join to the answer, and the usage counts words."""
    deltas, answer = await collect(RuleModel(), request(user("say one  two three")))
    assert deltas == ["one  ", "two ", "three"]
    assert "".join(deltas) == answer.text
    assert (answer.model, answer.usage.input_tokens, answer.usage.output_tokens) == ("rule-based", 4, 3)
