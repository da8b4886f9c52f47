import { Agent, request } from 'node:http';
import { runChild } from './child.ts';
import { percentile } from './harness.ts';
import type { LoadOptions, LoadResult } from './load.ts';

const requestDeadline = 30_000;

runChild(async () => ({ ready: null, commands: { load: runLoad }, stop: async () => undefined }));

/** Keeps every connection busy until the time is over or all requests were sent. @throws Error at the first bad answer */
async function runLoad(options: LoadOptions): Promise<LoadResult> {
  const agent = new Agent({ keepAlive: true, maxSockets: options.connections });
  const url = new URL(options.url);
  const latencies: number[] = [];
  const start = performance.now();
  const end = 'seconds' in options.until ? start + options.until.seconds * 1_000 : Number.POSITIVE_INFINITY;
  let left = 'requests' in options.until ? options.until.requests : Number.POSITIVE_INFINITY;
  let place = 0;
  const connection = async (): Promise<void> => {
    while (left > 0 && performance.now() < end) {
      left -= 1;
      const next = options.requests[place % options.requests.length];
      place += 1;
      if (next === undefined) {
        throw new Error('there are no requests to send');
      }
      const sent = performance.now();
      await send(agent, url, next);
      latencies.push(performance.now() - sent);
    }
  };
  try {
    await Promise.all(Array.from({ length: options.connections }, connection));
    const seconds = (performance.now() - start) / 1_000;
    return { requests: latencies.length, seconds, p50: percentile(latencies, 0.5), p99: percentile(latencies, 0.99) };
  } finally {
    agent.destroy();
  }
}

function send(agent: Agent, url: URL, next: LoadOptions['requests'][number]): Promise<void> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      url,
      {
        agent,
        method: 'POST',
        timeout: requestDeadline,
        headers: {
          'content-type': 'application/json',
          accept: 'application/json',
          authorization: `Bearer ${next.token}`,
          'content-length': Buffer.byteLength(next.body),
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const body = Buffer.concat(chunks);
          if (response.statusCode === 200 && !body.includes('"errors":')) {
            resolve();
          } else {
            reject(new Error(`bad answer: ${response.statusCode} ${body.toString('utf8').slice(0, 500)}`));
          }
        });
      },
    );
    outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer in ${requestDeadline} ms`)));
    outgoing.on('error', reject);
    outgoing.end(next.body);
  });
}
