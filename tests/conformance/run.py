"""The official conformance suite and the official Inspector against the real program: `make test-conformance`.

`mcp-agents serve` runs as a process of its own on a scratch folder; people, clients and tokens come from its
command line, and every request passes its OAuth. The suite, which cannot send a token, goes through `proxy`. On it
run the scenarios that need no fixtures, for every revision that has them. Those that call tools with prescribed
names run on `fixtures`, which is the product's factory with one more plugin: whatever a revision requires, and every
scenario of the tasks extension. No failure and no warning is expected, and nothing is skipped silently: a scenario
that the suite does not know, that it did not run, or that checks nothing, fails. Not a pytest, for it needs npm
packages, which are `node`'s business. Exit code 1 when anything is unexpected.
"""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import anyio
import click
import httpx2
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.shared.exceptions import MCPDeprecationWarning

from mcp_agents.kernel.tasks import together
from mcp_agents.server.cli.remote import Credentials, connected
from tests.conformance import fixtures, node, outbound
from tests.conformance.proxy import Proxy, injecting
from tests.support.browser import Browser

SERVER_SCENARIOS: Final = (
    "server-initialize",
    "server-session-lifecycle",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "completion-complete",
    "caching",
    "dns-rebinding-protection",
    "http-header-validation",
    "server-sse-multiple-streams",
    "sep-2164-resource-not-found",
    "input-required-result-unsupported-methods",
    "input-required-result-validate-input",
)
CLIENT_SCENARIOS: Final = (
    "auth/metadata-default",
    "auth/metadata-var1",
    "auth/metadata-var2",
    "auth/metadata-var3",
    "auth/basic-cimd",
    "auth/scope-from-www-authenticate",
    "auth/scope-from-scopes-supported",
    "auth/scope-omitted-when-undefined",
    "auth/scope-step-up",
    "auth/scope-retry-limit",
    "auth/token-endpoint-auth-basic",
    "auth/token-endpoint-auth-post",
    "auth/token-endpoint-auth-none",
    "auth/pre-registration",
    "auth/resource-mismatch",
    "auth/offline-access-scope",
    "auth/offline-access-not-supported",
    "auth/authorization-server-migration",
    "auth/iss-supported",
    "auth/iss-not-advertised",
    "auth/iss-supported-missing",
    "auth/iss-wrong-issuer",
    "auth/iss-unexpected",
    "auth/iss-normalized",
    "auth/metadata-issuer-mismatch",
)
"""What is required of clients that sign in, played with the rooms that our agents' tools go through (`outbound`)."""
AUTHORIZATION_SCENARIOS: Final = ("authorization-server-metadata-endpoint", "authorization-code-grant")
SCORED: Final = {"2026-07-28": 37, "2025-11-25": 30}
"""The revisions whose requirements the fixture server meets, and how many server scenarios each of them scores."""
TASKS: Final = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
)
"""What the suite has for the tasks extension, and runs with the requirements of the current revision."""
NOT_FOR_US: Final = {
    "tasks-status-notifications": "skipped by the suite itself, whatever the server does",
    "server-sse-polling": "pending and not scored: wants streams of the handshake era kept for replay",
}
"""What the suite runs besides, and nothing is concluded from."""
SKIPPED_FOR_AN_AGENT: Final = frozenset({"sep-2549-resources-read-caching-hints"})
"""What the suite leaves out on the path of one agent, whose resources are its runs: there are none at first."""

