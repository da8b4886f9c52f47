import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { createSourceEventStream, type ExecutionArgs, type ExecutionResult, execute, type GraphQLError } from 'graphql';
import type { Plugin } from 'graphql-yoga';
import type { Principal } from '../auth.ts';
import type { Operation } from '../operation.ts';
import type { Context } from '../schema/builder.ts';
import { type StreamItem, willPass } from '../services/event.ts';
import { EventReading } from '../services/event-reading.ts';
import type { Execute, Executed } from './delivery.ts';
import type { StreamHub, Subscription } from './hub.ts';
import { subscriptionKey } from './identity.ts';
import { SharedOperations } from './shared-operations.ts';
import { dropLaterListeners, type EarlierListeners } from './take-over.ts';

export interface StreamOptions {
  hub: StreamHub;
  openOperation: (userId: string) => Operation;
  /** The context in which an event is executed: of no request, since many are served by it. */
  contextFor: (principal: Principal, operation: Operation) => Context;
  maskError: (error: unknown, traceId: string) => GraphQLError;
}

/** What a request's context holds beside the schema's: Yoga's own. */
export type RequestContext = Context & {
  request: Request;
  req: IncomingMessage;
  res: ServerResponse;
  earlier: EarlierListeners;
  /** Lets go of what belongs to the request alone. */
  endRequest: () => void;
};

const headers = {
  'content-type': 'text/event-stream',
  // Proxies must neither keep nor gather what passes.
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
};
interface Prepared {
  subscription: Subscription;
  /** Gives back what the connection holds. */
  leave: () => void;
  endRequest: () => void;
}

/** Pauses before an execution that failed because the database was away is tried again, in milliseconds. */
const retryPauses = [100, 400, 1_600];

/**
 * Serves subscriptions: identical ones are executed once for each event and share the bytes. The request meets everything
 * that any other meets, up to the head of its response; then the response is the hub's.
 */
export function serveStreams(options: StreamOptions): Plugin {
  const { hub } = options;
  const prepared = new WeakMap<Request, Prepared>();
  const operations = new SharedOperations(options.openOperation);

  const prepare = async (args: ExecutionArgs): Promise<AsyncIterable<unknown> | ExecutionResult> => {
    const { principal, request, res, endRequest } = args.contextValue as RequestContext;
    const release = hub.reserve(principal.userId);
    let reading: EventReading | null = null;
    const leave = (): void => {
      reading?.close();
      release();
    };
    res.once('close', leave);
    const source = await createSourceEventStream(args);
    if (!(source instanceof EventReading)) {
      return source;
    }
    reading = source;
    if (res.closed) {
      leave();
    }
    const key = subscriptionKey(principal, args.document, args.operationName ?? null, args.variableValues ?? {});
    try {
      hub.checkDifferent(principal.userId, key);
    } catch (error) {
      reading.close();
      throw error;
    }
    const { userId, expiresAt } = principal;
    const subscription = { userId, key, reading, expiresAt, execute: executor(options, operations, args, principal) };
    prepared.set(request, { subscription, leave, endRequest });
    return source;
  };

  return {
    onSubscribe: ({ setSubscribeFn }) => setSubscribeFn(prepare as never),
    onResultProcess: ({ request, resultProcessor, setResultProcessor, serverContext }) => {
      const ready = prepared.get(request);
      prepared.delete(request);
      if (ready === undefined) {
        return;
      }
      if (resultProcessor === undefined) {
        // The client takes no stream.
        ready.leave();
        return;
      }
      const { req, res, earlier } = serverContext as unknown as RequestContext;
      const takeOver = (): void => handOver(hub, ready, req, res, earlier);
      setResultProcessor(
        (_result, fetchAPI) => new fetchAPI.Response(new HandedOver(takeOver) as never, { headers }),
        'text/event-stream',
      );
    },
  };
}

/** A body that is never read: the server adapter, which has written the head of the response, is sent to the hub. */
class HandedOver extends Readable {
  private readonly takeOver: () => void;

  constructor(takeOver: () => void) {
    super({ read: () => undefined });
    this.takeOver = takeOver;
  }

  override pipe<Destination extends NodeJS.WritableStream>(destination: Destination): Destination {
    this.takeOver();
    return destination;
  }
}

function handOver(
  hub: StreamHub,
  prepared: Prepared,
  request: IncomingMessage,
  response: ServerResponse,
  earlier: EarlierListeners,
): void {
  const { subscription, leave, endRequest } = prepared;
  endRequest();
  dropLaterListeners(request, response, earlier);
  response.once('close', leave);
  const { socket } = response;
  if (socket !== null) {
    hub.attach(subscription, response, socket);
  } else {
    // Another response of the same connection is still on its way.
    response.once('socket', (late) => hub.attach(subscription, response, late));
  }
}

/** Executes a subscription for one item. It never throws: a failure is a result. */
function executor(
  options: StreamOptions,
  operations: SharedOperations,
  args: ExecutionArgs,
  principal: Principal,
): Execute {
  const { schema, document, variableValues, operationName } = args;
  const once = (item: StreamItem): Promise<ExecutionResult> =>
    operations.use(principal.userId, item, async (operation) =>
      execute({
        schema,
        document,
        variableValues,
        operationName,
        rootValue: item,
        contextValue: options.contextFor(principal, operation),
      }),
    );
  return async (item) => {
    try {
      let result = await once(item);
      for (const pause of retryPauses) {
        if (!result.errors?.some((error) => willPass(error.originalError))) {
          break;
        }
        await new Promise((resolve) => setTimeout(resolve, pause));
        result = await once(item);
      }
      return describe(options, result);
    } catch (error) {
      return { text: describeFault(options.maskError, error), hasData: false };
    }
  };
}

function describe(options: StreamOptions, { data, errors }: ExecutionResult): Executed {
  if (errors === undefined) {
    return { text: JSON.stringify({ data }), hasData: true };
  }
  const told = errors.map((error) => tell(options.maskError(error, randomUUID())));
  return {
    text: JSON.stringify({ ...(data === undefined ? {} : { data }), errors: told }),
    hasData: data !== undefined && data !== null,
  };
}

/** A fault as the result that ends a stream. */
export function describeFault(maskError: StreamOptions['maskError'], error: unknown): string {
  return JSON.stringify({ errors: [tell(maskError(error, randomUUID()))] });
}

/** An error as clients see it: what says how to answer by HTTP is not for them. */
function tell(error: GraphQLError): object {
  const { http: _http, ...extensions } = error.extensions;
  return { ...error.toJSON(), extensions };
}
