import { type Agent, request as httpRequest, type IncomingMessage } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

/** How the users of one process reach the API. */
export interface Requester {
  readonly agent: Agent;
  readonly url: URL;
}

/** An event as far as the benchmark looks at it. */
export interface Item {
  readonly __typename: string;
  readonly cursor: string;
  readonly task?: { readonly id: string } | null;
}

export interface StreamReader {
  /** Resolves with the first heartbeat. */
  readonly begun: Promise<void>;
  close(): void;
}

const requestDeadline = 30_000;
const subscription = `subscription ($after: String) {
  events(after: $after) {
    __typename cursor
    ... on TaskCompleted { task { id } }
    ... on MessageCreated { message { id role content } }
    ... on MessageDelta { messageId offset text }
  }
}`;

function open(
  requester: Requester,
  options: { token: string; accept: string; body: string; timeout: number; agent: Agent | false },
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest(
      requester.url,
      {
        agent: options.agent,
        method: 'POST',
        timeout: options.timeout,
        headers: {
          'content-type': 'application/json',
          accept: options.accept,
          authorization: `Bearer ${options.token}`,
          'content-length': Buffer.byteLength(options.body),
        },
      },
      resolve,
    );
    outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer in ${options.timeout} ms`)));
    outgoing.on('error', reject);
    outgoing.end(options.body);
  });
}

/** One request. @throws Error with the code of the refusal or the fault of the connection */
export async function request(
  requester: Requester,
  token: string,
  query: string,
  variables: object = {},
  // What is asked for decides the shape of the answer.
  // biome-ignore lint/suspicious/noExplicitAny: see above
): Promise<any> {
  const response = await open(requester, {
    token,
    accept: 'application/json',
    body: JSON.stringify({ query, variables }),
    timeout: requestDeadline,
    agent: requester.agent,
  });
  const chunks: Buffer[] = [];
  for await (const chunk of response) {
    chunks.push(chunk as Buffer);
  }
  const { data, errors } = JSON.parse(Buffer.concat(chunks).toString('utf8')) as {
    data?: unknown;
    errors?: { message: string; extensions?: { code?: string } }[];
  };
  if (errors?.[0] !== undefined) {
    throw new Error(errors[0].extensions?.code ?? errors[0].message);
  }
  return data;
}

/** Pause before a stream that ended is resumed, in milliseconds. */
const resumePause = 500;

/** A user's stream of all events, over a connection of its own. One that ends is resumed from its cursor, as clients do. */
export function streamEvents(
  requester: Requester,
  token: string,
  on: { event: (item: Item) => void; lost: () => void },
): StreamReader {
  const begun = Promise.withResolvers<void>();
  let response: IncomingMessage | null = null;
  let closed = false;
  let after: string | null = null;
  const read = async (): Promise<void> => {
    response = await open(requester, {
      token,
      accept: 'text/event-stream',
      body: JSON.stringify({ query: subscription, variables: { after } }),
      // Heartbeats come more often.
      timeout: 60_000,
      agent: false,
    });
    response.setEncoding('utf8');
    let rest = '';
    for await (const chunk of response as AsyncIterable<string>) {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines.filter((one) => one.startsWith('data: {'))) {
        const item = (JSON.parse(line.slice(6)) as { data?: { events?: Item } }).data?.events;
        begun.resolve();
        if (item !== undefined) {
          after = item.cursor;
          on.event(item);
        }
      }
    }
  };
  const follow = async (): Promise<void> => {
    while (!closed) {
      await read().catch(() => undefined);
      if (!closed) {
        on.lost();
        await delay(resumePause);
      }
    }
  };
  void follow();
  return {
    begun: begun.promise,
    close: () => {
      closed = true;
      response?.destroy();
    },
  };
}
