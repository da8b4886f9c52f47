import { lookup as systemLookup } from 'node:dns/promises';
import type { LookupFunction } from 'node:net';
import { Agent, type Response as Answer, buildConnector, type Dispatcher, fetch as send } from 'undici';
import { DomainError } from '../errors.ts';
import { isAddress, isPublicAddress } from './outgoing-address.ts';

export interface OutgoingRequest {
  url: string;
  method: string;
  /** May hold credentials: they are not sent on when a redirect leads to another origin. */
  headers?: Readonly<Record<string, string>>;
  body?: string | undefined;
  /** Media types that are taken, such as `text/html`, `text/*` or `application/*+json`. */
  accepts: readonly string[];
  /** Longest time for the whole exchange, redirects included, in milliseconds; never more than 30 s. */
  timeout: number;
  signal: AbortSignal;
}

export interface OutgoingAnswer {
  /** Where the answer came from, behind all redirects. */
  url: string;
  status: number;
  /** Media type in lower case, without parameters. */
  mediaType: string;
  text: string;
}

/** The only way by which tools leave the service. */
export interface Outgoing {
  /**
   * Sends a request to a public address and reads the whole answer, of any status.
   * @throws DomainError OUTGOING_REFUSED, OUTGOING_FAILED; the signal's own reason when it fired
   */
  request(request: OutgoingRequest): Promise<OutgoingAnswer>;
  /**
   * `fetch` under the same guard, for clients that bring their protocol: it follows no redirect and bounds each answer.
   * @throws DomainError OUTGOING_REFUSED, OUTGOING_FAILED
   */
  fetch(url: string | URL, init?: RequestInit): Promise<Response>;
  /** Whether requests to this URL may be tried at all. @throws DomainError OUTGOING_REFUSED with the reason */
  checkUrl(url: string): URL;
  close(): Promise<void>;
}

export interface OutgoingOptions {
  /** Origins that may be reached whatever their address and scheme. For development. */
  allowedOrigins: readonly string[];
  /** Finds the addresses of a name; the machine's own way when left out. */
  resolve?: (hostname: string) => Promise<{ address: string; family: number }[]>;
}

/** Most bytes of an answer, decompressed. */
export const longestAnswer = 1_048_576;
/** Longest exchange, in milliseconds. */
export const longestExchange = 30_000;
const connectTimeout = 10_000;
const mostRedirects = 3;
const longestUrl = 8_192;
const redirects = new Set([301, 302, 303, 307, 308]);

/** Whether a name resolves to nothing or to an inner address is told alike: it would tell what exists inside. */
const noPublicAddress = 'The host has no public address.';

class NotPublicError extends Error {}

/** Builds the guard. Connections are not kept: each request looks its host up, and each connection is checked, anew. */
export function createOutgoing(options: OutgoingOptions): Outgoing {
  const allowed = new Set(options.allowedOrigins);
  const resolve = options.resolve ?? ((hostname) => systemLookup(hostname, { all: true }));
  const settings = {
    pipelining: 0,
    headersTimeout: longestExchange,
    bodyTimeout: longestExchange,
    maxHeaderSize: 16_384,
  } as const;
  const guarded = new Agent({ ...settings, connect: guardedConnector(resolve) });
  const open = new Agent({ ...settings, connect: { timeout: connectTimeout } });
  const checkUrl = (url: string): URL => parseUrl(url, allowed);
  const dispatcherFor = (url: URL): Dispatcher => (allowed.has(url.origin) ? open : guarded);

  return {
    checkUrl,
    request: (request) => exchange(request, checkUrl, dispatcherFor),
    fetch: async (url, init = {}) => guardedFetch(checkUrl(String(url)), init, dispatcherFor),
    close: async () => {
      await Promise.all([guarded.destroy(), open.destroy()]);
    },
  };
}

