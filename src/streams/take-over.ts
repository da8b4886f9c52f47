import type { IncomingMessage, ServerResponse } from 'node:http';

const events = ['close', 'finish', 'error'] as const;

/** How many listeners a response had when GraphQL was given it. */
export type EarlierListeners = Readonly<Record<(typeof events)[number], number>>;

export function countListeners(response: ServerResponse): EarlierListeners {
  return {
    close: response.listenerCount('close'),
    finish: response.listenerCount('finish'),
    error: response.listenerCount('error'),
  };
}

/**
 * Lets go of what the answering of a request left at its response and its body. A stream may last for hours, and each such
 * listener holds the whole request with everything that was made of it: three times what the connection itself needs.
 */
export function dropLaterListeners(
  request: IncomingMessage,
  response: ServerResponse,
  earlier: EarlierListeners,
): void {
  for (const event of events) {
    for (const listener of response.rawListeners(event).slice(earlier[event])) {
      response.removeListener(event, listener as () => void);
    }
  }
  if (request.complete) {
    // Its body was read to the end; without a listener, no error of it is told to anyone.
    request.removeAllListeners();
  }
}
