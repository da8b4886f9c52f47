import { createServer, type ServerResponse } from 'node:http';
import { listen } from '../../dev/listen.ts';
import { runChild } from '../child.ts';
import { measureMemory } from './memory.ts';
import { type LiveMessage, liveTopic, openRedis, subjectOf, tellEvent } from './message.ts';
import type { ServerReady, ServerSettings } from './settings.ts';

// The floor: no GraphQL, no log, no limits; a plain server that writes the same bytes to each response.
runChild<ServerSettings, ServerReady>(async (settings) => {
  const subscriber = openRedis(settings.redisUrl);
  const responses = new Map<string, Set<ServerResponse>>();
  subscriber.on('message', (topic: string, text: string) => {
    const message = JSON.parse(text) as LiveMessage;
    for (const event of 'events' in message ? message.events : []) {
      const told = tellEvent(event);
      const frame = `event: next\ndata: ${JSON.stringify({ data: { events: told } })}\nid: ${told.cursor}\n\n`;
      for (const response of responses.get(topic) ?? []) {
        response.write(frame);
      }
    }
  });
  const server = createServer((request, response) => {
    const topic = liveTopic(subjectOf(request.headers.authorization));
    request.resume();
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
    const readers = responses.get(topic) ?? new Set();
    const subscribed = readers.size === 0 ? subscriber.subscribe(topic) : Promise.resolve();
    responses.set(topic, readers.add(response));
    response.once('close', () => readers.delete(response));
    subscribed.then(
      () => response.write(':\n\n'),
      () => response.destroy(),
    );
  });
  const { origin } = await listen(server, { backlog: 4_096 });
  return {
    ready: { url: `${origin}/graphql` },
    commands: { memory: measureMemory },
    stop: async () => {
      server.close();
      server.closeAllConnections();
      subscriber.disconnect();
    },
  };
});
