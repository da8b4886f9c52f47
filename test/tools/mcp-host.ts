import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import {
  CallToolRequestSchema,
  type CallToolResult,
  ListToolsRequestSchema,
  type Tool,
} from '@modelcontextprotocol/sdk/types.js';
import { listen } from '../../dev/listen.ts';

export type HostedTool = Tool & { run: (given: Record<string, unknown>) => CallToolResult | Promise<CallToolResult> };

/** A real MCP server of the SDK over streamable HTTP, whose tools a test may change. */
export interface McpHost {
  origin: string;
  url: string;
  /** What it lists from now on. */
  setTools(tools: HostedTool[]): void;
  /** Calls it got, and the headers of the requests. */
  calls: { name: string; arguments: unknown; meta: unknown }[];
  headers: IncomingMessage['headers'][];
  lists(): number;
  /** Answers in place of the protocol, when set. */
  answer(instead: ((request: IncomingMessage, response: ServerResponse) => void) | null): void;
  stop(): Promise<void>;
}

/** @param pageSize how many tools a page of the list has */
export async function startMcpHost(pageSize = 100): Promise<McpHost> {
  let tools: HostedTool[] = [];
  let lists = 0;
  let instead: ((request: IncomingMessage, response: ServerResponse) => void) | null = null;
  const calls: McpHost['calls'] = [];
  const headers: McpHost['headers'] = [];
  const sessions = new Map<string, StreamableHTTPServerTransport>();

  const open = async (): Promise<StreamableHTTPServerTransport> => {
    const server = new Server({ name: 'host', version: '1' }, { capabilities: { tools: {} } });
    server.setRequestHandler(ListToolsRequestSchema, ({ params }) => {
      lists += 1;
      const start = Number(params?.cursor ?? 0);
      const end = start + pageSize;
      return {
        tools: tools.slice(start, end).map(({ run: _run, ...tool }) => tool),
        ...(end < tools.length ? { nextCursor: String(end) } : {}),
      };
    });
    server.setRequestHandler(CallToolRequestSchema, async ({ params }) => {
      calls.push({ name: params.name, arguments: params.arguments, meta: params._meta });
      const tool = tools.find(({ name }) => name === params.name);
      if (tool === undefined) {
        throw new Error(`there is no tool ${params.name}`);
      }
      return await tool.run(params.arguments ?? {});
    });
    const transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      onsessioninitialized: (id) => void sessions.set(id, transport),
      onsessionclosed: (id) => void sessions.delete(id),
    });
    await server.connect(transport as Transport);
    return transport;
  };
  const http = createServer(async (request, response) => {
    headers.push(request.headers);
    if (instead !== null) {
      instead(request, response);
      return;
    }
    const id = request.headers['mcp-session-id'];
    const transport = (typeof id === 'string' ? sessions.get(id) : undefined) ?? (await open());
    await transport.handleRequest(request, response);
  });
  const { origin } = await listen(http);
  return {
    origin,
    url: `${origin}/mcp`,
    setTools: (next) => {
      tools = next;
    },
    calls,
    headers,
    lists: () => lists,
    answer: (next) => {
      instead = next;
    },
    stop: async () => {
      http.closeAllConnections();
      http.close();
      await once(http, 'close');
    },
  };
}

/** A tool that says what it was given. */
export function echoTool(name: string, rest: Partial<HostedTool> = {}): HostedTool {
  return {
    name,
    description: `Tool ${name}.`,
    inputSchema: { type: 'object', properties: { text: { type: 'string' } } },
    run: (given) => ({ content: [{ type: 'text', text: `${name} got ${String(given['text'])}` }] }),
    ...rest,
  };
}
