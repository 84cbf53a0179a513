"""The program from outside: what it prints, how it exits, and that bad input is a sentence with a next step."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcp_agents.server.config import Settings, load

PROGRAM = [sys.executable, "-m", "mcp_agents.server.cli"]


def program(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """One call on a data folder of its own."""
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(folder), **variables}
    return subprocess.run(
        [*PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[str]:
    """A running server on the folder."""
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(folder), **variables}
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix("mcp-agents listening on ").strip()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        process.stdout.close()


def assert_refused(result: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    """One clear sentence on stderr, no trace, the right exit code."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_tenant_and_a_token_for_scripts_beside_a_running_server(tmp_path: Path) -> None:
    """The two commands that scripts use work while `serve` runs, and the token opens its door."""
    with serving(tmp_path) as url:
        made = program(tmp_path, "tenant", "create", "acme", "--json")
        assert json.loads(made.stdout)["name"] == "acme"
        issued = program(tmp_path, "token", "--tenant", "acme", "--scope", "agents:read executions:run", "--json")
        token = json.loads(issued.stdout)
        assert token["token_type"] == "Bearer"
        assert token["tenant"] == "acme"
        assert set(token["scope"].split()) == {"agents:read", "executions:run"}
        assert 3590 <= token["expires_in"] <= 3600
        everything = json.loads(program(tmp_path, "token", "--tenant", "acme", "--json").stdout)
        ran = program(tmp_path, "run", "nobody", "hello", "--token", everything["access_token"], "--url", f"{url}/mcp")
        assert_refused(ran, 1, "AGENT_UNKNOWN")


def test_the_first_start_offers_a_sign_in_once(tmp_path: Path) -> None:
    """The link is printed on the very first start and never again."""
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(tmp_path)}
    printed = []
    for _ in range(2):
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        printed.append("".join(lines) + process.stdout.read())
        assert process.wait(15) == 0
        process.stdout.close()
    assert "/oauth/sign-in?ticket=" in printed[0]
    assert "ticket=" not in printed[1]


def test_an_unknown_tenant_or_scope_is_refused(tmp_path: Path) -> None:
    """Nothing is signed for what does not exist."""
    assert_refused(program(tmp_path, "token", "--tenant", "nobody"), 1, "tenant")
    program(tmp_path, "tenant", "create", "acme")
    assert_refused(program(tmp_path, "token", "--tenant", "acme", "--scope", "agents:fly"), 2, "scope")
    assert_refused(program(tmp_path, "tenant", "create", "acme"), 1, "acme")
    assert_refused(program(tmp_path, "tenant", "create", "No Such Name"), 2)


def test_a_server_that_is_not_there_and_a_bad_token_are_sentences(tmp_path: Path) -> None:
    """`run` says what is wrong and what to do, without a trace."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    absent = program(tmp_path, "run", "a", "b", "--url", f"http://127.0.0.1:{port}/mcp", "--token", "x")
    assert_refused(absent, 1, "No server answers", "mcp-agents serve")
    with serving(tmp_path) as url:
        assert_refused(program(tmp_path, "run", "a", "b", "--url", f"{url}/mcp", "--token", "bad"), 1, "token")


def test_brackets_in_a_message_are_printed_as_they_are(tmp_path: Path) -> None:
    """A setting's section is not taken for markup."""
    assert "[nats] url" in program(tmp_path, "tenant", "list", MCP_AGENTS_NATS__URL="nats://127.0.0.1:1").stderr


def test_a_client_belongs_to_a_tenant_that_exists(tmp_path: Path) -> None:
    """Nothing is registered for a tenant that is not there."""
    refused = program(tmp_path, "client", "create", "ci", "--tenant", "nobody", "--credentials")
    assert_refused(refused, 1, "tenant")
    assert "cs_" not in refused.stdout


