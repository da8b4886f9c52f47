import { AsyncLocalStorage } from 'node:async_hooks';
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { Agent, type Dispatcher, interceptors } from 'undici';

export interface EventStreamOptions {
  url: URL;
  apiKey: string;
  /** Longest wait for the head of an answer, redirects included, in milliseconds. */
  connectTimeout: number;
  /** Longest silence between two events, in milliseconds. Comments are silence: they say nothing of the model. */
  idleTimeout: number;
}

export interface EventStreamRequest {
  /** JSON. */
  body: string;
  /** Ends the exchange at once, wherever it is. */
  signal: AbortSignal;
  /** Called when the endpoint begins an answer that is no refusal. */
  onArrival?: () => void;
  /** Takes the data of one event, in the caller's async context; false when no more is wanted. */
  onData: (data: string) => boolean;
}

/** Most characters of one event: the longest answer in a single one, each character written as `\uXXXX`, is shorter. */
const longestEvent = 3_000_000;
/** What may follow behind the last thing of interest, in bytes and milliseconds, before its connection is given up. */
const longestRest = 65_536;
const restTimeout = 1_000;
const mostRedirects = 3;

/** The endpoint answered with a status that is no success. Its text is left out: it may quote the prompt. */
export class HttpStatusError extends Error {
  override name = 'HttpStatusError';
  readonly status: number;
  readonly retryAfter: string | null;

  constructor(status: number, retryAfter: string | null) {
    super(`the endpoint answered with HTTP ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/**
 * Builds a client for answers that come as Server-Sent Events and end with `[DONE]`, as in OpenAI's protocol. It keeps
 * connections for the next request; idle ones hold no process alive.
 * @returns a function that resolves when the answer ended or no more was wanted; it rejects with HttpStatusError, the
 * signal's reason, or what went wrong on the way or in `onData`
 */
export function createEventStreamClient(options: EventStreamOptions): (request: EventStreamRequest) => Promise<void> {
  const { url, apiKey } = options;
  // The time is kept by the exchange, which also knows of events.
  const agent = new Agent({ headersTimeout: 0, bodyTimeout: 0 });
  const dispatcher = agent.compose(interceptors.redirect({ maxRedirections: mostRedirects }));
  const target = { origin: url.origin, path: `${url.pathname}${url.search}`, method: 'POST' } as const;
  const headers = {
    authorization: `Bearer ${apiKey}`,
    'content-type': 'application/json',
    accept: 'text/event-stream, application/json',
    // Compression holds events back and costs more than it saves on pieces this small.
    'accept-encoding': 'identity',
    'user-agent': 'retinue',
  };
  return async (request) => {
    request.signal.throwIfAborted();
    const exchange = new Exchange(options, request);
    dispatcher.dispatch({ ...target, headers, body: request.body }, exchange);
    await exchange.result;
  };
}

/**
 * One request and its answer. Events are handled as their bytes arrive: a stream in between would cost as much again.
 * The result may be known before the connection is free; what is left then is let out or cut off.
 */
class Exchange implements Dispatcher.DispatchHandler {
  readonly result: Promise<void>;
  readonly #resolve: () => void;
  readonly #reject: (reason: unknown) => void;
  readonly #request: EventStreamRequest;
  readonly #idleTimeout: number;
  // Bytes arrive in the context of whoever opened the connection.
  readonly #inContext = AsyncLocalStorage.snapshot();
  readonly #decoder = new TextDecoder();
  readonly #parser = createParser({
    maxBufferSize: longestEvent,
    onEvent: (event) => this.#take(event),
    onError: (error) => {
      if (error.type === 'max-buffer-size-exceeded') {
        this.#fail(error);
      }
    },
  });
  readonly #onAbort = (): void => this.#fail(this.#request.signal.reason);
  #timer: NodeJS.Timeout;
  #controller: Dispatcher.DispatchController | null = null;
  #refusal: HttpStatusError | null = null;
  #isSettled = false;
  #isCut = false;
  #rest = 0;

  constructor({ connectTimeout, idleTimeout }: EventStreamOptions, request: EventStreamRequest) {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.result = promise;
    this.#resolve = resolve;
    this.#reject = reject;
    this.#request = request;
    this.#idleTimeout = idleTimeout;
    this.#timer = setTimeout(() => this.#fail(new Error('no answer began in time')), connectTimeout);
    request.signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Called again for each redirect. */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#isCut) {
      this.#cut();
    }
  }

  /** Called for interim answers as well. */
  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: Readonly<Record<string, string | string[] | undefined>>,
  ): void {
    if (status < 200) {
      return;
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fail(new Error('the answer fell silent')), this.#idleTimeout);
    const encoding = headers['content-encoding'] ?? 'identity';
    if (status > 299) {
      this.#refusal = new HttpStatusError(status, headers['retry-after']?.toString() ?? null);
    } else if (encoding !== 'identity') {
      this.#fail(new Error('the answer is compressed, which was not asked for'));
    } else {
      this.#inContext(() => this.#request.onArrival?.());
    }
  }

  onResponseData(_controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (!this.#isSettled && this.#refusal === null) {
      this.#read(this.#decoder.decode(chunk, { stream: true }));
      return;
    }
    this.#rest += chunk.length;
    if (this.#rest > longestRest) {
      this.#fail(new Error('more came than is of interest'));
    }
  }

  onResponseEnd(): void {
    if (!this.#isSettled && this.#refusal === null) {
      // Some endpoints leave out the empty line behind the last event.
      this.#read(`${this.#decoder.decode()}\n\n`);
    }
    if (this.#refusal === null) {
      this.#settle(this.#resolve);
    } else {
      this.#settle(() => this.#reject(this.#refusal));
    }
    clearTimeout(this.#timer);
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#fail(error);
  }

  #read(text: string): void {
    try {
      this.#inContext(() => this.#parser.feed(text));
    } catch (error) {
      this.#fail(error);
    }
  }

  #take({ event, data }: EventSourceMessage): void {
    if (this.#isSettled) {
      return;
    }
    this.#timer.refresh();
    if (data === '[DONE]') {
      this.#settle(this.#resolve);
      this.#timer = setTimeout(() => this.#cut(), restTimeout);
    } else if (event === 'error') {
      throw new Error('the answer ended with an error');
    } else if (!this.#request.onData(data)) {
      this.#settle(this.#resolve);
      this.#cut();
    }
  }

  #fail(error: unknown): void {
    this.#settle(() => this.#reject(this.#refusal ?? error));
    this.#cut();
  }

  #settle(tell: () => void): void {
    if (!this.#isSettled) {
      this.#isSettled = true;
      clearTimeout(this.#timer);
      this.#request.signal.removeEventListener('abort', this.#onAbort);
      tell();
    }
  }

  /** Breaks the connection: at once, or as soon as there is one. */
  #cut(): void {
    clearTimeout(this.#timer);
    this.#isCut = true;
    this.#controller?.abort(new Error('the exchange was ended'));
  }
}
