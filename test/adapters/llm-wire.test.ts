import { AsyncLocalStorage } from 'node:async_hooks';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createDeafServer, type Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { listen } from '../../dev/listen.ts';
import { type ChatRequest, createLanguageModel, type LanguageModel } from '../../src/adapters/llm.ts';
import { DomainError } from '../../src/errors.ts';

type Answer = (response: ServerResponse, request: IncomingMessage) => unknown;

let answer: Answer;
let connections: Socket[] = [];
let origin: string;

const server = createServer((request, response) => {
  request.resume().once('end', () => answer(response, request));
});
server.on('connection', (socket) => connections.push(socket));

beforeAll(async () => {
  ({ origin } = await listen(server));
});
beforeEach(() => {
  connections = [];
});
afterEach(() => server.closeAllConnections());
afterAll(() => server.close());

function connect(settings: Partial<Parameters<typeof createLanguageModel>[0]> = {}): LanguageModel {
  return createLanguageModel({
    baseUrl: `${origin}/v1`,
    apiKey: 'a-key',
    defaultModel: 'm',
    defaultEmbeddingModel: 'm',
    connectTimeout: 60_000,
    idleTimeout: 60_000,
    ...settings,
  });
}

function ask(model: LanguageModel, more: Partial<ChatRequest> = {}, onText: (text: string) => void = () => undefined) {
  const messages = [{ role: 'user', content: 'Say something.' }] as const;
  const signal = new AbortController().signal;
  return model.chat({ model: null, temperature: null, messages, signal, ...more }, onText);
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => null,
    (error: unknown) => error,
  );
}

function piece(content: string, more: Record<string, unknown> = {}): string {
  return JSON.stringify({ model: 'm', choices: [{ index: 0, delta: { content }, finish_reason: null }], ...more });
}

const last = JSON.stringify({ choices: [{ index: 0, delta: {}, finish_reason: 'stop' }] });
const done = `data: ${last}\n\ndata: [DONE]\n\n`;
const whole = `data: ${piece('Grüße, ')}\n\ndata: ${piece('世界 🌍')}\n\n${done}`;

/** Each part is a chunk of its own, which the reader gets as such. */
function stream(...parts: (string | Uint8Array)[]): Answer {
  return (response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    for (const part of parts) {
      response.write(part);
    }
    response.end();
  };
}

/** Writes the same again and again, as fast as it is taken, until the connection is closed. */
function endless(status: number, begin: string, part: string): Answer {
  return async (response) => {
    response.writeHead(status, { 'content-type': 'text/event-stream' }).write(begin);
    while (!response.destroyed) {
      if (!response.write(part)) {
        await Promise.race([once(response, 'drain'), once(response, 'close')]);
      }
      await nextTurn();
    }
  };
}

/** Writes and then says nothing more, without an end. */
function silent(status: number, begin: string): Answer {
  return (response) => response.writeHead(status, { 'content-type': 'text/event-stream' }).write(begin);
}

async function allClosed(): Promise<void> {
  await expect.poll(() => connections.every((socket) => socket.closed), { timeout: 5_000 }).toBe(true);
}

