"""The one composer: it alone names adapters, and returns the house as a typed value.

`open_house` opens everything a process needs and closes it in reverse; who serves, works or administers
takes what it needs from the `House`. Nothing here decides anything about agents, runs or rights.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from mcp_agents_auth.embedded import AuthServer, Newcomers, build_auth
from mcp_agents_auth.erasure import Erasure
from mcp_agents_auth.external import Claims, External, build_external
from mcp_agents_auth.identity_assertion import IdentityProvider
from mcp_agents_auth.issuer_keys import IssuerKeys
from mcp_agents_auth.verifier import Verifier
from mcp_agents_tools.surface.catalogue import Catalogue
from mcp_agents_tools.surface.clients import HandOver
from mcp_agents_tools.surface.plugin import Services
from mcp_agents_tools.toolsets.builtin import Rooms
from mcp_agents_tools.toolsets.composite import CompositeToolsets
from mcp_agents_tools.toolsets.credentials import Credentials
from mcp_agents_tools.toolsets.hub import UpstreamHub
from mcp_agents_tools.toolsets.oauth import OauthClient
from mcp_agents_tools.toolsets.servers import StoredToolServers
from mcp_agents_tools.toolsets.sign_ins import DOCUMENT, SignIns
from mcp_agents_tools.toolsets.toolbox import UpstreamToolsets

from mcp_agents.adapters import nats_presence, nats_topology
from mcp_agents.adapters.litellm_model import LitellmModel
from mcp_agents.adapters.litellm_prices import LitellmPriceBook
from mcp_agents.adapters.memory_log import MemoryLog
from mcp_agents.adapters.nats_bus import NatsBus
from mcp_agents.adapters.nats_cached_store import NatsCachedStore
from mcp_agents.adapters.nats_embedded import EmbeddedOptions, embedded
from mcp_agents.adapters.nats_link import Endpoint, NatsLink, connect
from mcp_agents.adapters.nats_log import NatsLog
from mcp_agents.adapters.nats_objects import NatsObjects
from mcp_agents.adapters.nats_queue import NatsQueue
from mcp_agents.adapters.nats_snapshot import NatsSnapshots
from mcp_agents.adapters.nats_store import NatsStore
from mcp_agents.adapters.nats_topology import QueueLimits
from mcp_agents.adapters.openai_wire_model import OpenaiWireModel
from mcp_agents.adapters.rule_model import RuleModel
from mcp_agents.adapters.tiktoken_counter import TiktokenCounter
from mcp_agents.agents.catalog import AgentCatalog, Checks
from mcp_agents.agents.state import AgentStates
from mcp_agents.execution.abandonment import Abandonment
from mcp_agents.execution.answering import Questions
from mcp_agents.execution.approvals import Approvals
from mcp_agents.execution.archive import Archive
from mcp_agents.execution.attention import Attention
from mcp_agents.execution.children import Children
from mcp_agents.execution.compacting import Compacting
from mcp_agents.execution.conversing import Conversations
from mcp_agents.execution.crew import Crew
from mcp_agents.execution.dead_letters import DeadLetters
from mcp_agents.execution.dispatch import Dispatcher
from mcp_agents.execution.gates import Gates
from mcp_agents.execution.loop import Loop
from mcp_agents.execution.posting import Post
from mcp_agents.execution.recovery import Recovery
from mcp_agents.execution.register import Register
from mcp_agents.execution.spending import Spending
from mcp_agents.execution.station import Station
from mcp_agents.execution.turns import Asker
from mcp_agents.execution.worker import Tools
from mcp_agents.kernel.clock import Clock, SystemClock
from mcp_agents.kernel.errors import Invalid
from mcp_agents.kernel.faults import Faults, NoFaults
from mcp_agents.kernel.fetch import Fetch
from mcp_agents.kernel.model import Model, ModelAnswer, ModelRequest, TextDelta
from mcp_agents.kernel.rates import Rates
from mcp_agents.kernel.snapshots import Snapshots
from mcp_agents.kernel.tenancy import Doors, Tenancy
from mcp_agents.models.catalog import OFFLINE, ConfiguredModel, Wire
from mcp_agents.models.keys import ProviderKeys
from mcp_agents.models.router import ModelRouter
from mcp_agents.scaling.budgets import Budgets
from mcp_agents.scaling.quotas import Quotas
from mcp_agents.scaling.rates import SharedRates
from mcp_agents.scaling.slots import Slots
from mcp_agents.security.audit import AuditTrail
from mcp_agents.security.egress import AddressRule
from mcp_agents.security.fetching import GuardedFetch
from mcp_agents.security.keys import MasterKey, Vault, load_master_key
from mcp_agents.security.policy.book import PolicyBook
from mcp_agents.security.policy.engine import PolicyEngine
from mcp_agents.security.secrets import TenantSecrets
from mcp_agents.server.config import ModelSettings, Settings, environment
from mcp_agents.sessions.book import SessionBook
from mcp_agents.sessions.copies import SessionCopies
from mcp_agents.sessions.memory import Memories


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Everything that is open, by its role."""

    settings: Settings
    public_url: str
    tenancy: Tenancy
    catalogue: Catalogue
    services: Services
    auth: AuthServer
    external: External | None
    verifier: Verifier
    rates: Rates
    erasure: Erasure
    tool_servers: StoredToolServers
    sign_ins: SignIns
    secrets: TenantSecrets
    crew: Crew
    link: NatsLink
    state_key: bytes = field(repr=False)
    """Seals what a client carries between two rounds of a call; the same in every process with this master key."""

    def ready(self) -> bool:
        """Whether the store answers."""
        return self.link.client.is_connected