_PROGRAM: Final = Path(sys.executable).with_name("mcp-agents")
_LISTED: Final = re.compile(r"^\s+- (?P<name>\S+) \[(?P<revisions>[0-9,-]+)\]", re.MULTILINE)
_NAMES: Final = re.compile(r"^\s+- (\S+)$", re.MULTILINE)
_STAMP: Final = r"\d{4}-\d\d-\d\dT[\d-]+Z"
_FOLDER: Final = re.compile(rf"server-(?P<name>.+)-{_STAMP}")
_SECONDS: Final = 120.0
_DOOR: Final = "door: "
_FIXTURES: Final = "fixtures: "
_AGENT: Final = "greeter"
_EMAIL: Final = "ada@example.org"
_REVISION: Final = "2026-07-28"
_DISCOVER: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "server/discover",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": _REVISION,
            "io.modelcontextprotocol/clientInfo": {"name": "control", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. `good`: everything was as expected."""

    what: str
    revision: str = ""
    statuses: Counter[str]
    good: bool
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The last column."""
        if not self.good:
            return "UNEXPECTED"
        return "ok" if set(self.statuses) <= {"SUCCESS", "INFO"} else "as expected"


@dataclass(frozen=True)
class Site:
    """The server under test: where it is, and the scratch folder in which everything around it runs."""

    url: str
    folder: Path

    async def program(self, *arguments: str) -> str:
        """What `mcp-agents …` printed, beside the running server. Raises `CalledProcessError`."""
        with anyio.fail_after(_SECONDS):
            done = await anyio.run_process(
                [str(_PROGRAM), *arguments], cwd=self.folder, env=_settings(self.folder), stderr=sys.stderr
            )
        return done.stdout.decode().strip()

    async def node(self, script: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """What a script of the npm packages did."""
        with anyio.fail_after(_SECONDS):
            return await anyio.run_process(
                node.command(script, *arguments),
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env=node.environment(self.folder),
                check=False,
            )

    def fresh(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder, prefix="out-"))


@click.command()
@click.option("--path", default="/mcp", show_default=True, help="The MCP path that the server scenarios test.")
@click.option("--only", default="", help="Only what has this in its name.")
def main(path: str, only: str) -> None:
    """Run the official conformance suite and Inspector against `mcp-agents serve`."""
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # the fixtures use what the suite still asks for
    node.install()
    began = time.monotonic()
    rows = anyio.run(_everything, path, only)
    bad = sum(not row.good for row in rows)
    _print(rows)
    click.echo(f"\n{datetime.now(UTC):%Y-%m-%d}, {time.monotonic() - began:.0f} s, {_versions()}")
    known = sum(row.verdict == "as expected" for row in rows)
    click.echo(f"{len(rows) - bad - known} clean, {known} with expected exceptions only, {bad} unexpected")
    for row in (each for each in rows if not each.good):  # once more, where the end of a log is all that is kept
        click.echo(f"{row.verdict} {row.what} {row.revision}: {'; '.join(row.notes)[:300]}")
    click.echo(f"{len(rows) - bad} passed, {bad} failed")
    sys.exit(1 if bad or not rows else 0)


async def _everything(path: str, only: str) -> list[Row]:
    """Both servers at once, each with what is played against it; then our agents' hands, against the suite's."""
    rows: dict[str, list[Row]] = {"program": [], "fixtures": [], "clients": []}

    async def collect(which: str, source: AsyncGenerator[Row, None]) -> None:
        async with aclosing(source):
            async for row in source:
                rows[which].append(row)
                click.echo(f"{row.verdict:12} {row.what} {row.revision}", err=True)

    with tempfile.TemporaryDirectory(prefix="mcp-agents-conformance-") as scratch:
        async with together() as tasks:
            tasks.start_soon(collect, "program", _program(Path(scratch), path, only))
            tasks.start_soon(collect, "fixtures", _fixtures(Path(scratch), only))
        await collect("clients", _clients(Path(scratch), only))
    found = rows["program"] + rows["fixtures"] + rows["clients"]
    if all(row.what.startswith(_DOOR) for row in found):
        raise click.ClickException(f"Nothing has {only!r} in its name.")
    return found


async def _program(folder: Path, path: str, only: str) -> AsyncGenerator[Row, None]:
    """What is played against the program as it is served."""
    async with _serving(folder) as site:
        token = await site.program("token")
        async with connected(f"{site.url}/mcp/all", Credentials(token=token)) as remote:
            agent = {"name": _AGENT, "description": "Greets.", "virtual_model": "rule-based"}
            await remote.call("agent_create", agent)
        async with injecting(site.url, token) as proxy:
            for control in await _controls(site, proxy, path):
                yield control
            for name, revision in await _applicable(site, "--server", SERVER_SCENARIOS):
                if only in name:
                    yield await _server_scenario(site, proxy, path, name, revision)
        if any(only in name for name in AUTHORIZATION_SCENARIOS):
            people = await _people(site)
            known = await _applicable(site, "--authorization", AUTHORIZATION_SCENARIOS)
            for revision in sorted({revision for _, revision in known}):
                for row in await _authorization_scenarios(site, people, revision):
                    yield row
        if only in "Inspector":
            for era in ("legacy", "modern"):
                for row in await _inspector(site, token, era):
                    yield row
            yield await _inspector_without_token(site)
        if only in "TypeScript client":
            for era in ("legacy", "modern"):
                yield await _typescript(site, token, era)


async def _clients(folder: Path, only: str) -> AsyncGenerator[Row, None]:
    """What is played against our agents' hands."""
    site = Site("", folder)
    for name, revision in await _applicable(site, "--client", CLIENT_SCENARIOS):
        if only in name and revision == _REVISION:
            yield await _client_scenario(site, name)


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[Site]:
    """`mcp-agents serve` on a free port; what it says on stderr is shown when it ends badly."""
    log = folder / "serve.log"
    command = [str(_PROGRAM), "serve", "--port", "0"]
    with log.open("wb") as stderr:
        process = await anyio.open_process(command, cwd=folder, env=_settings(folder), stderr=stderr)
        try:
            with anyio.fail_after(_SECONDS):
                assert process.stdout is not None
                first = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1024)
            yield Site(first.decode().removeprefix("mcp-agents listening on ").strip(), folder)
        except BaseException:
            click.echo(log.read_text("utf-8"), err=True)
            raise
        finally:
            process.terminate()
            with anyio.CancelScope(shield=True):
                await process.aclose()


