"""Settings: `mcp-agents.toml`, and every value also as `MCP_AGENTS_SECTION__NAME`; the environment wins.

The only place that reads files of settings and the environment. An unknown key is an error that names the
nearest known one; a key in a file is the name of a variable, never the secret itself.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mcp_agents.kernel import ids
from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.rates import Kind
from mcp_agents.kernel.scopes import ROLES

ENV_PREFIX: Final = "MCP_AGENTS_"
CONFIG_ENV: Final = "MCP_AGENTS_CONFIG"
_ISSUER: Final = re.compile(r"https://[^\s?#]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/[^\s?#]*)?")
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, given: Any) -> Any:
        """A list is written in a variable with commas."""
        if not isinstance(given, dict):
            return given
        lists = {name for name, field in cls.model_fields.items() if field.annotation == tuple[str, ...]}
        return {
            name: [part.strip() for part in value.split(",")] if name in lists and isinstance(value, str) else value
            for name, value in given.items()
        }


class ServerSettings(_Section):
    """`[server]`"""

    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, le=65535)
    public_url: str = ""
    data_dir: str = ""
    workers: int = Field(1, ge=0, le=64)
    concurrency: int = Field(256, ge=1, le=10_000)
    trusted_proxies: tuple[str, ...] = ()

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The proxies whose word on addresses is taken."""
        return tuple(ip_network(each) for each in self.trusted_proxies)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            ip_network(each)
        return value

    @field_validator("public_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not value.startswith(("https://", "http://")):
            raise ValueError("a public URL begins with https:// or http://")
        return value.rstrip("/")


class NatsSettings(_Section):
    """`[nats]`"""

    url: str = ""
    replicas: int = Field(1, ge=1, le=5)
    sync: Literal["always", "interval"] = "always"
    max_queued_per_agent: int = Field(10_000, ge=1)
    max_queued: int = Field(100_000, ge=1)


class IdentityProviderSettings(_Section):
    """One `[[auth.identity_providers]]` entry."""

    issuer: str
    tenant: str

    @model_validator(mode="after")
    def _whole(self) -> "IdentityProviderSettings":
        if not _ISSUER.fullmatch(self.issuer):
            raise ValueError("the issuer is an https URL (http on this machine)")
        if not ids.TENANT.fullmatch(self.tenant):
            raise ValueError("the tenant is the name of one")
        return self


class AuthSettings(_Section):
    """`[auth]`"""

    mode: Literal["embedded", "external"] = "embedded"
    issuer: str = ""
    tenant_claim: str = Field("tenant", min_length=1)
    audience: str = ""
    roles_claim: str = Field("roles", min_length=1)
    role_map: tuple[str, ...] = ()
    client_metadata_documents: bool = True
    client_metadata_domains: tuple[str, ...] = ()
    dynamic_registration: bool = False
    identity_providers: tuple[IdentityProviderSettings, ...] = ()

    @field_validator("role_map")
    @classmethod
    def _maps(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [each for each in value if each.partition("=")[2] not in ROLES or each.startswith("=")]:
            raise ValueError(f"write theirs=ours, with a role of ours, not {', '.join(wrong)}")
        return value

    @model_validator(mode="after")
    def _whose(self) -> "AuthSettings":
        if self.mode == "external" and not _ISSUER.fullmatch(self.issuer):
            raise ValueError("mode external needs the issuer, an https URL (http on this machine)")
        if self.mode == "external" and self.identity_providers:
            raise ValueError("identity_providers are asked by the embedded authorization server; leave them out")
        if len({each.issuer for each in self.identity_providers}) < len(self.identity_providers):
            raise ValueError("an identity provider speaks for one tenant: name each issuer once")
        return self


class ModelSettings(_Section):
    """One `[[models]]` entry."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}$")
    litellm_model: str = Field(min_length=1)
    api_base: str = ""
    api_key_env: str = ""
    wire: Literal["", "openai", "litellm"] = ""
    tasks: tuple[str, ...] = ()
    input_micro_usd_per_mtok: int | None = Field(None, ge=0)
    output_micro_usd_per_mtok: int | None = Field(None, ge=0)
    context_window: int | None = Field(None, ge=1)
    region: str = ""


class ToolSettings(_Section):
    """`[tools]`"""

    stdio: Literal["", "off", "sandboxed", "trusted"] = ""


class LimitSettings(_Section):
    """`[limits]`: how often, in each minute; 0 switches one off."""

    token_per_address: int = Field(1_200, ge=0)
    token_per_client: int = Field(1_200, ge=0)
    sign_in_per_address: int = Field(120, ge=0)
    calls_per_address: int = Field(120_000, ge=0)
    calls_per_client: int = Field(60_000, ge=0)
    calls_per_tenant: int = Field(120_000, ge=0)

    @property
    def by_kind(self) -> dict[Kind, int]:
        """As they are counted."""
        return {
            "token_per_address": self.token_per_address,
            "token_per_client": self.token_per_client,
            "sign_in_per_address": self.sign_in_per_address,
            "calls_per_address": self.calls_per_address,
            "calls_per_client": self.calls_per_client,
            "calls_per_tenant": self.calls_per_tenant,
        }


class RetentionSettings(_Section):
    """`[retention]`"""

    execution_days: int = Field(0, ge=0, le=36_500)


class ExecutionSettings(_Section):
    """`[executions]`"""

    abandon_after_seconds: int = Field(120, ge=0, le=86_400)


class KeySettings(_Section):
    """`[keys]`"""

    master: str = ""


class Settings(_Section):
    """Everything that can be set."""

    server: ServerSettings = ServerSettings.model_validate({})
    nats: NatsSettings = NatsSettings.model_validate({})
    auth: AuthSettings = AuthSettings.model_validate({})
    models: tuple[ModelSettings, ...] = ()
    tools: ToolSettings = ToolSettings.model_validate({})
    keys: KeySettings = KeySettings.model_validate({})
    limits: LimitSettings = LimitSettings.model_validate({})
    retention: RetentionSettings = RetentionSettings.model_validate({})
    executions: ExecutionSettings = ExecutionSettings.model_validate({})
    virtual_models: dict[str, tuple[str, ...]] = {}
    clients: dict[str, Annotated[float, Field(ge=0, le=3600)]] = {}

    @property
    def data_dir(self) -> Path:
        """Where everything is kept."""
        return Path(self.server.data_dir or platformdirs.user_data_dir("mcp-agents", appauthor=False)).expanduser()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server: what is trusted by default depends on it."""
        return self.server.host in LOOPBACK

    @property
    def stdio(self) -> Literal["off", "sandboxed", "trusted"]:
        """How stdio tool servers run: `trusted` by default on a loopback server, else `sandboxed`."""
        return self.tools.stdio or ("trusted" if self.is_loopback else "sandboxed")


def environment() -> Mapping[str, str]:
    """The process environment, for those who are handed it."""
    return os.environ  # noqa: TID251  # the one place


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the file (if any) and the environment. Raises `Invalid` (`SETTINGS_INVALID`)."""
    environ = environment() if environ is None else environ
    if path is None and environ.get(CONFIG_ENV):
        path = Path(environ[CONFIG_ENV])
    data = _file(path) if path else _file(Path("mcp-agents.toml"), optional=True)
    source = str(path or "mcp-agents.toml")
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and "__" in name:
            section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
            _overlay(data, section, key, value)
    try:
        return Settings.model_validate(data)
    except ValidationError as cause:
        raise _invalid("; ".join(_explain(error) for error in cause.errors()), source) from cause


def _file(path: Path, *, optional: bool = False) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as cause:
        if optional:
            return {}
        raise _invalid(f"the file {path} does not exist", str(path)) from cause
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise _invalid(f"{path} cannot be read: {cause}", str(path)) from cause


def _overlay(data: dict[str, Any], section: str, key: str, value: str) -> None:
    if section == "models":
        raise _invalid("MCP_AGENTS_MODELS__… cannot be set: models are a list", "the environment")
    if (section, key) == ("auth", "identity_providers"):
        raise _invalid("MCP_AGENTS_AUTH__IDENTITY_PROVIDERS cannot be set: it is a list of tables", "the environment")
    part = data.setdefault(section, {})
    if isinstance(part, dict):
        part[key] = [item.strip() for item in value.split(",")] if section == "virtual_models" else value


def _explain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{place}: {error['msg']}"
    known = _known_keys(error["loc"])
    near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.3)
    return f"{place} is not a setting" + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}")


def _known_keys(place: tuple[str | int, ...]) -> list[str]:
    """What may stand beside the last part of `place`."""
    section: type[BaseModel] = Settings
    for name in (str(part) for part in place[:-1] if not isinstance(part, int)):
        annotation = section.model_fields[name].annotation
        within = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
        if not isinstance(within, type) or not issubclass(within, BaseModel):
            return []
        section = within
    return list(section.model_fields)


def _invalid(what: str, source: str) -> Invalid:
    return Invalid("SETTINGS_INVALID", f"The settings are not valid: {what}.", f"Correct {source} or the variable.")
