import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { RedisPubSub } from 'graphql-redis-subscriptions';
import { createSchema, createYoga } from 'graphql-yoga';
import { runChild } from '../child.ts';
import { measureMemory } from './memory.ts';
import { type LiveMessage, liveTopic, openRedis, subjectOf, type ToldEvent, tellEvent } from './message.ts';
import type { ServerReady, ServerSettings } from './settings.ts';

const typeDefs = /* GraphQL */ `
  interface Event { cursor: String! at: String! }
  type TaskProgress implements Event { cursor: String! at: String! taskId: ID! progress: Float! note: String! }
  type Query { ok: Boolean! }
  type Subscription { events: Event! }
`;

// GraphQL Yoga's own subscriptions over graphql-redis-subscriptions, as their documentation shows them.
runChild<ServerSettings, ServerReady>(async (settings) => {
  const publisher = openRedis(settings.redisUrl);
  const subscriber = openRedis(settings.redisUrl);
  const engine = new RedisPubSub({ publisher, subscriber });

  async function* follow(userId: string): AsyncGenerator<ToldEvent> {
    for await (const message of engine.asyncIterableIterator<LiveMessage>(liveTopic(userId))) {
      for (const event of 'events' in message ? message.events : []) {
        yield tellEvent(event);
      }
    }
  }
  const yoga = createYoga({
    logging: false,
    schema: createSchema({
      typeDefs,
      resolvers: {
        Subscription: {
          events: {
            subscribe: (_root: unknown, _arguments: unknown, context: { request: Request }) =>
              follow(subjectOf(context.request.headers.get('authorization') ?? undefined)),
            resolve: (event: ToldEvent) => event,
          },
        },
      },
    }),
  });
  const server = createServer((request, response) => void yoga(request, response));
  server.listen(0, '127.0.0.1', 4_096);
  await once(server, 'listening');
  return {
    ready: { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/graphql` },
    commands: { memory: measureMemory },
    stop: async () => {
      server.close();
      server.closeAllConnections();
      publisher.disconnect();
      subscriber.disconnect();
    },
  };
});