def _settings(folder: Path) -> dict[str, str]:
    """No setting of whoever runs this, and the scratch folder for data."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCP_AGENTS_")}
    return inherited | {"MCP_AGENTS_SERVER__DATA_DIR": str(folder / "data")}


async def _applicable(site: Site, kind: str, wanted: tuple[str, ...]) -> list[tuple[str, str]]:
    """The wanted scenarios, each with every revision that the suite has it for. Raises when it has none."""
    listed = (await site.node(node.SUITE, "list", kind)).stdout.decode()
    revisions = {found["name"]: found["revisions"].split(",") for found in _LISTED.finditer(listed)}
    if unknown := set(wanted) - set(revisions):
        raise click.ClickException(f"This version of the suite does not have: {', '.join(sorted(unknown))}")
    return [(name, revision) for name in wanted for revision in revisions[name]]


async def _controls(site: Site, proxy: Proxy, path: str) -> list[Row]:
    """That the server's own door is in the path: without these the scenarios would prove little."""
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": _REVISION,
        "Mcp-Method": "server/discover",
    }
    wanted: list[tuple[str, str, dict[str, str], int]] = [
        ("without a token the server challenges", site.url, {}, 401),
        ("the proxy adds one where none is", proxy.url, {}, 200),
        ("and leaves the one that is", proxy.url, {"Authorization": "Bearer wrong"}, 401),
        ("and a foreign Host", proxy.url, {"Host": "evil.example.com"}, 421),
        ("and a foreign Origin", proxy.url, {"Origin": "http://evil.example.com"}, 403),
    ]
    rows = []
    async with httpx2.AsyncClient(trust_env=False) as http:
        for what, url, more, status in wanted:
            answer = await http.post(url + path, json=_DISCOVER, headers=headers | more)
            good = answer.status_code == status and ("www-authenticate" in answer.headers) == (status == 401)
            notes = () if good else (f"HTTP {answer.status_code}, wanted {status}: {answer.text[:200]}",)
            rows.append(_own(f"{_DOOR}{path}: {what}: {status}", good=good, notes=notes))
    return rows


async def _server_scenario(site: Site, proxy: Proxy, path: str, name: str, revision: str) -> Row:
    """One scenario on one path."""
    options = ["--scenario", name, "--spec-version", revision]
    out, notes = await _played(site, proxy, path, options)
    forgiven = SKIPPED_FOR_AN_AGENT if path.startswith("/mcp/agent/") else frozenset()
    return _judged(name, name, revision, _checks(out, name), forgiven, notes)


