/** How a request ended. */
export type Outcome = 'pending' | 'answered' | 'failed' | 'aborted' | 'cut';

/** A request the model got, kept so that tests can look at what was sent. */
export interface RecordedRequest {
  readonly number: number;
  /** When it came, as an ISO date. */
  readonly at: string;
  readonly path: string;
  /** Null when it was no JSON or too long to keep. */
  readonly body: unknown;
  outcome: Outcome;
  /** Null until the answer began. */
  status: number | null;
}

export interface Counters {
  readonly chat: number;
  readonly embeddings: number;
  /** Requests under way now. */
  readonly active: number;
  readonly answered: number;
  readonly failed: number;
  /** Requests whose client went away before the answer was complete. */
  readonly aborted: number;
  /** Streams broken on purpose. */
  readonly cut: number;
  /** The most requests that were ever under way at once. */
  readonly mostActive: number;
}

const KEPT_REQUESTS = 200;
const KEPT_BODY_BYTES = 1_000_000;

export interface Recorder {
  begin(path: string): RecordedRequest;
  keepBody(request: RecordedRequest, body: unknown, bytes: number): void;
  end(request: RecordedRequest, outcome: Exclude<Outcome, 'pending'>): void;
  counters(): Counters;
  recent(): readonly RecordedRequest[];
}

/** Counts all requests and keeps the newest. */
export function createRecorder(): Recorder {
  const kept: RecordedRequest[] = [];
  const counts = { chat: 0, embeddings: 0, active: 0, answered: 0, failed: 0, aborted: 0, cut: 0, mostActive: 0 };
  let number = 0;
  return {
    begin: (path) => {
      number += 1;
      const request = {
        number,
        at: new Date().toISOString(),
        path,
        body: null,
        outcome: 'pending',
        status: null,
      } as const;
      const entry: RecordedRequest = { ...request };
      kept.push(entry);
      if (kept.length > KEPT_REQUESTS) kept.shift();
      if (path === '/chat/completions') counts.chat += 1;
      if (path === '/embeddings') counts.embeddings += 1;
      counts.active += 1;
      counts.mostActive = Math.max(counts.mostActive, counts.active);
      return entry;
    },
    keepBody: (request, body, bytes) => {
      if (bytes <= KEPT_BODY_BYTES) Object.assign(request, { body });
    },
    end: (request, outcome) => {
      if (request.outcome !== 'pending') return;
      request.outcome = outcome;
      counts.active -= 1;
      counts[outcome] += 1;
    },
    counters: () => ({ ...counts }),
    recent: () => kept.map((request) => ({ ...request })),
  };
}