function parseUrl(text: string, allowed: ReadonlySet<string>): URL {
  const url = text.length <= longestUrl ? URL.parse(text) : null;
  if (url === null) {
    throw refused('The URL is not valid.');
  }
  if (url.username !== '' || url.password !== '') {
    throw refused('A URL may hold no user name and password.');
  }
  if (allowed.has(url.origin)) {
    return url;
  }
  if (url.protocol !== 'https:') {
    throw refused('Only https:// URLs are allowed.');
  }
  // Ports of other well-known services: TLS to them is no use, but a way to feel out what answers.
  if (url.port !== '' && Number(url.port) < 1_024) {
    throw refused('The port of the URL is not allowed.');
  }
  if (isAddress(url.hostname) && !isPublicAddress(url.hostname)) {
    throw refused(noPublicAddress);
  }
  return url;
}

/** Every address of a name must be public, and so must be the one that the connection then has. */
function guardedConnector(resolve: NonNullable<OutgoingOptions['resolve']>): buildConnector.connector {
  const lookup: LookupFunction = (hostname, options, callback) => {
    resolve(hostname).then(
      (found) => {
        const [first] = found;
        if (first === undefined || !found.every(({ address }) => isPublicAddress(address))) {
          callback(new NotPublicError(), '', 4);
        } else if (options.all === true) {
          callback(null, found);
        } else {
          callback(null, first.address, first.family);
        }
      },
      () => callback(new NotPublicError(), '', 4),
    );
  };
  const connect = buildConnector({ timeout: connectTimeout, lookup });
  return (target, callback) =>
    connect(target, (...[error, socket]) => {
      if (error !== null) {
        callback(error, null);
      } else if (isPublicAddress(socket.remoteAddress ?? '')) {
        callback(null, socket);
      } else {
        socket.destroy();
        callback(new NotPublicError(), null);
      }
    });
}

async function exchange(
  request: OutgoingRequest,
  checkUrl: (url: string) => URL,
  dispatcherFor: (url: URL) => Dispatcher,
): Promise<OutgoingAnswer> {
  const limit = AbortSignal.timeout(Math.min(request.timeout, longestExchange));
  const signal = AbortSignal.any([request.signal, limit]);
  let url = checkUrl(request.url);
  let { method, body } = request;
  let own = request.headers ?? {};
  try {
    for (let redirect = 0; ; redirect += 1) {
      const headers = { 'user-agent': 'retinue', ...own, accept: request.accepts.join(', ') };
      const answer = await send(url, {
        method,
        headers,
        ...(body === undefined ? {} : { body }),
        redirect: 'manual',
        dispatcher: dispatcherFor(url),
        signal,
      });
      const location = redirects.has(answer.status) ? answer.headers.get('location') : null;
      if (location === null) {
        return { url: url.href, status: answer.status, ...(await readAnswer(answer, request.accepts)) };
      }
      await answer.body?.cancel();
      if (redirect === mostRedirects) {
        throw refused(`The answer is redirected more than ${mostRedirects} times.`);
      }
      const next = checkUrl(URL.parse(location, url)?.href ?? location);
      if (answer.status === 303 || (method === 'POST' && answer.status < 303)) {
        method = 'GET';
        body = undefined;
        own = withoutContent(own);
      }
      if (next.origin !== url.origin) {
        if (body !== undefined) {
          throw refused('The request is redirected to another origin, which may not get its content.');
        }
        // Any header may hold a secret, and once dropped they stay so.
        own = {};
      }
      url = next;
    }
  } catch (error) {
    if (request.signal.aborted) {
      throw request.signal.reason;
    }
    throw toDomainError(error, limit.aborted);
  }
}

function withoutContent(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !name.toLowerCase().startsWith('content-')));
}