@asynccontextmanager
async def open_house(
    settings: Settings,
    public_url: str,
    *,
    faults: Faults | None = None,
    clock: Clock | None = None,
    record: bool = True,
) -> AsyncIterator[House]:
    """The house, open. Raises kernel errors that say what to do when something is missing.

    `record`: False keeps the logs of runs in memory, for the benchmark that asks what their durability costs.
    """
    clock, faults = clock or SystemClock(), faults or NoFaults()
    master = the_master_key(settings)
    vault = Vault(master)
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(_linked(settings, master))
        tenancy = Tenancy(await _doors(link, clock, faults, record=record))
        egress = AddressRule(allowed_origins=frozenset({public_url}), allow_private=settings.is_loopback)
        hub = await stack.enter_async_context(UpstreamHub(egress, clock=clock))
        tenant_secrets = TenantSecrets(vault, clock)
        litellm = LitellmModel()
        stack.push_async_callback(litellm.aclose)
        direct = OpenaiWireModel()
        stack.push_async_callback(direct.aclose)
        clients: dict[str, Model] = {"rule": RuleModel(), "litellm": litellm, "openai": direct}
        models = _models(settings, clients, ProviderKeys(tenant_secrets, clock), clock)
        rates = SharedRates(tenancy.platform(), settings.limits.by_kind, clock)
        auth = _auth(settings, tenancy, vault, egress, rates, public_url)
        external = _external(settings, auth, clock)
        door = external or auth  # who says who somebody is, and what is left of their rights
        oauth = OauthClient(egress)
        credentials = Credentials(tenant_secrets, oauth, clock)
        document = f"{public_url}{DOCUMENT}" if public_url.startswith("https:") else ""
        sign_ins = SignIns(credentials, oauth, auth.identities, tenant_secrets, clock, public_url, document)
        tool_servers = StoredToolServers(hub, tenant_secrets, sign_ins, clock, stdio=settings.stdio)
        tokens = TiktokenCounter()
        sessions, memories = SessionBook(tokens, clock), Memories(clock)
        rooms = Rooms(AgentStates(clock), sessions, memories)
        toolsets = CompositeToolsets(UpstreamToolsets(hub, tool_servers), rooms)

        agents = AgentCatalog(clock, Checks(model=models.check, unknown=toolsets.unknown), public_url)
        quotas, budgets = Quotas(), Budgets(clock)
        station, slots = Station(tenancy), Slots(clock, quotas)
        attention = Attention(clock, settings.executions.abandon_after_seconds)
        await stack.enter_async_context(attention.keeping())
        register = Register(clock)
        policies = PolicyEngine(PolicyBook(clock))
        gates = Gates(door.rights, policies)
        conversations = Conversations(sessions, tokens, clock)
        dispatcher = Dispatcher(tenancy, agents, station, slots, register, attention, gates, conversations)
        spending = Spending(budgets)
        archive = Archive(tenancy, spending, register, conversations, keep_days=settings.retention.execution_days)
        asker = Asker(models, gates, spending, clock, faults)
        approvals = Approvals(agents, gates, clock, "" if external else public_url)
        post = Post(dispatcher, clock)
        children = Children(agents, dispatcher, gates, clock)
        compacting = Compacting(asker, conversations, tokens, clock)
        loop = Loop(asker, toolsets, children, approvals, register, compacting, faults)
        yield House(
            settings=settings,
            public_url=public_url,
            tenancy=tenancy,
            catalogue=Catalogue.installed(),
            services=Services(
                agents=agents,
                dispatcher=dispatcher,
                sessions=sessions,
                conversations=conversations,
                copies=SessionCopies(tokens, clock),
                memories=memories,
                questions=Questions(post, approvals, register),
                register=register,
                post=post,
                archive=archive,
                dead_letters=DeadLetters(dispatcher, clock),
                budgets=budgets,
                quotas=quotas,
                tool_servers=tool_servers,
                models=models,
                policies=policies,
                administration=door.administration,
                audit=auth.audit,
                hand_over=HandOver(settings.clients),
                clock=clock,
            ),
            auth=auth,
            external=external,
            verifier=door.verifier,
            rates=rates,
            erasure=Erasure(
                tenancy,
                auth.audit,
                tenants=auth.tenants,
                users=auth.users,
                clients=auth.clients,
                families=auth.families,
                invitations=auth.invitations,
                clock=clock,
            ),
            tool_servers=tool_servers,
            sign_ins=sign_ins,
            secrets=tenant_secrets,
            crew=Crew(
                tenancy=tenancy,
                station=station,
                archive=archive,
                recovery=Recovery(tenancy, station, archive, register),
                abandonment=Abandonment(tenancy, attention, dispatcher),
                tools=Tools(loop, station, slots, quotas, spending, archive),
                concurrency=settings.server.concurrency,
            ),
            link=link,
            state_key=master.derive("request-state"),
        )


