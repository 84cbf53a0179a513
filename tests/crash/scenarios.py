"""Where who dies, and what is true afterwards. `docs/crashes.md` shows the same tables, section by section."""

from dataclasses import dataclass
from typing import Literal

from tests.support.provider import Call, Step

CLAIM = "append:ModelAnswered+ToolClaimed"
CLAIMS = "append:ModelAnswered+ToolClaimed+ToolClaimed+ToolClaimed"
END = "append:ModelAnswered+Completed"
BEGIN = "append:Requested+Started"
STREAM = "stream"
"""Not a fault point: a follower has been shown a part of the answer, and more of it is to come."""
TEXT = "It is done and over."

ASK_APPROVAL = "append:ModelAnswered+ApprovalRequested"
ASK_QUESTION = "append:ModelAnswered+InputRequested"

Role = Literal["worker", "serving", "front", "nats", "person"]
Work = Literal["tool", "parallel", "child", "approval", "question"]


@dataclass(frozen=True)
class Scenario:
    """Who dies at the `nth` time a point is reached; paid model answers, effects of tools, calls left unknown then.

    `work` is what the run does: a call of a tool, of three at once, of another agent, of a tool that a person
    approves first, or a question to a person. In the role `person` it is the process that takes their answer.
    """

    name: str
    point: str
    answers: int = 2
    effects: int = 1
    unknown: int = 0
    nth: int = 1
    trusted: bool = False
    role: Role = "worker"
    retried_by_client: bool = True
    work: Work = "tool"

    @property
    def least_answers(self) -> int:
        """Answers of the same run without a death."""
        return 3 if self.work == "child" else 2

    @property
    def executions(self) -> int:
        """How many runs there are in the end."""
        return 2 if self.work == "child" else 1

    @property
    def steps(self) -> list[Step]:
        """What the provider answers."""
        held = {
            turn: {"hold": self.name, "hold_after": 3} if self.point == STREAM and self.nth == turn + 1 else {}
            for turn in (0, 1)
        }
        first = Step(when=f"<{self.name}>", turn=0, times=0, text=TEXT, calls=self._calls(), **held[0])
        last = Step(when=f"<{self.name}>", turn=1, times=0, text=TEXT, **held[1])
        asked = Step(when=f"<{self.name}-child>", turn=0, times=0, text="Counted.")
        return [first, last, asked]

    def _calls(self) -> list[Call]:
        match self.work:
            case "question":
                return [Call(name="builtin__ask_user", arguments='{"message": "Which one?"}')]
            case "tool" | "approval":
                server = "trusted" if self.trusted else "counted"
                return [Call(name=f"{server}__record", arguments=f'{{"place": "{self.name}"}}')]
            case "parallel":
                servers = [("counted", 0), ("counted", 2), ("trusted", 1)]
                return [
                    Call(name=f"{server}__record_in_turn", arguments=f'{{"place": "{self.name}", "turn": {turn}}}')
                    for server, turn in servers
                ]
            case "child":
                return [Call(name="agent__child", arguments=f'{{"prompt": "Count. <{self.name}-child>"}}')]


def _child(name: str, point: str, answers: int = 3, nth: int = 1, role: Role = "worker") -> Scenario:
    return Scenario(name, point, answers=answers, effects=0, nth=nth, role=role, work="child")


def _asking(
    name: str,
    point: str,
    *,
    answers: int = 2,
    effects: int = 1,
    unknown: int = 0,
    nth: int = 1,
    role: Role = "worker",
    work: Work = "approval",
) -> Scenario:
    return Scenario(name, point, answers, effects, unknown, nth, role=role, work=work)