async function readAnswer(answer: Answer, accepts: readonly string[]): Promise<{ mediaType: string; text: string }> {
  const type = answer.headers.get('content-type') ?? '';
  const mediaType = type.split(';')[0]?.trim().toLowerCase() ?? '';
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of bounded(answer)) {
    size += piece.byteLength;
    if (!accepts.some((pattern) => fits(mediaType, pattern))) {
      // Nothing is refused for the type of nothing.
      await answer.body?.cancel().catch(() => undefined);
      throw refused(`The answer is of the type ${describeType(mediaType)}, which is not taken here.`);
    }
    pieces.push(piece);
  }
  return { mediaType, text: decode(Buffer.concat(pieces, size), /charset="?([\w.:-]+)/i.exec(type)?.[1]) };
}

/** The pieces of an answer, up to the size that an answer may have. */
async function* bounded(answer: Pick<Answer, 'headers' | 'body'>): AsyncGenerator<Uint8Array> {
  const tooLarge = (): DomainError => refused(`The answer has more than ${longestAnswer} bytes.`);
  if (Number(answer.headers.get('content-length') ?? 0) > longestAnswer) {
    await answer.body?.cancel();
    throw tooLarge();
  }
  let size = 0;
  for await (const piece of answer.body ?? []) {
    size += piece.byteLength;
    if (size > longestAnswer) {
      throw tooLarge();
    }
    yield piece;
  }
}

async function guardedFetch(url: URL, init: RequestInit, dispatcherFor: (url: URL) => Dispatcher): Promise<Response> {
  const limit = AbortSignal.timeout(longestExchange);
  const caller = init.signal ?? null;
  const signal = caller === null ? limit : AbortSignal.any([caller, limit]);
  const fail = (error: unknown): unknown =>
    caller?.aborted === true ? caller.reason : toDomainError(error, limit.aborted);
  try {
    const answer = await send(url, {
      method: init.method ?? 'GET',
      headers: { 'user-agent': 'retinue', ...Object.fromEntries(new Headers(init.headers)) },
      ...(typeof init.body === 'string' ? { body: init.body } : {}),
      redirect: 'manual',
      dispatcher: dispatcherFor(url),
      signal,
    });
    if (redirects.has(answer.status)) {
      await answer.body?.cancel();
      throw refused('The answer is a redirect, which is not followed here.');
    }
    const pieces = bounded(answer);
    const body = new ReadableStream<Uint8Array>({
      pull: async (controller) => {
        try {
          const { done, value } = await pieces.next();
          if (done === true) {
            controller.close();
          } else {
            controller.enqueue(value);
          }
        } catch (error) {
          controller.error(fail(error));
        }
      },
      cancel: async () => {
        await pieces.return(undefined);
      },
    });
    const hasBody = answer.body !== null;
    return new Response(hasBody ? body : null, { status: answer.status, headers: Object.fromEntries(answer.headers) });
  } catch (error) {
    throw fail(error);
  }
}

function fits(mediaType: string, pattern: string): boolean {
  const [start = '', end = ''] = pattern.split('*');
  return pattern.includes('*') ? mediaType.startsWith(start) && mediaType.endsWith(end) : mediaType === pattern;
}

function describeType(mediaType: string): string {
  return /^[\w.+/-]{1,80}$/.test(mediaType) ? mediaType : 'unknown';
}

function decode(bytes: Buffer, charset = 'utf-8'): string {
  try {
    return new TextDecoder(charset).decode(bytes);
  } catch {
    return new TextDecoder().decode(bytes);
  }
}

function refused(message: string): DomainError {
  return new DomainError('OUTGOING_REFUSED', message);
}

/** What the network says may name inner hosts and addresses, so that only its kind is told. */
function toDomainError(error: unknown, isLate: boolean): DomainError {
  if (error instanceof DomainError) {
    return error;
  }
  const causes = [error, error instanceof Error ? error.cause : undefined];
  if (causes.some((cause) => cause instanceof NotPublicError)) {
    return refused(noPublicAddress);
  }
  const message = isLate ? 'The other side did not answer in time.' : 'The other side could not be reached.';
  return new DomainError('OUTGOING_FAILED', message, { cause: error });
}