describe('the stream of an answer', () => {
  it.each<[string, Answer]>([
    ['in one packet', stream(whole)],
    ['byte by byte', stream(...[...Buffer.from(whole)].map((byte) => Uint8Array.of(byte)))],
    ['with lines that end in CR LF', stream(whole.replaceAll('\n', '\r\n'))],
    [
      'with CR and LF in different packets',
      stream(...[...whole.replaceAll('\n', '\r\n')].map((character) => Buffer.from(character))),
    ],
    ['with a byte order mark', stream(`\uFEFF${whole}`)],
    ['with comments in between', stream(`: wait\n\n${whole.replaceAll('data:', ': wait\ndata:')}`)],
    ['with names and ids of events', stream(whole.replaceAll('data:', 'id: 1\nretry: 5\nevent: piece\ndata:'))],
    ['with events of several lines', stream(whole.replaceAll('"choices"', '\ndata: "choices"'))],
    ['with no space behind the colon', stream(whole.replaceAll('data: ', 'data:'))],
    ['with no empty line behind the last event', stream(whole.slice(0, whole.indexOf('\n\ndata: [DONE]')))],
    ['with no mark of the end', stream(whole.replace('data: [DONE]\n\n', ''))],
    ['with more behind the mark of the end', stream(`${whole}data: ${piece('!')}\n\ndata: nonsense\n\n`)],
    ['with a member for errors that is empty', stream(whole.replaceAll('"choices"', '"error":null,"choices"'))],
  ])('is read %s', async (_case, given) => {
    answer = given;
    const pieces: string[] = [];
    expect(await ask(connect(), {}, (text) => pieces.push(text))).toMatchObject({ content: 'Grüße, 世界 🌍' });
    expect(pieces).toEqual(['Grüße, ', '世界 🌍']);
  });

  it.each<[string, string, Answer]>([
    ['an error', 'MODEL_UNAVAILABLE', stream(`data: ${piece('a')}\n\ndata: {"error":{"message":"secret"}}\n\n${done}`)],
    ['an event called error', 'MODEL_UNAVAILABLE', stream(`event: error\ndata: ${piece('secret')}\n\n${done}`)],
    ['something that is no JSON', 'MODEL_UNAVAILABLE', stream(`data: secret\n\n${done}`)],
    ['nothing', 'MODEL_UNAVAILABLE', stream(`data: null\n\n${done}`)],
    ['no choices', 'MODEL_UNAVAILABLE', stream(`data: {"secret":1}\n\n${done}`)],
    ['the mark of the end in the middle', 'MODEL_UNAVAILABLE', stream(`data: ${piece('a')}\n\ndata: [DONE]\n\n`)],
    ['half an event at its end', 'MODEL_UNAVAILABLE', stream(`data: ${piece('a')}\n\ndata: {"choices":[{"ind`)],
    ['a page', 'MODEL_UNAVAILABLE', stream('<!doctype html><p>secret</p>')],
    ['a line without end', 'MODEL_UNAVAILABLE', endless(200, 'data: ', 'secret'.repeat(5_000))],
    ['an event without end', 'MODEL_UNAVAILABLE', endless(200, '', `data: ${'secret'.repeat(5_000)}\n`)],
    ['the status of a refusal', 'MODEL_REFUSED', (response) => response.writeHead(400).end('secret')],
    ['a refusal without end', 'MODEL_REFUSED', endless(403, '', 'secret'.repeat(5_000))],
  ])('that holds %s fails with a code, and nothing of it gets into the fault', async (_case, code, given) => {
    answer = given;
    const failure = await failureOf(ask(connect()));
    expect(failure).toBeInstanceOf(DomainError);
    expect(failure).toMatchObject({ code });
    const { cause } = failure as DomainError;
    expect(String(cause)).not.toContain('secret');
    expect(JSON.stringify(cause ?? null)).not.toContain('secret');
  });

  it('says so when it is compressed, which was not asked for', async () => {
    const asked: unknown[] = [];
    answer = (response, request) => {
      asked.push(request.headers['accept-encoding']);
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(gzipSync(whole));
    };
    const failure = await failureOf(ask(connect()));
    expect(asked).toEqual(['identity']);
    expect(failure).toMatchObject({
      code: 'MODEL_UNAVAILABLE',
      cause: { message: expect.stringContaining('compressed') },
    });
  });

  it.each<[string, string, Answer]>([
    ['a comment again and again', 'MODEL_UNAVAILABLE', endless(200, '', ': wait\n\n')],
    ['a piece and then nothing', 'MODEL_UNAVAILABLE', silent(200, `data: ${piece('a')}\n\n`)],
    ['half a refusal and then nothing', 'MODEL_RATE_LIMITED', silent(429, 'too m')],
  ])('that says %s is given up, and its connection is closed', async (_case, code, given) => {
    answer = given;
    expect(await failureOf(ask(connect({ idleTimeout: 500 })))).toMatchObject({ code });
    await allClosed();
  });

  it.each<[string, Answer]>([
    ['an error', silent(200, 'data: {"error":{}}\n\n')],
    ['something that is no JSON', silent(200, 'data: nonsense\n\n')],
    ['a line without end', endless(200, 'data: ', 'x'.repeat(30_000))],
    ['a refusal without end', endless(400, '', 'x'.repeat(30_000))],
  ])('that holds %s has its connection closed', async (_case, given) => {
    answer = given;
    await failureOf(ask(connect()));
    await allClosed();
  });

  it('ends at the mark of the end, though the connection stays open, which then is closed', async () => {
    answer = silent(200, whole);
    expect(await ask(connect())).toMatchObject({ content: 'Grüße, 世界 🌍' });
    await allClosed();
  });

  it.each([
    ['text', (part: string) => ({ content: part })],
    ['arguments', (part: string) => ({ tool_calls: [{ index: 0, function: { arguments: part } }] })],
    ['ids', (part: string) => ({ tool_calls: [{ index: 0, id: part }] })],
  ])('is cut off when its %s never end, and has no calls then', async (_case, delta) => {
    const part = JSON.stringify({ choices: [{ index: 0, delta: delta('x'.repeat(10_000)) }] });
    answer = endless(200, '', `data: ${part}\n\n`);
    const { content, toolCalls } = await ask(connect());
    expect(content.length).toBeLessThan(420_000);
    expect(toolCalls).toEqual([]);
    await allClosed();
  });

  it.each<[string, Answer]>([
    ['an answer', stream(whole)],
    ['a refusal', (response) => response.writeHead(429).end('{"error":{}}')],
  ])('leaves its connection to later requests after %s', async (_case, given) => {
    answer = given;
    const model = connect();
    for (let count = 0; count < 6; count += 1) {
      await failureOf(ask(model));
    }
    // The next request may come before the connection of the one before it is free.
    expect(connections.length).toBeLessThanOrEqual(2);
  });

  it('tells that it begins, unless it is a refusal or an interim answer', async () => {
    const arrivals: string[] = [];
    answer = (response) => response.writeHead(500).end();
    await failureOf(ask(connect(), { onArrival: () => arrivals.push('refusal') }));
    answer = (response, request) => {
      response.writeProcessing();
      response.writeEarlyHints({ link: '</style.css>; rel=preload' });
      stream(whole)(response, request);
    };
    await ask(connect(), { onArrival: () => arrivals.push('answer') }, (text) => arrivals.push(text));
    expect(arrivals).toEqual(['answer', 'Grüße, ', '世界 🌍']);
  });

  it('is handed out in the context of its own caller, whoever opened the connection', async () => {
    const caller = new AsyncLocalStorage<string>();
    const seen: (string | undefined)[] = [];
    const note = () => seen.push(caller.getStore());
    const model = connect();
    answer = stream(`data: ${piece('a')}\n\n${done}`);
    const names = ['one', 'two', 'three', 'four'];
    for (const name of names) {
      await caller.run(name, () => ask(model, { onArrival: note }, note));
    }
    expect(connections.length).toBeLessThan(names.length);
    expect(seen).toEqual(names.flatMap((name) => [name, name]));
  });
});

