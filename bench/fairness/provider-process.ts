import { createServer, type IncomingMessage } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { listen } from '../../dev/listen.ts';
import { runChild } from '../child.ts';
import { limits, promptTokens } from './scenario.ts';

/** What the provider saw. */
export interface ProviderCounts {
  answered: number;
  refused: number;
  tokens: number;
}

/** How long an answer takes, in milliseconds. */
const answerTime = 30;

// A provider with a hard limit over a sliding window: what exceeds it is refused with 429, whoever asks.
runChild<null, { url: string }>(async () => {
  let admitted: { at: number; tokens: number }[] = [];
  let counts: ProviderCounts = { answered: 0, refused: 0, tokens: 0 };
  const server = createServer(async (request, response) => {
    const now = performance.now();
    const { messages } = JSON.parse(await readText(request)) as { messages: { content: string }[] };
    // Callers say how long an answer they want.
    const answer = Number(messages.at(-1)?.content);
    const tokens = promptTokens + answer;
    admitted = admitted.filter(({ at }) => at > now - limits.window);
    const used = admitted.reduce((sum, one) => sum + one.tokens, 0);
    if (admitted.length + 1 > limits.requests || used + tokens > limits.tokens) {
      counts.refused += 1;
      const first = admitted[0]?.at ?? now;
      const seconds = Math.max(1, Math.ceil((first + limits.window - now) / 1_000));
      response.writeHead(429, { 'retry-after': String(seconds), 'content-type': 'application/json' });
      response.end(JSON.stringify({ error: { message: 'Rate limit reached.', code: 'rate_limit_exceeded' } }));
      return;
    }
    admitted.push({ at: now, tokens });
    await sleep(answerTime);
    counts.answered += 1;
    counts.tokens += tokens;
    const chunk = (rest: object): string =>
      `data: ${JSON.stringify({ id: 'c', object: 'chat.completion.chunk', created: 0, model: 'bench', ...rest })}\n\n`;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(
      chunk({ choices: [{ index: 0, delta: { content: 'done' }, finish_reason: 'stop' }] }) +
        chunk({
          choices: [],
          usage: { prompt_tokens: promptTokens, completion_tokens: answer, total_tokens: tokens },
        }) +
        'data: [DONE]\n\n',
    );
  });
  const { origin } = await listen(server);
  return {
    ready: { url: `${origin}/v1` },
    commands: {
      /** Hands over the counts since the last time. */
      counts: (): ProviderCounts => {
        const counted = counts;
        counts = { answered: 0, refused: 0, tokens: 0 };
        return counted;
      },
      /** Forgets what was used, as a minute without a call does. */
      forget: (): void => {
        admitted = [];
        counts = { answered: 0, refused: 0, tokens: 0 };
      },
    },
    stop: async () => {
      server.close();
      server.closeAllConnections();
    },
  };
});

async function readText(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request as AsyncIterable<Buffer>) {
    parts.push(part);
  }
  return Buffer.concat(parts).toString('utf8');
}
