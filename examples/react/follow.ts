import type { EventsSubscription, StreamEndReason } from './generated/graphql.ts';

export type Event = EventsSubscription['events'];

/** Where the stream stands, for the user to see. */
export type Connection =
  | { state: 'connecting' }
  | { state: 'live' }
  | { state: 'waiting'; reason: string }
  /** The service refuses: trying again would change nothing. */
  | { state: 'refused'; reason: string };

/** What one connection tells. `ended` comes once, with `isFinal` when another attempt would fail as well. */
export interface Sink {
  event(event: Event): void;
  ended(reason: string, isFinal: boolean): void;
}

/** Opens one connection behind a cursor; the function that it returns closes it. */
export type Subscribe = (after: string | undefined, sink: Sink) => () => void;

export interface Follower {
  /** Ends a pause early, as when the network is back. */
  retryNow(): void;
  stop(): void;
}

/** The service sends a heartbeat every 15 seconds: after three of them without one the connection is dead. */
const silenceLimit = 45_000;
const firstPause = 250;
const longestPause = 10_000;

/** All events, each one once, over as many connections as it takes. */
export function follow(
  subscribe: Subscribe,
  show: { event(event: Event): void; connection(connection: Connection): void },
): Follower {
  let after: string | undefined;
  let failures = 0;
  let close = (): void => undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let isWaiting = false;

  const open = (): void => {
    let isOver = false;
    isWaiting = false;
    const end = (reason: string, isFinal: boolean, leastPause = 0): void => {
      if (isOver) {
        return;
      }
      isOver = true;
      clearTimeout(timer);
      close();
      if (isFinal) {
        show.connection({ state: 'refused', reason });
        return;
      }
      show.connection({ state: 'waiting', reason });
      isWaiting = true;
      timer = setTimeout(open, Math.max(leastPause, pauseAfter(failures, Math.random())));
      failures += 1;
    };
    const watch = (): void => {
      clearTimeout(timer);
      timer = setTimeout(() => end(`nothing came for ${silenceLimit / 1000} seconds`, false), silenceLimit);
    };
    watch();
    const closeThis = subscribe(after, {
      event: (event) => {
        if (!isOver) {
          watch();
          failures = 0;
          after = event.cursor;
          if (event.__typename === 'StreamEnded') {
            end(reasons[event.reason], event.reason === 'TOKEN_EXPIRED', event.reconnectAfter ?? 0);
          } else {
            show.connection({ state: 'live' });
            show.event(event);
          }
        }
      },
      ended: (reason, isFinal) => end(reason, isFinal),
    });
    close = () => {
      isOver = true;
      closeThis();
    };
    if (isOver) {
      closeThis();
    }
  };

  show.connection({ state: 'connecting' });
  open();
  return {
    retryNow: () => {
      if (isWaiting) {
        clearTimeout(timer);
        open();
      }
    },
    stop: () => {
      isWaiting = false;
      clearTimeout(timer);
      close();
    },
  };
}

/**
 * Milliseconds to wait after so many failures in a row: exponential, with full jitter, so that clients that lost the same
 * server don't come back together. `random` is from 0 to 1.
 */
export function pauseAfter(failures: number, random: number): number {
  return random * Math.min(longestPause, firstPause * 2 ** failures);
}

const reasons: Record<StreamEndReason, string> = {
  SHUTDOWN: 'the service restarts',
  TOKEN_EXPIRED: 'the token has ended: sign in with a new one',
  TOO_SLOW: 'events came faster than they were read',
};

/** Codes of failures that pass by themselves. */
const passing = new Set<unknown>(['SERVICE_BUSY', 'INTERNAL', 'STREAM_LIMIT', 'RATE_LIMITED']);

/** Whether trying again may help against these errors of GraphQL or this HTTP status. */
export function willPass(
  status: number | undefined,
  errors: readonly { extensions?: Record<string, unknown> }[],
): boolean {
  if (errors.length > 0) {
    return errors.every(({ extensions }) => passing.has(extensions?.['code']));
  }
  return status === undefined || status === 429 || status < 400 || status >= 500;
}
