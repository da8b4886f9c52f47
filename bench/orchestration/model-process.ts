import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { listen } from '../../dev/listen.ts';
import { runChild } from '../child.ts';
import { type ModelCall, machineTime, newestMark, answer as pace } from './settings.ts';

// A model that does nothing but take its time, and knows exactly how long it took. The plan is always the same: two tasks
// at once, and one that needs both.

runChild<null, { url: string }>(async () => {
  let calls: ModelCall[] = [];
  const server = createServer((request, response) => {
    answer(request, response)
      .then((call) => calls.push(call))
      .catch((error: unknown) => response.destroy(error instanceof Error ? error : undefined));
  });
  const { origin } = await listen(server);
  return {
    ready: { url: `${origin}/v1` },
    commands: {
      /** What was asked since the last time. */
      take: () => {
        const taken = calls;
        calls = [];
        return taken;
      },
    },
    stop: async () => {
      server.close();
      server.closeAllConnections();
    },
  };
});

async function answer(request: IncomingMessage, response: ServerResponse): Promise<ModelCall> {
  const start = machineTime();
  const parts: Buffer[] = [];
  for await (const part of request as AsyncIterable<Buffer>) {
    parts.push(part);
  }
  const body = Buffer.concat(parts).toString('utf8');
  const mark = newestMark(body);
  const { response_format: format } = JSON.parse(body) as { response_format?: unknown };
  const text = format === undefined ? 'Some words of the team [Researcher]. ' : JSON.stringify(planOf(mark));
  await sleep(pace.earliest + Math.random() * (pace.latest - pace.earliest));
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const { tokens } = pace;
  const { promise: told, resolve: tell } = Promise.withResolvers<void>();
  let token = 0;
  const step = (): void => {
    if (token === tokens) {
      tell();
      return;
    }
    const from = Math.floor((text.length * token) / tokens);
    token += 1;
    response.write(
      frame(`{"content":${JSON.stringify(text.slice(from, Math.floor((text.length * token) / tokens)))}}`, 'null'),
    );
    setTimeout(step, pace.between);
  };
  step();
  await told;
  response.write(frame('{}', '"stop"'));
  const usage = { prompt_tokens: 100, completion_tokens: tokens, total_tokens: 100 + tokens };
  response.write(`data: ${head},"choices":[],"usage":${JSON.stringify(usage)}}\n\n`);
  response.end('data: [DONE]\n\n');
  return { mark, start, end: machineTime() };
}

const head = '{"id":"x","object":"chat.completion.chunk","created":0,"model":"timed"';

/** A piece of an answer as it stands on the wire. It is put together by hand: a model shall take little of the machine. */
function frame(delta: string, reason: string): string {
  return `data: ${head},"choices":[{"index":0,"delta":${delta},"finish_reason":${reason}}],"usage":null}\n\n`;
}

function planOf(mark: string): unknown {
  const task = (key: string, agent: string, dependsOn: string[]) => ({
    key,
    agent,
    instruction: `Do part ${key} of ${mark}.`,
    dependsOn,
    why: 'It is needed.',
  });
  return { tasks: [task('a', 'Researcher', []), task('b', 'Coder', []), task('c', 'Writer', ['a', 'b'])] };
}