def _auth(
    settings: Settings, tenancy: Tenancy, vault: Vault, egress: AddressRule, rates: Rates, public_url: str
) -> AuthServer:
    """The authorization server of this house."""
    newcomers = Newcomers(
        fetch=GuardedFetch(egress) if settings.auth.client_metadata_documents else None,
        domains=settings.auth.client_metadata_domains,
        loopback=settings.is_loopback,
        may_register=settings.auth.dynamic_registration,
        providers=tuple(
            IdentityProvider(IssuerKeys(each.issuer, _fetch_of(each.issuer, settings), tenancy.clock), each.tenant)
            for each in settings.auth.identity_providers
        ),
    )
    return build_auth(
        tenancy.platform(),
        vault,
        tenancy.clock,
        public_url,
        f"{public_url}/mcp",
        newcomers=newcomers,
        rates=rates,
    )


def _external(settings: Settings, auth: AuthServer, clock: Clock) -> External | None:
    """Where people sign in at another server: what verifies its tokens."""
    if settings.auth.mode == "embedded":
        return None
    issuer = settings.auth.issuer
    claims = Claims(
        audience=settings.auth.audience,
        tenant=settings.auth.tenant_claim,
        roles=settings.auth.roles_claim,
        role_map=dict(each.split("=", 1) for each in settings.auth.role_map),
    )
    return build_external(issuer, claims, auth, _fetch_of(issuer, settings), clock)


def _fetch_of(issuer: str, settings: Settings) -> Fetch:
    """Reads the documents of an issuer, whose address was chosen by the operator."""
    return GuardedFetch(AddressRule(allowed_origins=frozenset({issuer}), allow_private=settings.is_loopback))


@asynccontextmanager
async def _linked(settings: Settings, master: MasterKey) -> AsyncIterator[NatsLink]:
    """The connection to NATS, embedded or not, with every stream there, and whole."""
    async with _connected(settings, master) as link:
        await nats_presence.be_present(link)  # first: a restore that does not hear us has left its mark for us to see
        await nats_presence.require_whole(link)
        if settings.nats.url:
            await nats_topology.ensure(link, settings.nats.replicas, _limits(settings))
        yield link


