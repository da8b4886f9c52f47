import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport, StreamableHTTPError } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { CallToolResultSchema, ListToolsResultSchema, McpError } from '@modelcontextprotocol/sdk/types.js';
import { DomainError } from '../errors.ts';
import type { Outgoing } from './outgoing.ts';

/** Where a server of the Model Context Protocol is, and what it wants to be sent. */
export interface McpAddress {
  url: string;
  /** Headers of every request; they hold credentials. */
  headers: Readonly<Record<string, string>>;
}

/** A tool as its server lists it. Nothing of it is to be trusted. */
export interface McpTool {
  name: string;
  description: string;
  argumentsSchema: Record<string, unknown>;
}

export interface McpCall {
  name: string;
  arguments: Record<string, unknown>;
  /** The same for each try of one call. */
  idempotencyKey: string;
}

/** Servers of the Model Context Protocol over streamable HTTP (https://modelcontextprotocol.io/specification). */
export interface McpClient {
  /**
   * @param timeout longest time for the whole exchange, in milliseconds
   * @throws DomainError TOOL_FAILED, OUTGOING_REFUSED, OUTGOING_FAILED; the signal's own reason when it fired
   */
  listTools(server: McpAddress, timeout: number, signal: AbortSignal): Promise<McpTool[]>;
  /**
   * Calls a tool and gives its result as a text.
   * @throws DomainError as `listTools`, and TOOL_FAILED with what the tool says when it failed
   */
  callTool(server: McpAddress, call: McpCall, timeout: number, signal: AbortSignal): Promise<string>;
}

const mostPages = 20;
/** Most tools of one server. */
export const mostServerTools = 200;
/** How long a server gets to be told goodbye, in milliseconds. */
const farewell = 1_000;

/** Each exchange has a connection and session of its own, so that nothing of it outlives it. */
export function createMcpClient(outgoing: Pick<Outgoing, 'fetch'>): McpClient {
  return {
    listTools: (server, timeout, signal) =>
      converse(outgoing, server, timeout, signal, async (client, options) => {
        const tools: McpTool[] = [];
        let cursor: string | undefined;
        for (let page = 0; page < mostPages; page += 1) {
          // Not by the client's own `listTools`, which compiles what the server says of results.
          const params = cursor === undefined ? {} : { cursor };
          const listed = await client.request({ method: 'tools/list', params }, ListToolsResultSchema, options);
          tools.push(
            ...listed.tools.map(({ name, description = '', title, inputSchema }) => ({
              name,
              description: description || (title ?? name),
              argumentsSchema: inputSchema as Record<string, unknown>,
            })),
          );
          cursor = listed.nextCursor;
          if (cursor === undefined || tools.length >= mostServerTools) {
            break;
          }
        }
        return tools.slice(0, mostServerTools);
      }),
    callTool: (server, call, timeout, signal) =>
      converse(outgoing, server, timeout, signal, async (client, options) => {
        const params = {
          name: call.name,
          arguments: call.arguments,
          _meta: { 'retinue/idempotencyKey': call.idempotencyKey },
        };
        const result = await client.request({ method: 'tools/call', params }, CallToolResultSchema, options);
        const parts = result.content.map(describePart);
        if (parts.length === 0 && result.structuredContent !== undefined) {
          parts.push(JSON.stringify(result.structuredContent));
        }
        const text = parts.join('\n\n');
        if (result.isError === true) {
          throw new DomainError('TOOL_FAILED', text === '' ? 'The tool failed and does not say why.' : text);
        }
        return text;
      }),
  };
}

interface ExchangeOptions {
  signal: AbortSignal;
  timeout: number;
}

async function converse<Result>(
  outgoing: Pick<Outgoing, 'fetch'>,
  server: McpAddress,
  timeout: number,
  caller: AbortSignal,
  work: (client: Client, options: ExchangeOptions) => Promise<Result>,
): Promise<Result> {
  const broken = new AbortController();
  const late = AbortSignal.timeout(timeout);
  const signal = AbortSignal.any([caller, late, broken.signal]);
  const client = new Client({ name: 'retinue', version: '1' });
  const transport = new StreamableHTTPClientTransport(new URL(server.url), {
    requestInit: { headers: { ...server.headers } },
    fetch: async (url, init) => {
      const answer = await outgoing.fetch(url, init);
      // A stream that breaks is told to nobody who waits for its answer, who would wait until the time is over.
      return init?.method === 'POST' ? watched(answer, (error) => broken.abort(error)) : answer;
    },
    reconnectionOptions: {
      maxRetries: 0,
      initialReconnectionDelay: 1_000,
      maxReconnectionDelay: 1_000,
      reconnectionDelayGrowFactor: 1,
    },
  });
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    const options = { signal, timeout };
    // The library's own type of a transport leaves out that its members may be undefined.
    const talk = client.connect(transport as Transport, options).then(() => work(client, options));
    return await Promise.race([talk, aborted]);
  } catch (error) {
    if (caller.aborted) {
      throw caller.reason;
    }
    throw toDomainError(broken.signal.aborted ? broken.signal.reason : error, late.aborted);
  } finally {
    signal.removeEventListener('abort', abort);
    await endSession(transport);
    await client.close();
  }
}

/** The same answer, with a break of its content told. */
function watched(answer: Response, onBreak: (error: unknown) => void): Response {
  const reader = answer.body?.getReader();
  if (reader === undefined) {
    return answer;
  }
  let isCancelled = false;
  const body = new ReadableStream<Uint8Array>({
    pull: async (controller) => {
      const piece = await reader.read().catch((error: unknown) => ({ error }));
      if (isCancelled) {
        return;
      }
      if ('error' in piece) {
        onBreak(piece.error);
        controller.error(piece.error);
      } else if (piece.done) {
        controller.close();
      } else {
        controller.enqueue(piece.value);
      }
    },
    cancel: (reason) => {
      isCancelled = true;
      return reader.cancel(reason);
    },
  });
  return new Response(body, { status: answer.status, headers: answer.headers });
}

/** Tells the server that its session is over. It may not care, and may be away: nobody waits for it long. */
async function endSession(transport: StreamableHTTPClientTransport): Promise<void> {
  const { promise: late, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, farewell);
  await Promise.race([transport.terminateSession().catch(() => undefined), late]);
  clearTimeout(timer);
}

function describePart(part: {
  type: string;
  text?: unknown;
  mimeType?: unknown;
  uri?: unknown;
  resource?: unknown;
}): string {
  if (part.type === 'text') {
    return String(part.text);
  }
  if (
    part.type === 'resource' &&
    typeof part.resource === 'object' &&
    part.resource !== null &&
    'text' in part.resource
  ) {
    return String(part.resource.text);
  }
  return part.type === 'resource_link'
    ? `[a link to ${String(part.uri)}]`
    : `[${part.type} that can not be shown as text]`;
}

/** What a server says of itself may be shown; what the network says may name inner hosts. */
function toDomainError(error: unknown, isLate: boolean): DomainError {
  if (error instanceof DomainError) {
    return error;
  }
  if (isLate) {
    return new DomainError('OUTGOING_FAILED', 'The MCP server did not answer in time.', { cause: error });
  }
  if (error instanceof McpError) {
    return new DomainError('TOOL_FAILED', error.message.slice(0, 2_000), { cause: error });
  }
  const isStatus = error instanceof StreamableHTTPError && typeof error.code === 'number' && error.code >= 400;
  const message = isStatus
    ? `The MCP server refuses with the status ${error.code}.`
    : 'The MCP server could not be reached or does not speak the protocol.';
  return new DomainError('OUTGOING_FAILED', message, { cause: error });
}