async def _client_scenario(site: Site, name: str) -> Row:
    """One scenario in which the suite is the server, and the product's own hands are the client."""
    out = site.fresh()
    command = f"{sys.executable} {outbound.__file__}"
    options = ["--command", command, "--scenario", name, "--spec-version", _REVISION, "-o", str(out)]
    await site.node(node.SUITE, "client", *options)  # how it ends is in the checks
    return _judged(f"client {name}", name, _REVISION, _checks(out, name.partition("/")[2]), frozenset(), [])


async def _played(site: Site, proxy: Proxy, path: str, options: list[str]) -> tuple[Path, list[str]]:
    """What the suite left of its scenarios, and what was wrong with the playing itself."""
    out = site.fresh()
    before = proxy.requests - proxy.injected
    done = await site.node(node.SUITE, "server", "--url", proxy.url + path, *options, "-o", str(out))
    notes = [_last_words(done.stdout + done.stderr)] if done.returncode else []
    if proxy.requests - proxy.injected != before:
        notes.append("a request was sent with a token of the suite's own")
    return out, notes


def _judged(
    what: str, name: str, revision: str, checks: list[dict[str, Any]], forgiven: frozenset[str], notes: list[str]
) -> Row:
    """A scenario is good when something was checked, and all of it passed."""
    statuses = Counter(check["status"] for check in checks)
    skipped = {check["id"] for check in checks if check["status"] == "SKIPPED"} - forgiven
    clean = not (statuses["FAILURE"] or statuses["WARNING"] or skipped or notes) and statuses["SUCCESS"] > 0
    told = (*_remarks(checks), *notes) if checks else (f"{name} was not run", *notes)
    return Row(what=what, revision=revision, statuses=statuses, good=clean, notes=told)


async def _fixtures(folder: Path, only: str) -> AsyncGenerator[Row, None]:
    """Everything that is required of a server, on the fixture server."""
    async with fixtures.serving(folder / "fixtures") as server:
        site = Site(server.url, folder)
        async with injecting(server.url, await server.token(fixtures.TENANT)) as proxy:
            for control in await _controls(site, proxy, fixtures.PATH):
                yield control
            for revision, count in SCORED.items():
                scored = await _scored(site, revision)
                if len(scored) != count:
                    raise click.ClickException(f"{revision} scores {len(scored)} server scenarios, not {count}.")
                names = [*scored, *(TASKS if revision == _REVISION else ())]
                if not only:
                    for row in await _required(site, proxy, names, revision):
                        yield row
                for name in names:
                    if only and only in name:
                        yield await _server_scenario(site, proxy, fixtures.PATH, name, revision)


async def _scored(site: Site, revision: str) -> list[str]:
    """The server scenarios that the suite scores for a revision."""
    listed = (await site.node(node.SUITE, "list", "--server", "--requirements", revision)).stdout.decode()
    ours = listed.partition("Server scenarios")[2].partition("Client scenarios")[0]
    return _NAMES.findall(ours)


async def _required(site: Site, proxy: Proxy, names: list[str], revision: str) -> list[Row]:
    """What a revision requires, in one run of the suite, and whatever else it plays along with that."""
    out, notes = await _played(site, proxy, fixtures.PATH, ["--requirements", revision])
    played = {found["name"] for path in out.iterdir() if (found := _FOLDER.fullmatch(path.name))}
    return [
        _judged(f"{_FIXTURES}{name}", name, revision, _checks(out, name), frozenset(), notes)
        for name in [*names, *sorted(played - set(names) - set(NOT_FOR_US))]
    ]


@dataclass(frozen=True)
class People:
    """Who signs in, and the client they do it for."""

    client_id: str
    password: str


async def _people(site: Site) -> People:
    """A registered public client, and a person who set their password through their one-time link."""
    client = json.loads(
        await site.program("client", "create", "conformance", "--redirect", "http://127.0.0.1/callback", "--json")
    )
    person = json.loads(await site.program("user", "create", _EMAIL, "--role", "developer", "--json"))
    people = People(client["client_id"], secrets.token_urlsafe(24))
    async with httpx2.AsyncClient(trust_env=False) as http:
        browser = Browser(http)
        await browser.open(person["sign_in"])
        await browser.submit(browser.form(), password=people.password)
    return people


