import { startChild } from './child.ts';

export interface LoadOptions {
  readonly url: string;
  /** Each sends its next request when it has the answer to the one before. */
  readonly connections: number;
  readonly until: { readonly seconds: number } | { readonly requests: number };
  /** Sent in this order, over and over. */
  readonly requests: readonly { readonly token: string; readonly body: string }[];
}

export interface LoadResult {
  readonly requests: number;
  readonly seconds: number;
  /** Latencies in milliseconds, as the client sees them. */
  readonly p50: number;
  readonly p99: number;
}

/** Makes HTTP requests from a process of its own. */
export interface LoadGenerator {
  /** @throws Error when an answer is not 200 or tells of errors */
  run(options: LoadOptions): Promise<LoadResult>;
  stop(): Promise<void>;
}

/** Longest time beyond the wanted one, in milliseconds. */
const patience = 60_000;

/** Starts the process that makes the requests. */
export async function startLoadGenerator(): Promise<LoadGenerator> {
  const child = await startChild<null>(new URL('load-process.ts', import.meta.url), null);
  return {
    run: (options) =>
      child.ask('load', options, ('seconds' in options.until ? options.until.seconds * 1_000 : 0) + patience),
    stop: () => child.stop(),
  };
}
