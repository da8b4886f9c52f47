import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { Agent, createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { json } from 'node:stream/consumers';
import { createParser } from 'eventsource-parser';
import pg from 'pg';
import { listen } from '../../dev/listen.ts';
import { runChild } from '../child.ts';
import { type FloorSettings, mostAtOnce } from './settings.ts';

const insert = {
  name: 'store',
  text: 'INSERT INTO floor_messages (id, sender, role, content) VALUES ($1, $2, $3, $4)',
};

/** What the senders ask, as far as this server looks at it. */
interface Asked {
  variables: { input?: { content: string } };
}

// The least that serves the same senders: one process that stores a message, asks the model, stores the answer and tells of
// it. Two commits of a row each, and nothing else: no GraphQL, no sign-in, no isolation, no queue, no second process.
runChild<FloorSettings, { url: string }>(async ({ databaseUrl, modelUrl }) => {
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 20 });
  const agent = new Agent({ keepAlive: true, maxSockets: mostAtOnce });
  const streams = new Map<string, ServerResponse>();
  // Senders give up a stream that is silent for a minute.
  const heartbeat = setInterval(() => {
    for (const stream of streams.values()) {
      stream.write(':\n\n');
    }
  }, 15_000);

  const answer = async (asking: IncomingMessage, response: ServerResponse): Promise<void> => {
    const sender = asking.headers.authorization ?? '';
    if (asking.headers.accept === 'text/event-stream') {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      response.write(':\n\n');
      streams.set(sender, response);
      return;
    }
    const { variables } = (await json(asking)) as Asked;
    const content = variables.input?.content;
    const id = randomUUID();
    if (content !== undefined) {
      await pool.query({ ...insert, values: [id, sender, 'USER', content] });
    }
    const data = {
      agents: { edges: [{ node: { id } }] },
      createSession: { session: { id } },
      sendMessage: { task: { id }, message: { plan: null } },
    };
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ data }));
    if (content !== undefined) {
      const text = await askModel(new URL(`${modelUrl}/chat/completions`), agent, content);
      await pool.query({ ...insert, values: [randomUUID(), sender, 'AGENT', text] });
      const told = { data: { events: { taskId: id } } };
      streams.get(sender)?.write(`event: next\ndata: ${JSON.stringify(told)}\n\n`);
    }
  };

  const server = createServer((asking, response) => {
    // A sender that waits for what failed gives up by itself, and says so.
    answer(asking, response).catch((error: unknown) =>
      response.destroy(error instanceof Error ? error : new Error('no answer')),
    );
  });
  const { origin } = await listen(server);
  return {
    ready: { url: `${origin}/` },
    commands: {},
    stop: async () => {
      clearInterval(heartbeat);
      server.close();
      server.closeAllConnections();
      agent.destroy();
      await pool.end();
    },
  };
});

/** Reads the streamed answer piece by piece, as whoever shows it has to. */
async function askModel(url: URL, agent: Agent, content: string): Promise<string> {
  const body = JSON.stringify({ model: 'timed', stream: true, messages: [{ role: 'user', content }] });
  const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
  const outgoing = request(url, { agent, method: 'POST', headers, timeout: 30_000 });
  outgoing.on('timeout', () => outgoing.destroy(new Error('the model fell silent')));
  outgoing.end(body);
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  let text = '';
  const parser = createParser({
    onEvent: ({ data }) => {
      if (data !== '[DONE]') {
        const chunk = JSON.parse(data) as { choices: { delta: { content?: string } }[] };
        text += chunk.choices[0]?.delta.content ?? '';
      }
    },
  });
  response.setEncoding('utf8');
  response.on('data', (part: string) => parser.feed(part));
  await once(response, 'end');
  return text;
}
