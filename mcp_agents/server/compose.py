"""The one composer: it alone names adapters, and returns the house as a typed value.

`open_house` opens everything a process needs and closes it in reverse; who serves, works or administers
takes what it needs from the `House`. Nothing here decides anything about agents, runs or rights.
"""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from mcp_agents_auth.embedded import AuthServer, build_auth
from mcp_agents_tools.surface.catalogue import Catalogue
from mcp_agents_tools.surface.plugin import Services
from mcp_agents_tools.toolsets.composite import CompositeToolsets
from mcp_agents_tools.toolsets.hub import UpstreamHub
from mcp_agents_tools.toolsets.servers import StoredToolServers
from mcp_agents_tools.toolsets.toolbox import UpstreamToolsets

from mcp_agents.adapters import nats_topology
from mcp_agents.adapters.litellm_model import LitellmModel
from mcp_agents.adapters.litellm_prices import LitellmPriceBook
from mcp_agents.adapters.nats_bus import NatsBus
from mcp_agents.adapters.nats_cached_store import NatsCachedStore
from mcp_agents.adapters.nats_embedded import EmbeddedOptions, embedded
from mcp_agents.adapters.nats_link import Endpoint, NatsLink, connect
from mcp_agents.adapters.nats_log import NatsLog
from mcp_agents.adapters.nats_objects import NatsObjects
from mcp_agents.adapters.nats_queue import NatsQueue
from mcp_agents.adapters.nats_store import NatsStore
from mcp_agents.adapters.rule_model import RuleModel
from mcp_agents.agents.catalog import AgentCatalog, Checks
from mcp_agents.agents.state import AgentStates
from mcp_agents.execution.dispatch import Dispatcher, Sweeper
from mcp_agents.execution.loop import Loop
from mcp_agents.execution.worker import Worker
from mcp_agents.kernel.clock import Clock, SystemClock
from mcp_agents.kernel.errors import Fault, Invalid
from mcp_agents.kernel.faults import Faults, NoFaults
from mcp_agents.kernel.messages import Message
from mcp_agents.kernel.model import Model, ModelAnswer, ModelRequest, ToolSchema
from mcp_agents.kernel.tenancy import Doors, Tenancy
from mcp_agents.models.catalog import OFFLINE, ConfiguredModel
from mcp_agents.models.router import ModelRouter
from mcp_agents.security.egress import AddressRule
from mcp_agents.security.keys import Vault, load_master_key
from mcp_agents.server.config import ModelSettings, Settings, environment


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Everything that is open, by its role."""

    settings: Settings
    public_url: str
    tenancy: Tenancy
    catalogue: Catalogue
    services: Services
    auth: AuthServer
    sweeper: Sweeper
    loop: Loop
    link: NatsLink

    def worker(self, number: int) -> Worker:
        """A worker loop of this process."""
        name = f"{socket.gethostname()}:{os.getpid()}:{number}"
        return Worker(self.tenancy, self.loop, name, self.settings.server.concurrency)

    def ready(self) -> bool:
        """Whether the store answers."""
        return self.link.client.is_connected


@asynccontextmanager
async def open_house(
    settings: Settings, public_url: str, *, faults: Faults | None = None, clock: Clock | None = None
) -> AsyncIterator[House]:
    """The house, open. Raises kernel errors that say what to do when something is missing."""
    if settings.auth.mode == "external":
        raise Invalid(
            "AUTH_MODE_UNSUPPORTED",
            "This version verifies only tokens of its own authorization server.",
            'Leave [auth] mode = "embedded".',
        )
    clock, faults = clock or SystemClock(), faults or NoFaults()
    master = load_master_key(settings.keys.master, settings.data_dir / "keys", environment())
    vault = Vault(master)
    async with AsyncExitStack() as stack:
        if settings.nats.url:
            endpoint = Endpoint(settings.nats.url)
        else:
            options = EmbeddedOptions(
                folder=settings.data_dir / "nats",
                key=master.derive("nats-store"),
                key_id=master.key_id,
                sync=settings.nats.sync,
            )
            endpoint = await stack.enter_async_context(embedded(options))
        link = await stack.enter_async_context(connect(endpoint, "mcp-agents"))
        if settings.nats.url:
            await nats_topology.ensure(link, settings.nats.replicas)
        store = NatsCachedStore(link, NatsStore(link))
        await store.open()
        doors = Doors(
            store=store,
            log=NatsLog(link),
            queue=NatsQueue(link),
            bus=NatsBus(link),
            objects=NatsObjects(link),
            clock=clock,
            faults=faults,
        )
        tenancy = Tenancy(doors)
        egress = AddressRule(allowed_origins=frozenset({public_url}), allow_private=settings.is_loopback)
        hub = await stack.enter_async_context(UpstreamHub(egress, clock=clock))
        tool_servers = StoredToolServers(hub, vault, clock, stdio=settings.stdio)
        toolsets = CompositeToolsets(UpstreamToolsets(hub, tool_servers), AgentStates(clock))
        litellm = LitellmModel()
        stack.push_async_callback(litellm.aclose)
        models = _models(settings, litellm)
        agents = AgentCatalog(clock, Checks(model=models.check, unknown=toolsets.unknown))
        dispatcher = Dispatcher(tenancy, agents)
        auth = build_auth(tenancy.platform(), vault, clock, issuer=public_url, resource=f"{public_url}/mcp")
        yield House(
            settings=settings,
            public_url=public_url,
            tenancy=tenancy,
            catalogue=Catalogue.installed(),
            services=Services(
                agents=agents, dispatcher=dispatcher, tool_servers=tool_servers, models=models, clock=clock
            ),
            auth=auth,
            sweeper=Sweeper(tenancy),
            loop=Loop(models, toolsets, clock, faults),
            link=link,
        )


def _models(settings: Settings, litellm: LitellmModel) -> ModelRouter:
    """The configured models; where there is none, the rule-based one under its own name."""
    configured = tuple(_configured(model) for model in settings.models) or (OFFLINE,)
    clients: dict[str, Model] = {"rule": RuleModel(), "litellm": litellm}
    return ModelRouter(configured, dict(settings.virtual_models), LitellmPriceBook(), clients)


def _configured(model: ModelSettings) -> ConfiguredModel:
    if model.litellm_model == OFFLINE.provider_model:
        return replace(OFFLINE, name=model.name)
    key = environment().get(model.api_key_env, "") if model.api_key_env else ""
    if model.api_key_env and not key:
        raise Invalid(
            "MODEL_KEY_MISSING",
            f"The model {model.name} takes its key from {model.api_key_env}, which is not set.",
            f"Set {model.api_key_env} in the environment or remove the model.",
        )
    return ConfiguredModel(
        name=model.name,
        wire="litellm",
        provider_model=model.litellm_model,
        api_base=model.api_base,
        api_key=key,
        tasks=model.tasks,
        input_micro_usd_per_mtok=model.input_micro_usd_per_mtok,
        output_micro_usd_per_mtok=model.output_micro_usd_per_mtok,
        context_window=model.context_window,
        region=model.region,
    )


def bare_models(twin: str) -> dict[str, Callable[..., Awaitable[ModelAnswer]]]:
    """The model clients alone, for the benchmark's floors: rule-based, and litellm against the HTTP twin."""

    def asking(model: Model, request: ModelRequest) -> Callable[..., Awaitable[ModelAnswer]]:
        async def ask(messages: tuple[Message, ...], tools: tuple[ToolSchema, ...]) -> ModelAnswer:
            async for item in model.stream(replace(request, messages=messages, tools=tools)):
                if isinstance(item, ModelAnswer):
                    return item
            raise Fault("MODEL_STREAM_ENDED", "The model's answer ended without an end.")

        return ask

    remote = ModelRequest(model="openai/rule-based", messages=(), api_base=twin, api_key="none")
    return {
        "bare loop, rule-based model": asking(RuleModel(), ModelRequest(model=OFFLINE.provider_model, messages=())),
        "bare loop, HTTP twin through litellm": asking(LitellmModel(), remote),
    }