WORKER = [
    Scenario("before-started", "append:Started:before"),
    Scenario("started-stored", "append:Started:stored"),
    Scenario("before-first-question", "model:send"),
    Scenario("first-answer-lost", "model:answered", answers=3),
    Scenario("before-claim", f"{CLAIM}:before", answers=3),
    Scenario("claim-stored", f"{CLAIM}:stored", effects=0, unknown=1),
    Scenario("before-tool-sent", "tool:send", effects=0, unknown=1),
    Scenario("tool-answer-lost", "tool:answered", unknown=1),
    Scenario("before-tool-done", "append:ToolDone:before", unknown=1),
    Scenario("tool-done-stored", "append:ToolDone:stored"),
    Scenario("before-second-question", "model:send", nth=2),
    Scenario("second-answer-lost", "model:answered", nth=2, answers=3),
    Scenario("before-end", f"{END}:before", answers=3),
    Scenario("end-stored", f"{END}:stored"),
    Scenario("before-job-done", "job:done"),
]
SERVING = [
    Scenario("serving-before-begun", f"{BEGIN}:before", role="serving"),
    Scenario("serving-begun", f"{BEGIN}:stored", role="serving"),
    *(
        Scenario(
            f"serving-{each.name}",
            each.point,
            each.answers,
            each.effects,
            each.unknown,
            each.nth,
            role="serving",
        )
        for each in WORKER[2:-1]
    ),
    Scenario("serving-forgotten", f"{BEGIN}:stored", role="serving", retried_by_client=False),
]
REPEATABLE = [
    Scenario("repeatable-claim-stored", f"{CLAIM}:stored", trusted=True),
    Scenario("repeatable-before-tool-sent", "tool:send", trusted=True),
    Scenario("repeatable-tool-answer-lost", "tool:answered", effects=2, trusted=True),
    Scenario("repeatable-before-tool-done", "append:ToolDone:before", effects=2, trusted=True),
]
PARALLEL = [
    Scenario("parallel-before-claims", f"{CLAIMS}:before", answers=3, effects=3, work="parallel"),
    Scenario("parallel-claims-stored", f"{CLAIMS}:stored", effects=1, unknown=2, work="parallel"),
    Scenario("parallel-before-first-sent", "tool:send", effects=1, unknown=2, work="parallel"),
    Scenario("parallel-before-last-sent", "tool:send", effects=1, unknown=2, nth=3, work="parallel"),
    Scenario("parallel-first-answer-lost", "tool:answered", effects=2, unknown=2, work="parallel"),
    Scenario("parallel-before-first-done", "append:ToolDone:before", effects=2, unknown=2, work="parallel"),
    Scenario("parallel-first-done", "append:ToolDone:stored", effects=2, unknown=1, work="parallel"),
    Scenario("parallel-second-answer-lost", "tool:answered", effects=3, unknown=1, nth=2, work="parallel"),
    Scenario("parallel-before-second-done", "append:ToolDone:before", effects=3, unknown=1, nth=2, work="parallel"),
    Scenario("parallel-second-done", "append:ToolDone:stored", effects=2, unknown=1, nth=2, work="parallel"),
    Scenario("parallel-third-answer-lost", "tool:answered", effects=3, unknown=1, nth=3, work="parallel"),
    Scenario("parallel-before-third-done", "append:ToolDone:before", effects=3, unknown=1, nth=3, work="parallel"),
    Scenario("parallel-third-done", "append:ToolDone:stored", effects=3, nth=3, work="parallel"),
]
STREAMING = [
    Scenario("stream-first-cut", STREAM, answers=3),
    Scenario("stream-second-cut", STREAM, answers=3, nth=2),
    Scenario("serving-stream-first-cut", STREAM, answers=3, role="serving"),
    Scenario("serving-stream-second-cut", STREAM, answers=3, nth=2, role="serving"),
]
PARENT = [
    _child("parent-first-answer-lost", "model:answered", answers=4),
    _child("parent-before-claim", f"{CLAIM}:before", answers=4),
    _child("parent-claim-stored", f"{CLAIM}:stored"),
    _child("parent-before-child-accepted", "append:Requested:before"),
    _child("parent-child-accepted", "append:Requested:stored"),
    _child("parent-child-queued", "accept:queued"),
    _child("parent-before-handed-off", "append:HandedOff:before"),
    _child("parent-handed-off", "append:HandedOff:stored"),
    _child("parent-before-job-done", "job:done"),
    _child("parent-before-resumed", "append:Started:before", nth=3),
    _child("parent-resumed", "append:Started:stored", nth=3),
    _child("parent-before-taken-in", "append:ToolDone:before"),
    _child("parent-taken-in", "append:ToolDone:stored"),
    _child("parent-before-second-question", "model:send", nth=3),
    _child("parent-second-answer-lost", "model:answered", answers=4, nth=3),
    _child("parent-before-end", f"{END}:before", answers=4, nth=2),
    _child("parent-end-stored", f"{END}:stored", nth=2),
    _child("parent-before-last-job-done", "job:done", nth=3),
    _child("serving-parent-begun", f"{BEGIN}:stored", role="serving"),
    _child("serving-parent-claim-stored", f"{CLAIM}:stored", role="serving"),
    _child("serving-parent-child-accepted", "append:Requested:stored", role="serving"),
    _child("serving-parent-before-handed-off", "append:HandedOff:before", role="serving"),
    _child("serving-parent-handed-off", "append:HandedOff:stored", role="serving"),
    _child("serving-parent-resumed", "append:Started:stored", nth=2, role="serving"),
]
CHILD = [
    _child("child-before-started", "append:Started:before", nth=2),
    _child("child-started", "append:Started:stored", nth=2),
    _child("child-before-question", "model:send", nth=2),
    _child("child-answer-lost", "model:answered", answers=4, nth=2),
    _child("child-before-end", f"{END}:before", answers=4),
    _child("child-ended-parent-not-woken", f"{END}:stored"),
    _child("child-before-job-done", "job:done", nth=2),
    _child("serving-child-ended-parent-not-woken", f"{END}:stored", role="serving"),
]
APPROVAL = [
    _asking("approval-before-requested", f"{ASK_APPROVAL}:before", answers=3),
    _asking("approval-requested", f"{ASK_APPROVAL}:stored"),
    _asking("approval-before-handed-off", "append:HandedOff:before"),
    _asking("approval-handed-off", "append:HandedOff:stored"),
    _asking("approval-before-job-done", "job:done"),
    _asking("approval-before-decided", "append:ApprovalDecided:before", role="person"),
    _asking("approval-decided-not-queued", "append:ApprovalDecided:stored", role="person"),
    _asking("approval-before-resumed", "append:Started:before", nth=2),
    _asking("approval-resumed", "append:Started:stored", nth=2),
    _asking("approval-before-claim", "append:ToolClaimed:before"),
    _asking("approval-claim-stored", "append:ToolClaimed:stored", effects=0, unknown=1),
    _asking("approval-before-tool-sent", "tool:send", effects=0, unknown=1),
    _asking("approval-tool-answer-lost", "tool:answered", unknown=1),
    _asking("approval-before-tool-done", "append:ToolDone:before", unknown=1),
    _asking("approval-tool-done", "append:ToolDone:stored"),
    _asking("serving-approval-requested", f"{ASK_APPROVAL}:stored", role="serving"),
    _asking("serving-approval-before-handed-off", "append:HandedOff:before", role="serving"),
    _asking("serving-approval-handed-off", "append:HandedOff:stored", role="serving"),
]
QUESTION = [
    _asking("question-before-asked", f"{ASK_QUESTION}:before", answers=3, effects=0, work="question"),
    _asking("question-asked", f"{ASK_QUESTION}:stored", effects=0, work="question"),
    _asking("question-handed-off", "append:HandedOff:stored", effects=0, work="question"),
    _asking("question-before-answered", "append:InputReceived:before", effects=0, role="person", work="question"),
    _asking("question-answered-not-queued", "append:InputReceived:stored", effects=0, role="person", work="question"),
    _asking("question-resumed", "append:Started:stored", nth=2, effects=0, work="question"),
    _asking("question-before-second-turn", "model:send", nth=2, effects=0, work="question"),
]
FRONT = [
    Scenario("front-before-request", "append:Requested:before", role="front"),
    Scenario("front-keyed", "accept:keyed", role="front"),
    Scenario("front-request-stored", "append:Requested:stored", role="front"),
    Scenario("front-queued", "accept:queued", role="front"),
    Scenario("front-request-stored-and-forgotten", "append:Requested:stored", role="front", retried_by_client=False),
]
NATS = [
    *(
        Scenario(f"nats-{each.name}", each.point, nth=each.nth, role="nats")
        for each in WORKER
        if each.name != "before-job-done"
    ),
    Scenario("nats-stream-first-cut", STREAM, role="nats"),
]
EVERY = [*WORKER, *REPEATABLE, *SERVING, *PARALLEL, *STREAMING, *PARENT, *CHILD, *APPROVAL, *QUESTION, *FRONT, *NATS]