async def _authorization_scenarios(site: Site, people: People, revision: str) -> list[Row]:
    """Both scenarios in one run, for the second uses what the first found; the person signs in and agrees."""
    out, port = site.fresh(), _free_port()
    options = ["--url", site.url, "--client-id", people.client_id, "--resource", f"{site.url}/mcp", "-p", str(port)]
    command = node.command(node.SUITE, "authorization", *options, "--spec-version", revision, "-o", str(out))
    said = b""
    with anyio.fail_after(_SECONDS):
        async with await anyio.open_process(
            command, stdin=subprocess.DEVNULL, cwd=site.folder, env=node.environment(site.folder)
        ) as process:
            assert process.stdout is not None
            reading = BufferedByteReceiveStream(process.stdout)
            while True:
                try:
                    line = await reading.receive_until(b"\n", 64 * 1024)
                except (anyio.IncompleteRead, anyio.EndOfStream):
                    break
                said += line + b"\n"
                if line.startswith(f"{site.url}/oauth/authorize?".encode()):
                    await _agree(line.decode().strip(), people)
            code = await process.wait()
    rows = []
    for name in AUTHORIZATION_SCENARIOS:
        checks = _checks(out, name)
        statuses = Counter(check["status"] for check in checks)
        notes = list(_remarks(checks))
        if code:
            notes.append(_last_words(said))
        clean = set(statuses) <= {"SUCCESS", "INFO"} and statuses["SUCCESS"] > 0
        good = code == 0 and clean
        rows.append(Row(what=name, revision=revision, statuses=statuses, good=good, notes=tuple(notes)))
    return rows


async def _agree(url: str, people: People) -> None:
    """What a person does with the address that a client opened: sign in, allow, be sent back."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        browser = Browser(http)
        await browser.open(url)
        await browser.submit(browser.form(), email=_EMAIL, password=people.password)
        back = await browser.submit(browser.form(), decision="approve")
        await http.get(back)


async def _inspector(site: Site, token: str, era: str) -> list[Row]:
    """The Inspector's command line, straight at the server: lists the tools, executes the agent."""
    given = ["--protocol-era", era, "--header", f"Authorization: Bearer {token}"]
    to = ["--cli", f"{site.url}/mcp", "--transport", "http", *given]
    listed = await site.node(node.INSPECTOR, *to, "--method", "tools/list", "--strict")
    names = [tool["name"] for tool in _answer(listed).get("tools", [])]
    good = listed.returncode == 0 and "agent_execute" in names
    notes = (f"{len(names)} tools",) if good else (_complaint(listed),)
    rows = [_own("Inspector: tools/list --strict", revision=era, good=good, notes=notes)]
    call = ["--method", "tools/call", "--tool-name", "agent_execute", "--tool-arg", f"agent={_AGENT}"]
    called = await site.node(node.INSPECTOR, *to, *call, "prompt=say hello")
    result = _answer(called).get("structuredContent", {})
    good = called.returncode == 0 and (result.get("status"), result.get("text")) == ("completed", "hello")
    notes = ('"say hello" → "hello"',) if good else (_complaint(called),)
    return [*rows, _own("Inspector: tools/call agent_execute", revision=era, good=good, notes=notes)]


