import { GraphQLError, type GraphQLErrorExtensions } from 'graphql';
import type { Log } from './adapters/log.ts';
import { isPassingFault } from './adapters/postgres.ts';
import { DomainError, type ErrorCode, errorCodes } from './errors.ts';
import { OperationClosedError } from './operation.ts';

/** Longest message that repeats what a request said, in characters: fifty refusals must not repeat a megabyte each. */
const longestMessage = 1_000;

/**
 * What a client may know of a fault: GraphQL's own refusals and domain errors keep their message and get a code of
 * `errorCodes`; a database that is away for a moment is SERVICE_BUSY; everything else is logged and told as INTERNAL.
 */
export function toClientError(error: unknown, log: () => Log, traceId: string): GraphQLError {
  const located = error instanceof GraphQLError ? error : null;
  const cause = located?.originalError ?? error;
  if (cause instanceof DomainError) {
    return fromDomainError(cause, located);
  }
  if (located !== null && isRefusal(located)) {
    return fromRefusal(located);
  }
  if (isPassingFault(cause) || isAborted(cause)) {
    log().warn({ err: cause }, 'the database was away or out of capacity, or this process is stopping');
    const busy = new DomainError('SERVICE_BUSY', 'The service is busy. Try again shortly.', { retryAfter: 1 });
    return fromDomainError(busy, located);
  }
  if (!(cause instanceof OperationClosedError)) {
    log().error({ err: cause }, 'unexpected fault');
  }
  return new GraphQLError('An unexpected fault. Quote the trace id when you report it.', {
    ...placeOf(located),
    extensions: { code: 'INTERNAL', traceId },
  });
}

/** Whether the work was called off: the process stops, or nobody waits for the answer any more. Elsewhere it may go on. */
function isAborted(cause: unknown): boolean {
  return cause instanceof Error && cause.name === 'AbortError';
}

/** The same error with a message that is not too long. */
export function shortened(error: GraphQLError): GraphQLError {
  return error.message.length <= longestMessage
    ? error
    : new GraphQLError(short(error.message), { ...placeOf(error), extensions: error.extensions });
}

/** The same error without names of the schema that GraphQL guesses were meant. */
export function withoutSuggestion(error: GraphQLError): GraphQLError {
  const told = error.message.replace(/ Did you mean [^?]*\?/g, '');
  return told === error.message ? error : new GraphQLError(told, { ...placeOf(error), extensions: error.extensions });
}

/** The JSON body for a request that is refused before GraphQL sees it. */
export function errorBody(error: GraphQLError | DomainError): object {
  const { http: _http, ...extensions } = (error instanceof DomainError ? fromDomainError(error, null) : error)
    .extensions;
  return { errors: [{ message: error.message, extensions }] };
}

/** GraphQL refuses syntax, documents, variables and arguments with its own errors; resolvers throw others. */
function isRefusal(error: GraphQLError): boolean {
  const { originalError } = error;
  if (originalError === undefined) {
    return true;
  }
  // A value of ours that its type can't write also is a GraphQLError, but it points to no place in the document.
  return originalError instanceof GraphQLError && (error.path === undefined || originalError.nodes !== undefined);
}

function fromRefusal(error: GraphQLError): GraphQLError {
  const field = variableAtFault(error);
  return new GraphQLError(short(error.message), {
    ...placeOf(error),
    extensions:
      field === undefined
        ? { code: knownCode(error.extensions['code']), ...httpOf(error) }
        : { code: 'BAD_USER_INPUT', field, http: aboutDocument },
  });
}

/** Status of a refused document or variable: 400, or 200 for clients that take `application/json` only. */
const aboutDocument = { status: 400, spec: true };

function httpOf({ extensions }: GraphQLError): Pick<GraphQLErrorExtensions, 'http'> {
  if ('originalError' in extensions) {
    // Yoga's mark of a body that is no JSON, with a piece of it: 400 for every client, and nothing repeated.
    return { http: { status: 400 } };
  }
  return extensions.http === undefined ? {} : { http: extensions.http };
}

function knownCode(code: unknown): ErrorCode {
  if (code === 'OPERATION_RESOLUTION_FAILURE') {
    return 'BAD_REQUEST';
  }
  return typeof code === 'string' && Object.hasOwn(errorCodes, code) ? (code as ErrorCode) : 'BAD_USER_INPUT';
}

/** Which variable, or member of one, has a value that does not fit: `first`, `input.name`, `filter.states[0]`. */
function variableAtFault(error: GraphQLError): string | undefined {
  const absent = /^Variable "\$(\w+)" of (?:required|non-null) type /.exec(error.message);
  if (absent !== null) {
    return absent[1];
  }
  const variable = /^Variable "\$(\w+)" got invalid value /.exec(error.message)?.[1];
  const reason = error.originalError?.message;
  if (variable === undefined || reason === undefined) {
    return variable;
  }
  // The value itself stands in between as JSON, whose quotes are escaped, so that it can't look like the end.
  const upToReason = error.message.slice(0, -reason.length);
  const place = / at "(\w+(?:\.\w+|\[\d+\])+)"; $/.exec(upToReason)?.[1] ?? variable;
  const member = /^Field "(\w+)" (?:of required type|is not defined by type) /.exec(reason)?.[1];
  return member === undefined ? place : `${place}.${member}`;
}

function fromDomainError(error: DomainError, located: GraphQLError | null): GraphQLError {
  const { code, field, retryAfter, quota, limit } = error;
  return new GraphQLError(error.message, {
    ...placeOf(located),
    extensions: {
      code,
      ...(field === undefined ? {} : { field }),
      ...(retryAfter === undefined ? {} : { retryAfter }),
      ...(quota === undefined ? {} : { quota: { ...quota, resetsAt: quota.resetsAt?.toISOString() ?? null } }),
      ...(limit === undefined ? {} : { limit }),
      ...httpExtension(error),
    },
  });
}

function httpExtension(error: DomainError): Pick<GraphQLErrorExtensions, 'http'> {
  if (error.code === 'UNAUTHENTICATED') {
    return { http: { status: 401, headers: { 'www-authenticate': 'Bearer' } } };
  }
  if (error.code === 'SERVICE_BUSY' || error.code === 'STREAM_LIMIT') {
    const status = error.code === 'SERVICE_BUSY' ? 503 : 429;
    return { http: { status, headers: { 'retry-after': String(error.retryAfter ?? 1) } } };
  }
  if (error.code === 'OPERATION_TOO_COMPLEX' || error.code === 'OPERATION_NOT_IN_MANIFEST') {
    return { http: aboutDocument };
  }
  if (error.code === 'RATE_LIMITED') {
    // One field of several may be refused: the status stays that of the whole.
    return { http: { headers: { 'retry-after': String(error.retryAfter ?? 1) } } };
  }
  return {};
}

function placeOf(error: GraphQLError | null) {
  return error === null
    ? {}
    : {
        nodes: error.nodes ?? null,
        source: error.source ?? null,
        positions: error.positions ?? null,
        path: error.path ?? null,
      };
}

function short(message: string): string {
  return message.length <= longestMessage ? message : `${message.slice(0, longestMessage)}…`;
}
