import { randomBytes, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { listen } from '../listen.ts';
import {
  type Behaviour,
  behaviourSchema,
  createDirector,
  type Director,
  playScriptEntry,
  type Script,
  type ScriptEntry,
  scriptSchema,
} from './behaviour.ts';
import { type Completion, complete, countTokens, toBody, toChunks } from './completion.ts';
import { embed, toBase64 } from './embeddings.ts';
import {
  chatRequest,
  EMBEDDING_MODEL_ID,
  embeddingRequest,
  MODEL_ID,
  ProtocolError,
  parseBody,
  readMessages,
} from './protocol.ts';
import { type Counters, createRecorder, type RecordedRequest, type Recorder } from './recorder.ts';
import { reply } from './reply.ts';

const LARGEST_BODY_BYTES = 32 * 1024 * 1024;
const BODY_DEADLINE_MS = 30_000;
const DRAIN_DEADLINE_MS = 60_000;

/** A running offline model. */
export interface OfflineModel {
  /** The base address for a client, ending in /v1. */
  readonly url: string;
  readonly apiKey: string;
  requests(): Counters;
  /** The newest requests with their bodies, oldest first. */
  recentRequests(): readonly RecordedRequest[];
  /** Replaces the behaviour as a whole. */
  setBehaviour(behaviour: Behaviour): void;
  /** Replaces the script as a whole. */
  setScript(script: Script): void;
  /** Ends all misbehaviour and the script. */
  reset(): void;
  /** Breaks what is under way and closes. */
  stop(): Promise<void>;
}

/**
 * Starts a small server that speaks OpenAI's wire protocol and answers by rules. It is no real model, and says so.
 *
 * @throws Error when the port is taken.
 */
export async function startOfflineModel(
  options: { readonly port?: number; readonly apiKey?: string; readonly host?: string } = {},
): Promise<OfflineModel> {
  const { apiKey = `offline-${randomBytes(12).toString('hex')}`, ...place } = options;
  const director = createDirector();
  const recorder = createRecorder();
  const server = createServer((request, response) => {
    const exchange: Exchange = { request, response, apiKey, director, recorder };
    handle(exchange).catch((error: unknown) => sendError(response, error));
  });
  const { origin } = await listen(server, place);
  return {
    url: `${origin}/v1`,
    apiKey,
    requests: recorder.counters,
    recentRequests: recorder.recent,
    setBehaviour: (behaviour) => director.setBehaviour(behaviourSchema.parse(behaviour)),
    setScript: (script) => director.setScript(scriptSchema.parse(script)),
    reset: director.reset,
    stop: async () => {
      if (!server.listening) return;
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}

interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly apiKey: string;
  readonly director: Director;
  readonly recorder: Recorder;
}

async function handle(exchange: Exchange): Promise<void> {
  const { request, response, apiKey, director, recorder } = exchange;
  const path = new URL(request.url ?? '/', 'http://localhost').pathname;
  const route = `${request.method} ${path}`;
  if (!isAuthorized(request.headers.authorization, apiKey)) {
    throw new ProtocolError(401, 'Incorrect API key provided.', 'invalid_api_key');
  }
  switch (route) {
    case 'POST /v1/chat/completions':
      return answerRecorded(exchange, '/chat/completions', answerChat);
    case 'POST /v1/embeddings':
      return answerRecorded(exchange, '/embeddings', answerEmbeddings);
    case 'GET /v1/models':
      return sendJson(response, 200, {
        object: 'list',
        data: [MODEL_ID, EMBEDDING_MODEL_ID].map((id) => ({ id, object: 'model', created: 0, owned_by: 'retinue' })),
      });
    case 'POST /admin/behaviour':
      director.setBehaviour(parseBody(behaviourSchema, (await readBody(request)).value));
      return sendJson(response, 200, director.behaviour());
    case 'DELETE /admin/behaviour':
      director.setBehaviour({});
      return sendJson(response, 200, {});
    case 'DELETE /admin/script':
      director.setScript([]);
      return sendJson(response, 200, {});
    case 'POST /admin/script':
      director.setScript(parseBody(scriptSchema, (await readBody(request)).value));
      return sendJson(response, 200, {});
    case 'GET /admin/requests':
      return sendJson(response, 200, { counters: recorder.counters(), requests: recorder.recent() });
    default:
      throw new ProtocolError(404, `Unknown request URL: ${route}.`, 'unknown_url');
  }
}

function isAuthorized(header: string | undefined, apiKey: string): boolean {
  const given = Buffer.from(header ?? '');
  const wanted = Buffer.from(`Bearer ${apiKey}`);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

type Answer = (
  exchange: Exchange,
  record: RecordedRequest,
  body: unknown,
  signal: AbortSignal,
) => Promise<'answered' | 'cut'>;

/** Answers with the client watched: when it goes away, the answer stops and the record says so. */
async function answerRecorded(exchange: Exchange, path: string, answer: Answer): Promise<void> {
  const { request, response, recorder } = exchange;
  const record = recorder.begin(path);
  const gone = new AbortController();
  response.on('close', () => {
    if (response.writableFinished) return;
    recorder.end(record, 'aborted');
    gone.abort();
  });
  try {
    const { value, bytes } = await readBody(request);
    recorder.keepBody(record, value, bytes);
    recorder.end(record, await answer(exchange, record, value, gone.signal));
  } catch (error) {
    if (gone.signal.aborted) return;
    recorder.end(record, 'failed');
    record.status = error instanceof ProtocolError ? error.status : 500;
    throw error;
  }
}

const answerChat: Answer = async ({ response, director, recorder }, record, body, signal) => {
  const request = parseBody(chatRequest, body);
  const messages = readMessages(request);
  await misbehave(director, '/chat/completions', request.model, signal);
  const entry = director.takeScriptEntry(request, messages);
  if (entry?.delayMs) await delay(entry.delayMs, undefined, { signal });
  const said = entry ? playScriptEntry(entry) : reply(request, messages);
  const created = Math.floor(Date.now() / 1_000);
  const completion = complete(request, messages, said, record.number, created);
  record.status = 200;
  if (!request.stream) {
    sendJson(response, 200, toBody(completion));
    return 'answered';
  }
  const includesUsage = request.stream_options?.include_usage === true;
  const isWhole = await stream(response, completion, includesUsage, director.behaviour(), entry, signal);
  if (!isWhole) {
    recorder.end(record, 'cut');
    // A comment, for its callback: what was written so far must have left before the connection is broken.
    response.write(': cut\n\n', () => response.destroy());
  }
  return isWhole ? 'answered' : 'cut';
};

/** Writes the answer piece by piece; false when the behaviour asks to break off. */
async function stream(
  response: ServerResponse,
  completion: Completion,
  includesUsage: boolean,
  behaviour: Behaviour,
  entry: ScriptEntry | null,
  signal: AbortSignal,
): Promise<boolean> {
  const tokenDelayMs = entry?.tokenDelayMs ?? behaviour.tokenDelayMs ?? 0;
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
  let tokensLeft = behaviour.cutAfterTokens ?? Number.POSITIVE_INFINITY;
  for (const { isToken, chunk } of toChunks(completion, includesUsage)) {
    signal.throwIfAborted();
    if (isToken && tokensLeft === 0) return false;
    if (isToken) tokensLeft -= 1;
    if (isToken && tokenDelayMs > 0) await delay(tokenDelayMs, undefined, { signal });
    if (!response.write(`data: ${JSON.stringify(chunk)}\n\n`)) {
      await once(response, 'drain', { signal: AbortSignal.any([signal, AbortSignal.timeout(DRAIN_DEADLINE_MS)]) });
    }
  }
  response.end('data: [DONE]\n\n');
  return true;
}

const answerEmbeddings: Answer = async ({ response, director }, record, body, signal) => {
  const request = parseBody(embeddingRequest, body);
  await misbehave(director, '/embeddings', request.model, signal);
  const texts = [request.input].flat();
  const data = texts.map((text, index) => {
    const vector = embed(text, request.dimensions ?? undefined);
    return { object: 'embedding', index, embedding: request.encoding_format === 'base64' ? toBase64(vector) : vector };
  });
  const tokens = countTokens(texts);
  record.status = 200;
  sendJson(response, 200, {
    object: 'list',
    data,
    model: EMBEDDING_MODEL_ID,
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  });
  return 'answered';
};

async function misbehave(director: Director, path: string, model: string, signal: AbortSignal): Promise<void> {
  director.admit(path, model);
  const { hang, delayMs } = director.behaviour();
  if (delayMs) await delay(delayMs, undefined, { signal });
  if (hang) await once(signal, 'abort');
  signal.throwIfAborted();
}

/** Reads a JSON body; throws a ProtocolError when it's none, too long, or too slow to come. */
async function readBody(request: IncomingMessage): Promise<{ value: unknown; bytes: number }> {
  const parts: Buffer[] = [];
  let bytes = 0;
  const tooSlow = setTimeout(() => request.destroy(), BODY_DEADLINE_MS);
  try {
    for await (const part of request as AsyncIterable<Buffer>) {
      bytes += part.length;
      if (bytes > LARGEST_BODY_BYTES) throw new ProtocolError(413, 'The request is too large.');
      parts.push(part);
    }
  } finally {
    clearTimeout(tooSlow);
  }
  try {
    return { value: JSON.parse(Buffer.concat(parts).toString('utf8')) as unknown, bytes };
  } catch {
    throw new ProtocolError(400, 'We could not parse the JSON body of your request.');
  }
}

function sendJson(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', ...headers });
  response.end(JSON.stringify(body));
}

function sendError(response: ServerResponse, error: unknown): void {
  if (response.headersSent || response.destroyed) {
    response.destroy();
    return;
  }
  const failure = error instanceof ProtocolError ? error : new ProtocolError(500, 'The offline model failed.');
  sendJson(response, failure.status, failure.toBody(), failure.headers);
}