async def _typescript(site: Site, token: str, era: str) -> Row:
    """The main job with the official TypeScript client: tools, a run with progress, a run handed over and followed."""
    done = await site.node(node.JOURNEY, f"{site.url}/mcp", token, era, _AGENT)
    seen = _answer(done)
    if done.returncode != 0 or not seen:
        return _own("TypeScript client: the main job", revision=era, good=False, notes=(_complaint(done),))
    answered, handed, followed = seen["answered"], seen["handed"], seen["followed"]
    facts = {
        "it speaks this era": (seen["version"] == _REVISION) == (era == "modern"),
        "it sees agent_execute": "agent_execute" in seen["tools"],
        "progress grows": bool(seen["progress"]) and seen["progress"] == sorted(set(seen["progress"])),
        "the answer": (answered["status"], answered["text"]) == ("completed", "hello"),
        "the hand-over": handed["status"] in ("pending", "running", "completed")
        and (handed["status"] == "completed" or seen["links"] == [f"cb://executions/{handed['execution_id']}"]),
        "the end of the run": (followed["status"], followed["text"]) == ("completed", "once more")
        and followed["execution_id"] == handed["execution_id"],
    }
    wrong = tuple(f"not so: {what}" for what, true in facts.items() if not true)
    notes = wrong or (f"{len(seen['tools'])} tools, {len(seen['progress'])} messages of progress",)
    return _own("TypeScript client: the main job", revision=era, good=not wrong, notes=notes)


async def _inspector_without_token(site: Site) -> Row:
    """The control: without the header it finds the authorization server and asks for a person."""
    tried = await site.node(node.INSPECTOR, "--cli", f"{site.url}/mcp", "--transport", "http", "--method", "tools/list")
    good = tried.returncode != 0 and b"auth_required" in tried.stderr
    return _own("Inspector: without a token: auth_required", good=good, notes=() if good else (_complaint(tried),))


def _own(what: str, *, good: bool, revision: str = "", notes: tuple[str, ...] = ()) -> Row:
    """A check of this program."""
    return Row(
        what=what, revision=revision, statuses=Counter(["SUCCESS" if good else "FAILURE"]), good=good, notes=notes
    )


def _checks(out: Path, name: str) -> list[dict[str, Any]]:
    """What the suite left about a scenario; nothing when it did not get that far."""
    folder = re.compile(rf"(?:server-|authorization-server-)?{re.escape(name)}-{_STAMP}")
    found = [path for path in out.rglob("checks.json") if folder.fullmatch(path.parent.name)]
    checks: list[dict[str, Any]] = json.loads(found[0].read_text("utf-8")) if len(found) == 1 else []
    return checks


def _remarks(checks: list[dict[str, Any]]) -> list[str]:
    """What did not pass, by its id; what was skipped, once."""
    remarks = [
        f"{check['status'].lower()} {check['id']}: {check.get('errorMessage', '')}"
        for check in checks
        if check["status"] in ("FAILURE", "WARNING")
    ]
    skipped = sorted(check["id"] for check in checks if check["status"] == "SKIPPED")
    return remarks + ([f"skipped {', '.join(skipped)}"] if skipped else [])


def _last_words(said: bytes) -> str:
    """The end of what the suite printed."""
    return f"the suite: {' '.join(said.decode().split())[-400:]}"


def _answer(done: "subprocess.CompletedProcess[bytes]") -> dict[str, Any]:
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _complaint(done: "subprocess.CompletedProcess[bytes]") -> str:
    return f"exit code {done.returncode}: " + " ".join((done.stderr + done.stdout).decode().split())[-400:]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _print(rows: list[Row]) -> None:
    columns = ("SUCCESS", "FAILURE", "WARNING", "SKIPPED")
    width = max(len(row.what) for row in rows)
    click.echo(f"\n{'':{width}}  {'revision':10}  " + "  ".join(f"{name.lower():>7}" for name in columns))
    for row in rows:
        counts = "  ".join(f"{row.statuses[name] or '·':>7}" for name in columns)
        click.echo(f"{row.what:{width}}  {row.revision:10}  {counts}  {row.verdict}")
        for note in row.notes:
            click.echo(f"    {note}")
    totals = sum((row.statuses for row in rows), Counter())
    click.echo(f"{'checks':{width}}  {'':10}  " + "  ".join(f"{totals[name]:>7}" for name in columns))


def _versions() -> str:
    packages = json.loads((node.HERE / "package.json").read_text("utf-8"))["dependencies"]
    parts = [f"{name.rpartition('/')[2]} {exact}" for name, exact in packages.items()]
    return ", ".join([*parts, f"mcp {version('mcp')}", f"Node {node.version()}"])


if __name__ == "__main__":
    main()
