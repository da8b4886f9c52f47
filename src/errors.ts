/** Every code that an expected failure may carry, with what it means and what the caller can do. */
export const errorCodes = {
  UNAUTHENTICATED: 'The request has no token, or a token that is malformed, expired, or not from the trusted issuer.',
  BAD_REQUEST: 'The HTTP request is not a GraphQL request: malformed JSON, a wrong media type, or a missing query.',
  BAD_USER_INPUT: 'An argument breaks a rule. `field` names it and the message says what is allowed.',
  BAD_CURSOR: 'A cursor was not made by this API for this list. Start again without it.',
  NOT_FOUND: 'There is no such thing among what the caller owns.',
  NAME_TAKEN: 'The caller already has one of that name. Choose another.',
  MESSAGE_TOO_LARGE: 'A message may have at most 100 kB of UTF-8 text.',
  SESSION_EXPIRED: 'The session is past its expiry and takes no more messages. Create a new one.',
  AGENT_QUEUE_FULL: 'The agent already has as many waiting tasks as it may have. Nothing was stored; retry later.',
  SESSION_BUSY: 'The session still has open tasks, and the busy policy of the message is REJECT. Nothing was stored.',
  NO_AGENTS: 'The team has no agent that could do anything. Create one.',
  PLAN_ENDED: 'The plan has already ended: there is nothing to cancel.',
  PLAN_NOT_RETRYABLE:
    'The plan has not ended, or nothing of it failed, or it was rejected. Send the message again instead.',
  TASK_ENDED: 'The task is completed, failed, cancelled or skipped: nothing about it can be changed any more.',
  APPROVAL_ALREADY_DECIDED: 'Somebody decided it before, you or another device of yours. Read it to see how.',
  APPROVAL_EXPIRED: 'Its time to be decided is over, which counts as declined. `requestAgain` asks anew.',
  APPROVAL_CANCELLED: 'What asked for it was cancelled, so that there is nothing to decide.',
  APPROVAL_MISMATCH: 'It asks for something else than what `argumentsHash` says you were shown. Read it again.',
  MEMORY_INDEX_UNAVAILABLE:
    'The index of the memory is away. Text is stored all the same and found by words; what waits for the index goes on by itself.',
  MODEL_UNAVAILABLE: 'The model did not answer in time or could not be reached.',
  MODEL_RATE_LIMITED: 'The model provider refuses more requests for now.',
  MODEL_BUSY:
    'More calls wait for the model than it can take in time. Nothing was sent to it; retry after `retryAfter` seconds.',
  MODEL_REFUSED:
    'The model provider rejected the request: a wrong key, an unknown model, or a prompt it does not take.',
  TASK_TIMED_OUT: 'The task took longer than a task may take.',
  TURN_LIMIT_REACHED: 'The model went on calling tools beyond the turns that an agent has, and gave no answer.',
  TASK_ABANDONED: 'Workers stopped again and again while they ran this task, so it is not tried any more.',
  TOOL_FAILED: 'A tool could not do what it was asked for; the message says why.',
  OUTGOING_REFUSED:
    'A tool may not reach that address, or may not take what it answered: it is not public, too large, of another type, or redirected too often.',
  OUTGOING_FAILED: 'What a tool wanted to reach could not be reached or did not answer in time.',
  SECRETS_UNAVAILABLE:
    'Secrets can not be kept or opened: the service has no key for them. Set them again, or tell who runs the service.',
  IDEMPOTENCY_KEY_REUSED: 'The Idempotency-Key was used before for a different request. Use a new key.',
  RATE_LIMITED: 'Too many requests in a minute, or too many of a costly kind. Retry after `retryAfter` seconds.',
  QUOTA_EXCEEDED:
    'A quota of the caller is used up. `quota` names it, with its limit, what is used, and when it starts anew.',
  OPERATION_TOO_COMPLEX: 'The document asks too much at once. `limit` names what: tokens, depth, aliases or cost.',
  OPERATION_NOT_IN_MANIFEST: 'This service runs only operations that its operators listed. Send the id of one of them.',
  PAYLOAD_TOO_LARGE: 'The request body is larger than the service accepts.',
  SERVICE_BUSY: 'The service has no capacity right now. Retry after `retryAfter` seconds.',
  STREAM_LIMIT:
    'You have as many event streams open as you may have. `quota` tells which limit. Close some, or retry later.',
  GRAPHQL_PARSE_FAILED: 'The document is not valid GraphQL syntax.',
  GRAPHQL_VALIDATION_FAILED: 'The document does not fit the schema.',
  INTERNAL: 'An unexpected fault. It is logged under `traceId`; quote that when you report it.',
} as const;

export type ErrorCode = keyof typeof errorCodes;

export interface QuotaDetails {
  name: string;
  limit: number;
  used: number;
  /** When what is used starts anew; null for what only goes down when something is removed. */
  resetsAt: Date | null;
}

export interface ErrorDetails {
  /** Path of the argument at fault, such as `input.name`. */
  field?: string;
  /** Whole seconds after which a retry may succeed. */
  retryAfter?: number;
  /** The quota that was reached. */
  quota?: QuotaDetails;
  /** The limit that a document broke. */
  limit?: { name: string; most: number; asked?: number };
  cause?: unknown;
}

/** An expected failure: its code and message are meant for the caller, so they never hold another user's data. */
export class DomainError extends Error {
  readonly code: ErrorCode;
  readonly field: string | undefined;
  readonly retryAfter: number | undefined;
  readonly quota: QuotaDetails | undefined;
  readonly limit: ErrorDetails['limit'];

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'DomainError';
    this.code = code;
    this.field = details.field;
    this.retryAfter = details.retryAfter;
    this.quota = details.quota;
    this.limit = details.limit;
  }
}

/** The answer for an id that the caller does not own, whether it exists or not. */
export function notFound(noun: string, field?: string): DomainError {
  return new DomainError('NOT_FOUND', `No such ${noun}.`, field === undefined ? {} : { field });
}

/** The answer for an argument that breaks a rule. */
export function badInput(field: string, message: string): DomainError {
  return new DomainError('BAD_USER_INPUT', message, { field });
}