def test_a_taken_port_names_the_way_out(tmp_path: Path) -> None:
    """The address is said, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_refused(program(tmp_path, "serve", "--port", port), 2, port, "--port")


def test_listening_beyond_this_machine_needs_a_public_url(tmp_path: Path) -> None:
    """Tokens do not travel over plain http."""
    assert_refused(program(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0"), 2, "public_url")


def test_a_dead_nats_is_said(tmp_path: Path) -> None:
    """The address is named without its password, and what to check."""
    result = program(tmp_path, "tenant", "list", MCP_AGENTS_NATS__URL="nats://user:canary@127.0.0.1:1")
    assert_refused(result, 1, "127.0.0.1:1", "[nats] url")
    assert "canary" not in result.stderr


def test_a_wrong_master_key_is_refused_and_the_right_one_still_works(tmp_path: Path) -> None:
    """Neither the store nor the secrets are touched with it."""
    right, wrong = "a" * 64, "b" * 64
    made = program(tmp_path, "tenant", "create", "acme", MCP_AGENTS_KEYS__MASTER="env:RIGHT", RIGHT=right)
    assert made.returncode == 0, made.stderr
    refused = program(tmp_path, "tenant", "list", MCP_AGENTS_KEYS__MASTER="env:WRONG", WRONG=wrong)
    assert_refused(refused, 2, "master key")
    listed = program(tmp_path, "tenant", "list", "--json", MCP_AGENTS_KEYS__MASTER="env:RIGHT", RIGHT=right)
    assert "acme" in [tenant["name"] for tenant in json.loads(listed.stdout)]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MCP_AGENTS_SERVER__PROT": "1"}, ["prot", "port"]),
        ({"MCP_AGENTS_SERVR__PORT": "1"}, ["servr", "server"]),
        ({"MCP_AGENTS_SERVER__PORT": "many"}, ["port"]),
        ({"MCP_AGENTS_NATS__SYNC": "never"}, ["sync", "always"]),
        ({"MCP_AGENTS_CONFIG": "/nowhere/at-all.toml"}, ["at-all.toml"]),
        ({"MCP_AGENTS_KEYS__MASTER": "env:NOT_SET_AT_ALL"}, ["NOT_SET_AT_ALL"]),
        ({"MCP_AGENTS_AUTH__MODE": "external"}, ["issuer", "https"]),
        ({"MCP_AGENTS_AUTH__ROLE_MAP": "staff=boss"}, ["staff=boss", "theirs=ours"]),
    ],
)
def test_malformed_settings_name_the_key_and_the_remedy(
    tmp_path: Path, variables: dict[str, str], words: list[str]
) -> None:
    """Exit code 2, the setting, and what would be right."""
    assert_refused(program(tmp_path, "tenant", "list", **variables), 2, *words)


def test_a_settings_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """The file's values, then the environment's."""
    file = tmp_path / "mcp-agents.toml"
    file.write_text('[server]\nport = 1234\nworkers = 3\n[[models]]\nname = "m"\nlitellm_model = "openai/x"\n', "utf-8")
    settings = load(file, {"MCP_AGENTS_SERVER__PORT": "4321"})
    assert (settings.server.port, settings.server.workers, settings.models[0].name) == (4321, 3, "m")
    file.write_text("[server\n", "utf-8")
    assert_refused(program(tmp_path, "tenant", "list", "--config", str(file)), 2, "mcp-agents.toml")
    assert Settings.model_validate({}).stdio == "trusted"


def test_a_data_folder_without_rights_is_said(tmp_path: Path) -> None:
    """A folder that cannot be made or written names the setting."""
    blocked = tmp_path / "file"
    blocked.write_text("", "utf-8")
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(blocked / "inside")}
    result = subprocess.run(
        [*PROGRAM, "tenant", "list"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert_refused(result, 2, "data_dir")


def test_a_data_folder_without_space_is_said(tmp_path: Path) -> None:
    """A file-size limit stands for a full disk: refused before anything is started."""
    small = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); "
        "from mcp_agents.server.cli.main import main; main(['tenant', 'list'])"
    )
    environment = {**os.environ, "MCP_AGENTS_SERVER__DATA_DIR": str(tmp_path / "data")}
    result = subprocess.run(
        [sys.executable, "-B", "-c", small], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert_refused(result, 2, "data_dir")


def test_a_second_process_on_the_folder_shares_it(tmp_path: Path) -> None:
    """Two servers on one folder see the same tenants, and the first may leave."""
    with serving(tmp_path) as second_to_leave:
        with serving(tmp_path) as other:
            assert second_to_leave != other
            assert program(tmp_path, "tenant", "create", "acme").returncode == 0
        assert "acme" in program(tmp_path, "tenant", "list").stdout


def test_wrong_use_is_exit_code_two_and_every_command_has_help_with_an_example(tmp_path: Path) -> None:
    """Help is there for all of them."""
    assert program(tmp_path, "fly").returncode == 2
    for command in ("demo", "serve", "worker", "stdio", "run", "token", "backup", "restore", "doctor"):
        shown = program(tmp_path, command, "--help")
        assert shown.returncode == 0
        assert "Example: mcp-agents" in shown.stdout


def test_doctor_finds_a_healthy_house_healthy_and_names_what_is_missing(tmp_path: Path) -> None:
    """Exit code 0 when all is well, 1 with advice when it is not."""
    healthy = program(tmp_path, "doctor", "--json")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert {"settings", "disk", "nats", "clock"} <= {finding["what"] for finding in json.loads(healthy.stdout)}
    file = tmp_path / "mcp-agents.toml"
    file.write_text('[[models]]\nname = "m"\nlitellm_model = "openai/x"\napi_key_env = "NO_SUCH_KEY"\n', "utf-8")
    sick = program(tmp_path, "doctor", "--json")
    assert sick.returncode == 1
    assert any("NO_SUCH_KEY" in finding["advice"] for finding in json.loads(sick.stdout))


def test_an_identity_provider_is_looked_at_and_its_client_is_made(tmp_path: Path) -> None:
    """A tenant that is not there and keys that cannot be read are said before anybody tries to sign in."""
    entry = '[[auth.identity_providers]]\nissuer = "http://127.0.0.1:1"\ntenant = "ghost"\n'
    (tmp_path / "mcp-agents.toml").write_text(entry, "utf-8")
    sick = program(tmp_path, "doctor", "--json")
    assert sick.returncode == 1
    found = [each for each in json.loads(sick.stdout) if each["what"] == "identity provider"]
    assert ["ghost" in each["advice"] for each in found] == [True, False]
    assert all(each["advice"] for each in found)
    assert program(tmp_path, "tenant", "create", "ghost").returncode == 0
    made = program(tmp_path, "client", "create", "desk", "--tenant", "ghost", "--identity", "--json")
    assert json.loads(made.stdout)["client_secret"]
    listed = json.loads(program(tmp_path, "client", "list", "--tenant", "ghost", "--json").stdout)
    assert [each["grant_types"] for each in listed] == [["urn:ietf:params:oauth:grant-type:jwt-bearer"]]


def test_the_program_is_installed_under_its_name() -> None:
    """The console script is what the README names."""
    installed = shutil.which("mcp-agents", path=str(Path(sys.executable).parent))
    assert installed
    shown = subprocess.run([installed, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.startswith("mcp-agents, version ")
