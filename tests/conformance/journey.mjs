// The main job with the official TypeScript client: lists the tools, executes an agent with progress, hands a run
// over and follows it. `node journey.mjs URL TOKEN modern|legacy AGENT` prints what it saw as one JSON object.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, token, era, agent] = process.argv.slice(2);
const mode = era === "legacy" ? "legacy" : { pin: "2026-07-28" };
const client = new Client({ name: "journey", version: "1" }, { versionNegotiation: { mode } });
const requestInit = { headers: { Authorization: `Bearer ${token}` } };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit }));

const { tools } = await client.listTools();
const progress = [];
const answered = await client.callTool(
  { name: "agent_execute", arguments: { agent, prompt: "say hello" } },
  { onprogress: (each) => progress.push(each) },
);
const handed = await client.callTool({
  name: "agent_execute",
  arguments: { agent, prompt: "say once more", wait_seconds: 0 },
});
const followed = await client.callTool({
  name: "execution_wait",
  arguments: { execution_id: handed.structuredContent.execution_id },
});
const version = client.getNegotiatedProtocolVersion(); // it forgets it when it is closed
await client.close();
console.log(
  JSON.stringify({
    version,
    tools: tools.map((tool) => tool.name),
    progress: progress.map((each) => each.progress),
    answered: answered.structuredContent,
    handed: handed.structuredContent,
    links: handed.content.filter((part) => part.type === "resource_link").map((part) => part.uri),
    followed: followed.structuredContent,
  }),
);