describe('the end of a call by its caller', () => {
  const reason = new Error('ended by the test');

  it.each<[string, Answer, 'request' | 'text']>([
    ['before the answer begins', () => undefined, 'request'],
    ['in the middle of it', silent(200, `data: ${piece('a')}\n\n`), 'text'],
    ['at a piece that came together with the rest', silent(200, `data: ${piece('a')}\n\n${whole}`), 'text'],
  ])('takes effect %s and closes the connection', async (_case, given, moment) => {
    const controller = new AbortController();
    const pieces: string[] = [];
    answer = (response, request) => {
      given(response, request);
      if (moment === 'request') {
        controller.abort(reason);
      }
    };
    const failure = await failureOf(
      ask(connect(), { signal: controller.signal }, (text) => {
        pieces.push(text);
        controller.abort(reason);
      }),
    );
    expect(failure).toBe(reason);
    expect(pieces).toEqual(moment === 'text' ? ['a'] : []);
    await allClosed();
  });

  it('takes effect while the connection is made', async () => {
    // It takes connections and never answers the handshake.
    const deaf = createDeafServer((socket) => connections.push(socket));
    const { port } = await listen(deaf);
    const controller = new AbortController();
    const baseUrl = `https://127.0.0.1:${port}/v1`;
    const call = failureOf(ask(connect({ baseUrl }), { signal: controller.signal }));
    await expect.poll(() => connections.length, { timeout: 5_000 }).toBe(1);
    controller.abort(reason);
    expect(await call).toBe(reason);
    connections[0]?.destroy();
    deaf.close();
  });

  it('asks for nothing when it came before the call', async () => {
    expect(await failureOf(ask(connect(), { signal: AbortSignal.abort(reason) }))).toBe(reason);
    expect(connections).toHaveLength(0);
  });
});

describe('a redirected request', () => {
  it('is sent on whole, its key only within the origin', async () => {
    const seen: (string | undefined)[] = [];
    const other = origin.replace('127.0.0.1', 'localhost');
    const targets = ['/here', `${other}/there`];
    answer = (response, request) => {
      seen.push(request.method, request.headers.authorization);
      const location = targets.shift();
      if (location === undefined) {
        stream(whole)(response, request);
      } else {
        response.writeHead(307, { location }).end();
      }
    };
    await ask(connect());
    expect(seen).toEqual(['POST', 'Bearer a-key', 'POST', 'Bearer a-key', 'POST', undefined]);
  });

  it('is a refusal in the end when it is sent on for ever', async () => {
    let count = 0;
    answer = (response) => {
      count += 1;
      response.writeHead(307, { location: `/${count}` }).end();
    };
    expect(await failureOf(ask(connect()))).toMatchObject({ code: 'MODEL_REFUSED' });
    expect(count).toBe(4);
  });
});
