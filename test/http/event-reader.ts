import { createClient } from 'graphql-sse';
import { waitFor } from '../service.ts';

/** One delivered event, with the members that its kind has. */
export interface Item {
  __typename: string;
  cursor: string;
  session?: { id: string } | null;
  status?: string;
  message?: { id: string; role: string; content: string } | null;
  messageId?: string;
  offset?: number;
  text?: string;
}

export interface EventReader {
  /** What arrived so far. */
  items: Item[];
  errors: { message: string; extensions?: Record<string, unknown> }[];
  /** How the stream ended, or null while it goes on. */
  ended(): 'complete' | Error | null;
  /** Waits for the first item that fits. */
  find(what: string, fits: (item: Item) => boolean): Promise<Item>;
  close(): void;
}

export interface EventArguments {
  after?: string | undefined;
  sessionId?: string;
  types?: string[];
}

export const eventsQuery = `subscription ($after: String, $sessionId: ID, $types: [EventType!]) {
  events(after: $after, sessionId: $sessionId, types: $types) {
    __typename cursor session { id }
    ... on AgentStatusChanged { status }
    ... on MessageCreated { message { id role content } }
    ... on MessageDelta { messageId offset text }
  }
}`;

/** Subscribes with the real client of graphql-sse, each subscription over a connection of its own. */
export function readEvents(url: string, token: string, wanted: EventArguments = {}): EventReader {
  const client = createClient({ url, headers: { authorization: `Bearer ${token}` }, retryAttempts: 0 });
  const items: Item[] = [];
  const errors: EventReader['errors'] = [];
  let ended: 'complete' | Error | null = null;
  const stop = client.subscribe<{ events: Item }>(
    { query: eventsQuery, variables: { ...wanted } },
    {
      next: ({ data, errors: failures }) => {
        if (data) {
          items.push(data.events);
        }
        errors.push(...((failures ?? []) as unknown as EventReader['errors']));
      },
      error: (error) => {
        ended ??= error instanceof Error ? error : new Error(String(error));
      },
      complete: () => {
        ended ??= 'complete';
      },
    },
  );
  return {
    items,
    errors,
    ended: () => ended,
    find: (what, fits) =>
      waitFor(what, () => {
        if (errors[0] !== undefined || ended instanceof Error) {
          throw new Error(`the stream failed: ${JSON.stringify(errors)} ${String(ended)}`);
        }
        return items.find(fits);
      }),
    close: () => {
      stop();
      client.dispose();
    },
  };
}

/** Whether an item stands in the log, so that it comes again after an earlier cursor. */
export function isLogged(item: Item): boolean {
  return !['Heartbeat', 'MessageDelta', 'HistoryLost', 'StreamEnded'].includes(item.__typename);
}
