import { Worker } from 'node:worker_threads';
import { DomainError } from '../errors.ts';

/** A page without what surrounds its content. */
export interface ReadablePage {
  title: string;
  /** Its content as Markdown. */
  text: string;
}

/** Reads pages in threads, so that one that is made to be slow or huge holds up nobody else. */
export interface PageReader {
  /** @throws DomainError TOOL_FAILED when the page can't be read in time; the signal's own reason when it fired */
  read(html: string, url: string, signal: AbortSignal): Promise<ReadablePage>;
}

export interface PageReaderOptions {
  /** Most pages that are read at once; others wait for their turn. */
  threads: number;
  /** Longest time for a page, in milliseconds. */
  timeout: number;
}

const mostWaiting = 100;
const threadFile = new URL('./readable-page-thread.ts', import.meta.url);

export function createPageReader(options: PageReaderOptions): PageReader {
  let reading = 0;
  const waiting: (() => void)[] = [];

  const takeTurn = async (): Promise<void> => {
    if (reading < options.threads) {
      reading += 1;
      return;
    }
    if (waiting.length >= mostWaiting) {
      throw new DomainError('TOOL_FAILED', 'Too many pages are being read. Try again later.');
    }
    await new Promise<void>((resolve) => waiting.push(resolve));
  };
  /** Hands the turn to the next in line. */
  const endTurn = (): void => {
    const next = waiting.shift();
    if (next === undefined) {
      reading -= 1;
    } else {
      next();
    }
  };

  return {
    read: async (html, url, signal) => {
      await takeTurn();
      try {
        signal.throwIfAborted();
        return await readInThread(html, url, options.timeout, signal);
      } finally {
        endTurn();
      }
    },
  };
}

async function readInThread(html: string, url: string, timeout: number, signal: AbortSignal): Promise<ReadablePage> {
  const thread = new Worker(threadFile, {
    workerData: { html, url },
    resourceLimits: { maxOldGenerationSizeMb: 192, stackSizeMb: 4 },
    // It gets nothing of this process: no settings, no output.
    env: {},
    execArgv: [],
    stdout: true,
    stderr: true,
  });
  const { promise, resolve, reject } = Promise.withResolvers<ReadablePage>();
  const fail = (cause?: unknown): void =>
    reject(new DomainError('TOOL_FAILED', 'The page can not be read.', { cause }));
  const timer = setTimeout(() => fail(new Error('it took too long')), timeout);
  const stop = (): void => reject(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  thread.once('message', resolve);
  thread.once('error', fail);
  thread.once('exit', () => fail(new Error('the thread ended')));
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
    await thread.terminate();
  }
}