@asynccontextmanager
async def _connected(settings: Settings, master: MasterKey, *, restoring: bool = False) -> AsyncIterator[NatsLink]:
    """The connection to NATS, embedded or not."""
    async with AsyncExitStack() as stack:
        if settings.nats.url:
            endpoint = Endpoint(settings.nats.url)
        else:
            options = EmbeddedOptions(
                folder=settings.data_dir / "nats",
                key=master.derive("nats-store"),
                key_id=master.key_id,
                # Whoever restores sees to it once, at the end, that everything is on disk.
                sync="interval" if restoring else settings.nats.sync,
                limits=_limits(settings),
                restoring=restoring,
            )
            endpoint = await stack.enter_async_context(embedded(options))
        yield await stack.enter_async_context(connect(endpoint, "mcp-agents"))


def _limits(settings: Settings) -> QueueLimits:
    return QueueLimits(per_lane=settings.nats.max_queued_per_agent, total=settings.nats.max_queued)


def the_master_key(settings: Settings, *, make: bool = True) -> MasterKey:
    """The master key of these settings. `make`: without one in a new data folder, a new one is made there."""
    folder = settings.data_dir / "keys"
    if not make and not settings.keys.master and not (folder / "master.key").exists():
        raise Invalid(
            "BACKUP_KEY_MISSING",
            f"There is no master key in {folder}, and a backup cannot be made or read without it.",
            "Check [server] data_dir; on a new machine, put the file master.key of the backed-up house there first.",
        )
    return load_master_key(settings.keys.master, folder, environment())


@asynccontextmanager
async def open_streams(
    settings: Settings, master: MasterKey, *, restoring: bool = False
) -> AsyncIterator[tuple[Snapshots, AuditTrail]]:
    """The streams as a whole, and the audit trail in them, without a house. Raises what `open_house` raises.

    `restoring`: for whoever replaces them, alone; a store that is not whole opens too.
    """
    async with _connected(settings, master, restoring=restoring) as link:
        if not restoring:
            await nats_presence.be_present(link)
            await nats_presence.require_whole(link)
        clock = SystemClock()
        tenancy = Tenancy(await _doors(link, clock, NoFaults(), record=True))
        trail = AuditTrail(tenancy.platform(), master.derive("audit"), clock)
        yield NatsSnapshots(link, replicas=settings.nats.replicas, limits=_limits(settings)), trail


async def _doors(link: NatsLink, clock: Clock, faults: Faults, *, record: bool) -> Doors:
    store = NatsCachedStore(link, NatsStore(link))
    await store.open()
    return Doors(
        store=store,
        log=NatsLog(link) if record else MemoryLog(),
        queue=NatsQueue(link),
        bus=NatsBus(link),
        objects=NatsObjects(link),
        clock=clock,
        faults=faults,
    )


def _models(settings: Settings, clients: dict[str, Model], keys: ProviderKeys, clock: Clock) -> ModelRouter:
    """The configured models; where there is none, the rule-based one under its own name."""
    configured = tuple(_configured(model) for model in settings.models) or (OFFLINE,)
    return ModelRouter(configured, dict(settings.virtual_models), LitellmPriceBook(), clients, keys=keys, clock=clock)


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
        wire=_wire(model),
        provider_model=model.litellm_model,
        api_base=model.api_base,
        api_key=key,
        tasks=model.tasks,
        input_micro_usd_per_mtok=model.input_micro_usd_per_mtok,
        output_micro_usd_per_mtok=model.output_micro_usd_per_mtok,
        context_window=model.context_window,
        region=model.region,
    )


def _wire(model: ModelSettings) -> Wire:
    """The direct client for OpenAI and whoever is named as speaking like it, litellm for everyone else."""
    return model.wire or ("openai" if model.litellm_model.startswith("openai/") else "litellm")


@asynccontextmanager
async def bare_models(provider: str) -> AsyncIterator[dict[str, Model]]:
    """The model clients alone, for the benchmark's floors; all but the rule-based one ask `provider`."""

    remote = ModelRequest(model="openai/bench", messages=(), api_base=provider, api_key="none")
    async with aclosing(OpenaiWireModel()) as direct, aclosing(LitellmModel()) as litellm:
        yield {
            "rule-based": _Asking(RuleModel(), ModelRequest(model=OFFLINE.provider_model, messages=())),
            "direct": _Asking(direct, remote),
            "litellm": _Asking(litellm, remote),
        }


@dataclass(frozen=True, slots=True)
class _Asking:
    """A client that sends every request to one model of one provider."""

    model: Model
    where: ModelRequest

    def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelAnswer]:
        return self.model.stream(replace(self.where, messages=request.messages, tools=request.tools))
