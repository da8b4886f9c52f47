import { createServer } from 'node:http';
import { RedisPubSub } from 'graphql-redis-subscriptions';
import { createSchema, createYoga } from 'graphql-yoga';
import { listen } from '../../dev/listen.ts';
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
  const { origin } = await listen(server, { backlog: 4_096 });
  return {
    ready: { url: `${origin}/graphql` },
    commands: { memory: measureMemory },
    stop: async () => {
      server.close();
      server.closeAllConnections();
      publisher.disconnect();
      subscriber.disconnect();
    },
  };
});
